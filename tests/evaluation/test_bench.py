"""``fairseq-dsp bench``: what it measures, in which order, what it writes and refuses."""

from __future__ import annotations

import json
import multiprocessing
import threading
import time
from types import SimpleNamespace

import pytest
import support
import torch

from fairseq_dsp import extras
from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation import measuring
from fairseq_dsp.evaluation.runners import EngineRunner, load

QUICK = ("--runs", "3", "--length", "4", "--beam", "2", "--threads", "1")


@pytest.fixture(scope="module")
def models(train_tiny, tmp_path_factory):
    """The checkpoint of a run that keeps 5 of 12 heads, and the compact one made of it."""
    folder = tmp_path_factory.mktemp("bench")
    train_tiny(folder, "--heads-to-keep", 5, "--max-update", 2, arch="transformer_dsp")
    assert main(["compact", str(folder / "checkpoint_last.pt"), str(folder / "compact.pt")]) == 0
    assert main(["export-fairseq", str(folder / "checkpoint_last.pt"), str(folder / "stock.pt")]) == 0
    return [str(folder / name) for name in ("stock.pt", "checkpoint_last.pt", "compact.pt")]


def test_table_json_and_picture(models, tmp_path, capsys):
    out = tmp_path / "out"
    settings = ("--batch-sizes", "1", "3", "--precisions", "float32", "bfloat16", "--no-memory", "--profile")
    assert main(["bench", *models, *QUICK, *settings, "--output", str(out)]) == 0
    printed = capsys.readouterr().out
    assert sorted(file.name for file in out.iterdir()) == ["bench.json", "bench.md", "bench.png"]
    assert (out / "bench.md").read_text() == printed
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    report = json.loads((out / "bench.json").read_text())
    assert report["machine"]["threads"] == 1
    results = report["results"]
    assert [(r["precision"], r["batch"]) for r in results[::3]] == [
        ("float32", 1), ("float32", 3), ("bfloat16", 1), ("bfloat16", 3)
    ]  # fmt: skip
    for stock, pruned, compact in zip(results[::3], results[1::3], results[2::3], strict=True):
        assert [stock["model"], pruned["model"], compact["model"]] == models
        assert stock["ratio"] == 1
        # a pruned checkpoint loses its heads when it is prepared to generate
        assert stock["parameters"] > pruned["parameters"] == compact["parameters"]
        assert stock["flops"] > pruned["flops"] == compact["flops"]
        for r in (stock, pruned, compact):
            assert r["bytes"] == r["parameters"] * (4 if r["precision"] == "float32" else 2)
            assert r["runs"] == len(r["times"]) == 3
            assert r["median"] <= r["p95"]
            assert set(r["parts"]) == set(measuring.PARTS)
            assert r["tokens_per_second"] == pytest.approx(4 * r["sentences_per_second"])
    header = printed.splitlines()[0]
    for column in ("sentences/s", "tokens/s", "p50 ms", "p95 ms", "runs", "spread", "GFLOPs/sentence", "parameters"):
        assert column in header
    assert "feed-forward, ms" in printed


class Recorder:
    """Runs nothing, but writes down which batch it was given."""

    parameters = type = None
    bytes = 1

    def __init__(self, turns, name=""):
        self.turns, self.name = turns, name

    def batch(self, size, length):
        return size

    def __call__(self, batch):
        self.turns.append((self.name, batch))


def test_models_take_turns():
    turns = []
    ticks = iter(range(1000))
    results = measuring.measure(
        {name: Recorder(turns, name) for name in "ab"}, [1, 2], 25, 2, clock=lambda: float(next(ticks))
    )  # fmt: skip
    assert turns == [(name, size) for size in (1, 2) for _ in range(3) for name in "ab"]
    assert [r.times for r in results] == [[1.0, 1.0]] * 4


def test_spread_and_percentiles():
    times = [1.0, 2.0, 3.0, 4.0, 5.0]
    result = measuring.Result("m", "cpu", "float32", "float32", 2, 10, 5, 1, 1, 1, 1, times)
    assert (result.median, result.p95, result.spread) == (3, 5, 2 / 3)
    assert result.sentences_per_second == pytest.approx(2 / 3)
    assert result.tokens_per_second == pytest.approx(20 / 3)
    result.times = times[:2]
    assert result.spread == pytest.approx(0.5 / 1.5)


def test_the_engine_runs_beside_fairseq(models, tiny_data, capsys):
    pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")
    folder = models[0] + ".engine"
    export = ("--data", str(tiny_data), "--quantization", "int8")
    assert main(["export-ctranslate2", models[2], folder, *export]) == 0
    assert main(["bench", models[2], folder, *QUICK, "--batch-sizes", "2", "--no-memory"]) == 0
    assert f"| {folder} | cpu | int8_float32 | 2 |" in capsys.readouterr().out


def test_engines_that_cannot_be_measured(models, tiny_data, tmp_path, capsys):
    pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")
    folder = tmp_path / "engine"
    assert main(["export-ctranslate2", models[2], str(folder), "--data", str(tiny_data)]) == 0

    def refused(*arguments):
        assert main(["bench", str(folder), *QUICK, "--no-memory", *arguments]) == 1
        return capsys.readouterr().err.strip().splitlines()[-1]

    told = f"--length is 1100, but the model in {folder} takes 1023 subwords at most"
    assert told in refused("--length", "1100")
    weights = folder / "model.bin"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    assert f"cannot load {folder} on the device cpu" in refused()
    weights.write_bytes(whole)
    for vocabulary in folder.glob("*_vocabulary.json"):
        vocabulary.unlink()
    assert "export the model again" in refused()


def test_memory_of_a_gpu_is_of_the_model_alone(models, monkeypatch):
    calls = []

    def gpu(name, value=None):
        monkeypatch.setattr(torch.cuda, name, lambda device: calls.append((name, device)) or value)

    runner = load(models[2], 2, 4, "cpu", "float32")
    joined = [b for name, b in runner.model.named_buffers() if "_joined" in name]  # of which the projections are parts
    assert joined
    own = sum(4 * p.numel() for p in [*runner.model.parameters(), *runner.model.buffers()])
    own -= sum(4 * b.numel() for b in joined)
    gpu("reset_peak_memory_stats")
    gpu("memory_allocated", 10_000_000)  # of all models
    gpu("max_memory_allocated", 10_000_500)
    result, other = measuring.measure({"model": runner, "engine": Recorder([])}, [1], 4, 1, device="cuda:1")
    assert (result.peak_memory, other.peak_memory) == (own + 500, None)
    assert calls == [(n, "cuda:1") for n in ("reset_peak_memory_stats", "memory_allocated", "max_memory_allocated")]


def test_an_engine_gets_the_gpu_and_a_vocabulary(monkeypatch, tmp_path):
    given = {}

    def translator(_, **options):
        given.update(options)
        return SimpleNamespace(compute_type="float32")

    (tmp_path / "model.bin").touch()
    (tmp_path / "shared_vocabulary.json").write_text("[]")
    monkeypatch.setattr(extras, "ctranslate2", lambda: SimpleNamespace(Translator=translator))
    for device, index in (("cuda:1", 1), ("cuda", 0), ("cpu", 0)):
        EngineRunner(tmp_path, 1, 4, device)
        assert (given["device"], given["device_index"]) == (device.partition(":")[0], index)
    (tmp_path / "shared_vocabulary.json").unlink()
    with pytest.raises(UserError, match="has neither source_vocabulary"):
        EngineRunner(tmp_path, 1, 4, "cpu")


def test_the_profile_of_an_adaptive_softmax(tiny_data, tmp_path):
    support.train_adaptive(tiny_data, tmp_path, "--heads-to-keep", 5, arch="transformer_dsp")
    command = ["bench", str(tmp_path / "checkpoint_last.pt"), *QUICK, "--batch-sizes", "1", "--no-memory", "--profile"]
    assert main([*command, "--output", str(tmp_path / "out")]) == 0
    parts = json.loads((tmp_path / "out/bench.json").read_text())["results"][0]["parts"]
    assert parts["vocabulary"] == 0 < parts["the rest"]


@pytest.mark.slow
def test_peak_memory_is_of_the_model_alone(models):
    ballast = torch.ones(250_000_000)  # 1 GB in this process
    peak = measuring.peak_memory(models[2], 1, 2, 4, "cpu", "float32")
    assert 1e8 < peak < 4 * ballast.numel()


@pytest.mark.slow
def test_a_killed_measurement_of_memory_loses_nothing_else(models, caplog):
    others = multiprocessing.active_children()  # the warm interpreter of other tests

    def kill() -> None:
        while not (measuring_it := [child for child in multiprocessing.active_children() if child not in others]):
            time.sleep(0.05)
        measuring_it[0].kill()

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    assert measuring.peak_memory(models[2], 1, 2, 4, "cpu", "float32") is None
    killer.join()
    assert f"the memory of {models[2]} in batches of 1 was killed" in caplog.text


def test_embeddings_of_a_file_that_is_gone(models, tmp_path):
    state = torch.load(models[1])
    state["cfg"]["model"].encoder_embed_path = state["cfg"]["model"].decoder_embed_path = "/nowhere/embeddings.txt"
    torch.save(state, tmp_path / "from-file.pt")
    assert load(str(tmp_path / "from-file.pt"), 2, 4, "cpu", "float32").parameters


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["{model}", "--runs", "0"], "--runs is 0"),
        (["{model}", "--batch-sizes", "1", "0"], "--batch-sizes is 0"),
        (["{model}", "{model}"], "is given twice"),
        (["{model}", "--devices", "nowhere"], "cannot use the device nowhere"),
        (["{folder}/none.pt"], "does not exist"),
        (["{folder}"], "is not a CTranslate2 model"),
        (["{folder}/other.pt"], "cannot be built"),
        (["{model}", "--length", "1"], "leaves a sentence its end alone: give 2 or more"),
        (["{model}", "--length", "1024"], "takes 1023 subwords at most: give --length 1023 or less"),
        (["{model}", "--output", "{folder}"], "exists already"),
        (["{model}", "--output", "{folder}/nowhere/out"], "there is no folder"),
    ],
)
def test_bad_input(models, tmp_path, capsys, arguments, sentence):
    state = torch.load(models[0])
    state["model"] = {"weight": torch.zeros(1)}
    torch.save(state, tmp_path / "other.pt")
    given = [argument.format(model=models[0], folder=tmp_path) for argument in arguments]
    assert main(["bench", *given]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("fairseq-dsp bench: ")
    assert sentence in error
    assert [file.name for file in tmp_path.iterdir()] == ["other.pt"]


def test_copies_of_an_embedding_count_once(train_tiny, tmp_path):
    """As averages leave them."""
    train_tiny(tmp_path, "--max-update", 1, "--share-decoder-input-output-embed", arch="transformer_dsp")
    path = tmp_path / "checkpoint_last.pt"
    state = torch.load(path)
    weights = state["model"]
    shared = [name for name in weights if name in ("decoder.embed_tokens.weight", "decoder.output_projection.weight")]
    left_out = {*shared[1:], "encoder.version", "decoder.version"}
    read = [name for name in weights if name not in left_out and "_float_tensor" not in name and name[:6] != "heads."]
    expected = 4 * sum(weights[name].numel() for name in read)
    for name in shared:
        weights[name] = weights[name].clone()
    torch.save(state, tmp_path / "average.pt")
    assert len(shared) == 2
    assert load(str(tmp_path / "average.pt"), 2, 4, "cpu", "float32").bytes == expected


def test_memory_that_modules_share_counts_once():
    model = torch.nn.Linear(4, 3)
    model.register_buffer("joined", model.weight.detach())  # as the projections of several heads in one matrix
    model.register_buffer("part", model.weight.detach()[1:])
    assert measuring._held(SimpleNamespace(model=model)) == 4 * (12 + 3)
