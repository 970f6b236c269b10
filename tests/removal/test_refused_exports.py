"""What an export cannot carry: it says so, and leaves nothing behind."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import pytest
import support
import torch

from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError
from fairseq_dsp.removal import ctranslate2_spec, export_check, export_ctranslate2
from fairseq_dsp.removal.checkpoint import TrainedModel
from fairseq_dsp.removal.data_bin import task_of
from fairseq_dsp.removal.export_check import check_read, check_same, log_probabilities, original, sentences

EXPORTS = ("compact", "export-fairseq", "export-folder", "export-ctranslate2")


@pytest.fixture
def export(tmp_path, tiny_data, capsys):
    """``export(NAME, CHECKPOINT)`` gives status and what was said on standard error; the result is ``out``."""

    def export(name, checkpoint):
        data = () if name in ("compact", "export-fairseq") else ("--data", str(tiny_data))
        (tmp_path / "to").mkdir(exist_ok=True)
        status = main([name, str(checkpoint), str(tmp_path / "to" / "out"), *data])
        error = capsys.readouterr().err
        if status:
            assert len(error.strip().splitlines()) == 1
            assert os.listdir(tmp_path / "to") == []
        return status, error

    return export


def altered(path, out, change):
    """Write the checkpoint *path* with other weights to *out*."""
    state = torch.load(path)
    change(state["model"])
    torch.save(state, out)
    return out


@pytest.mark.parametrize("name", ["export-folder", "export-ctranslate2"])
@pytest.mark.parametrize("kind", [[], ["--bpe", "none"]])
def test_a_subword_model_without_its_kind(compact, tiny_data, tmp_path, capsys, name, kind):
    (tmp_path / "codes").write_text("#version: 0.2\n")
    words = ["--data", str(tiny_data), "--bpe-model", str(tmp_path / "codes"), *kind]
    assert main([name, str(compact), str(tmp_path / "out"), *words]) == 1
    assert "is given, but not what kind of subwords it has: give --bpe too, one of " in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", EXPORTS)
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_weights_that_are_no_numbers(export, pruned, tmp_path, name, value):
    weight = "decoder.layers.0.fc1.weight"
    bad = altered(pruned, tmp_path / "bad.pt", lambda model: model[weight][3, 3].fill_(value))
    status, error = export(name, bad)
    assert status == 1
    assert f"{weight} in the checkpoint {bad} holds a NaN or an infinity" in error


def test_compact_weights_that_are_no_numbers(export, compact, tmp_path):
    weight = "decoder.layers.0.encoder_attn.k_proj.weight"
    bad = altered(compact, tmp_path / "bad.pt", lambda model: model[weight].fill_(float("nan")))
    for name in EXPORTS[1:]:
        status, error = export(name, bad)
        assert status == 1
        assert f"{weight} in the checkpoint" in error


def test_every_weight_has_a_place_in_the_engine(pruned, tiny_data):
    pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")
    model = TrainedModel.read(str(pruned))
    task = task_of(model, str(tiny_data))
    network = original(model, task)
    network.decoder.layers[1].w_resid = torch.nn.Parameter(torch.ones(16))
    with pytest.raises(
        UserError, match=r"does not support the parameters decoder\.layers\.1\.w_resid of .*: use fairseq-dsp export"
    ):
        ctranslate2_spec.specification(model, network, task)


def test_another_computation_is_noticed(pruned, tiny_data, tmp_path, monkeypatch, export):
    """The engine is told the wrong activation function, and the folder is given another model's weights."""
    pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")
    monkeypatch.setitem(ctranslate2_spec.ACTIVATIONS, "relu", "GELU")
    status, error = export("export-ctranslate2", pruned)
    assert status == 1
    assert "CTranslate2 does not compute what the trained model computes (a log-probability differs" in error
    monkeypatch.setattr(export_check, "original", lambda model, task: original(model, task).half().float())
    assert export("export-folder", pruned)[0] == 0  # rounding
    (tmp_path / "to" / "out").rename(tmp_path / "kept")
    other = altered(pruned, tmp_path / "other.pt", lambda model: model["decoder.layers.1.fc2.bias"][0].add_(1))
    monkeypatch.setattr(export_check, "original", lambda model, task: original(TrainedModel.read(str(other)), task))
    status, error = export("export-folder", pruned)
    assert status == 1
    assert "the folder does not compute what the trained model computes" in error


def test_another_dictionary_is_noticed(pruned, tiny_data):
    model = TrainedModel.read(str(pruned))
    task, read = task_of(model, str(tiny_data)), task_of(model, str(tiny_data))
    network = original(model, task)
    check_read(network, read, model, task)
    words = read.target_dictionary
    words.symbols[7], words.symbols[8] = words.symbols[8], words.symbols[7]
    with pytest.raises(UserError, match=r"the target dictionary of .* changes"):
        check_read(network, read, model, task)


def test_what_counts_as_the_same():
    check_same([1.0, 2.0005], [1.0, 2.0], "it")
    check_same([1.0, 5.0], [1.0, 2.0], "it", float("inf"))
    for found in ([1.0, 2.1], [float("nan"), 2.0], [1.0, float("-inf")]):
        with pytest.raises(UserError, match="it does not compute what the trained model computes"):
            check_same(found, [1.0, 2.0], "it")
    for found in (float("nan"), float("-inf")):
        with pytest.raises(UserError, match="it does not compute what the trained model computes"):
            check_same([found], [1.0], "it", float("inf"))


def test_an_engine_that_is_too_old(export, pruned, monkeypatch):
    spec = pytest.importorskip("ctranslate2.specs.transformer_spec", reason="the extra ctranslate2 is not installed")
    monkeypatch.setattr(spec.TransformerEncoderSpec, "__init__", lambda self, num_layers, num_heads: None)
    status, error = export("export-ctranslate2", pruned)
    assert status == 1
    assert "pip install 'ctranslate2>=4.6.3'" in error


@pytest.mark.parametrize("quantization", export_ctranslate2.QUANTIZATIONS)
def test_quantised_models_without_heads(pruned, tiny_data, tmp_path, quantization):
    ctranslate2 = pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")
    model = TrainedModel.read(str(pruned), heads_to_keep=0)
    task = task_of(model, str(tiny_data))
    export_ctranslate2.convert(model, task, tmp_path / "engine", quantization)
    pairs = sentences(task)
    reader = ctranslate2.Translator(str(tmp_path / "engine"), compute_type="float32")
    results = reader.score_batch([source for source, _ in pairs], [target for _, target in pairs])
    found = [score for result in results for score in result.log_probs]
    expected = log_probabilities(original(model, task), task, pairs)
    assert found == pytest.approx(expected, abs=0.2 if quantization.startswith("int8") else 0.02)


def test_the_engine_returns_the_attention_of_the_heads_kept(pruned, compact, tiny_data, tmp_path, load, caplog):
    ctranslate2 = pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")
    # one head of two in the last layer: the other one is padding
    assert main(["export-ctranslate2", str(compact), str(tmp_path / "engine"), "--data", str(tiny_data)]) == 0
    assert "alignments" not in caplog.text
    model, task = load(compact)
    (source, target), *_ = sentences(task)
    reader = ctranslate2.Translator(str(tmp_path / "engine"))
    (result,) = reader.translate_batch(
        [source], target_prefix=[target], return_attention=True, beam_size=1, max_decoding_length=len(target)
    )
    numbers = torch.tensor([[*map(task.source_dictionary.index, source), 2]])
    before = torch.tensor([[2, *map(task.target_dictionary.index, target)]])
    with torch.no_grad():
        _, extra = model(numbers, torch.tensor([numbers.shape[1]]), before)
    attention = torch.tensor(result.attention[0])
    torch.testing.assert_close(
        attention, extra["attn"][0][0, : len(attention), : attention.shape[1]], atol=1e-5, rtol=0
    )
    assert attention.std(1).max() > 1e-4  # not uniform


@pytest.mark.parametrize(
    ("name", "reader"), [("export-fairseq", "--print-alignment"), ("export-ctranslate2", "return_attention")]
)
def test_attention_without_heads_is_warned_of(export, pruned, name, reader, caplog, tmp_path):
    if "ctranslate2" in name:
        pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")

    def without_last(model):  # cross-attention, two heads a layer, is numbered last
        model["heads.importance"][-2:] = -9
        del model["heads.kept"]  # to be chosen by the importance

    bare = altered(pruned, tmp_path / "bare.pt", without_last)
    with caplog.at_level(logging.WARNING):
        assert export(name, bare)[0] == 0
    assert f"{bare} has no heads left in the last layer's cross-attention" in caplog.text
    assert reader in caplog.text


def test_subwords_that_cannot_be_read(pruned, tiny_data, tmp_path, capsys):
    (tmp_path / "pieces.model").write_text("no model of sentencepiece")
    given = ("--data", tiny_data, "--bpe", "sentencepiece", "--bpe-model", tmp_path / "pieces.model")
    assert main(["export-folder", str(pruned), str(tmp_path / "out"), *map(str, given)]) == 1
    assert "pieces.model" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["pieces.model"]


@pytest.mark.parametrize("learned", [(), ("--encoder-learned-pos", "--decoder-learned-pos")])
def test_few_positions_lose_no_batch_of_the_engine(train_tiny, tiny_data, tmp_path, capsys, learned):
    ctranslate2 = pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")
    few = ("--max-source-positions", 16, "--max-target-positions", 16, "--heads-to-keep", 5, *learned)
    train_tiny(tmp_path / "run", *few, "--max-update", 2, arch="transformer_dsp")
    path = str(tmp_path / "run" / "checkpoint_last.pt")
    assert main(["export-ctranslate2", path, str(tmp_path / "engine"), "--data", str(tiny_data)]) == 0
    assert "16 positions: translate with max_decoding_length=15" in capsys.readouterr().out
    reader = ctranslate2.Translator(str(tmp_path / "engine"), intra_threads=1)
    sources = [["ba", "bi", "bo"], ["da"] * 40, ["fo"] * 2000]  # the engine cuts the last one
    results = reader.translate_batch(sources, beam_size=1, min_decoding_length=60, max_decoding_length=60)
    assert [len(result.hypotheses[0]) for result in results] == [60] * 3
    # within the positions of the model, its own table
    model = TrainedModel.read(path)
    task = task_of(model, str(tiny_data))
    words = [(["ba", "fo", "di"] * 5, ["BA", "FO", "DI"] * 5)]
    (result,) = reader.score_batch([words[0][0]], [words[0][1]])
    assert result.log_probs == pytest.approx(log_probabilities(original(model, task), task, words), abs=1e-4)


@pytest.mark.slow
def test_the_engine_s_own_converter_reads_what_export_fairseq_wrote(pruned, tiny_data, tmp_path, run_fairseq):
    ctranslate2 = pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")
    assert main(["export-fairseq", str(pruned), str(tmp_path / "stock.pt")]) == 0
    tool = Path(sys.executable).with_name("ct2-fairseq-converter")
    given = ("--model_path", tmp_path / "stock.pt", "--data_dir", tiny_data, "--output_dir", tmp_path / "engine")
    support.run_command([tool, *given])  # in a process that allows no class but torch's own
    model = TrainedModel.read(str(pruned))
    task = task_of(model, str(tiny_data))
    pairs = sentences(task)
    reader = ctranslate2.Translator(str(tmp_path / "engine"))
    results = reader.score_batch([source for source, _ in pairs], [target for _, target in pairs])
    found = [score for result in results for score in result.log_probs]
    assert found == pytest.approx(log_probabilities(original(model, task), task, pairs), abs=1e-4)


MULTILINGUAL = (
    *("--task", "translation_multi_simple_epoch", "--lang-pairs", "xx-yy", "--langs", "xx,yy"),
    *("--encoder-langtok", "src", "--decoder-langtok"),
)


def test_multilingual_models(run_fairseq, prepared, tmp_path, capsys):
    data = support.make_tiny_data(tmp_path, "--joined-dictionary")
    flags = (*MULTILINGUAL, "--share-all-embeddings", "--heads-to-keep", 5, "--max-update", 10)
    run_fairseq("train", *support.tiny_train_args(data, tmp_path / "run", *flags, arch="transformer_dsp"))
    trained = tmp_path / "run" / "checkpoint_last.pt"

    def translated(path, *plugin):
        given = (*MULTILINGUAL, "-s", "xx", "-t", "yy", "--batch-size", 20, "--required-batch-size-multiple", 1)
        output = run_fairseq("generate", data, *plugin, "--path", path, *given, "--max-len-b", 20, "--cpu").stdout
        return [line for line in output.splitlines() if line.startswith("H-")]

    expected = translated(trained, "--user-dir", "fairseq_dsp")
    assert len(expected) == 20
    for name, plugin in (("compact", ("--user-dir", "fairseq_dsp")), ("export-fairseq", ())):
        assert main([name, str(trained), str(tmp_path / f"{name}.pt")]) == 0
        assert [line.split("\t")[2] for line in translated(tmp_path / f"{name}.pt", *plugin)] == [
            line.split("\t")[2] for line in expected
        ]
    for name, checkpoint in (
        ("export-folder", trained),
        ("export-folder", tmp_path / "compact.pt"),
        ("export-ctranslate2", trained),
        ("export-ctranslate2", tmp_path / "compact.pt"),
        ("evaluate", trained),
        ("evaluate", tmp_path / "compact.pt"),
        ("evaluate", tmp_path / "export-fairseq.pt"),
    ):
        if "ctranslate2" in name:
            pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")
        given = (
            (str(checkpoint), "--data", str(prepared))
            if name == "evaluate"
            else (str(checkpoint), str(tmp_path / "out"))
        )
        assert main([name, *given]) == 1
        error = capsys.readouterr().err.strip()
        assert "was trained with --task translation_multi_simple_epoch, but translation or" in error
        assert len(error.splitlines()) == 1
        assert not (tmp_path / "out").exists()
