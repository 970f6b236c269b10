"""``fairseq-dsp compact``: what it writes, what it computes, where fairseq takes it, what it refuses."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from fairseq_dsp.cli import main


def batch(task, size=8):
    task.load_dataset("test")
    data = task.dataset("test")
    return data.collater([data[i] for i in range(size)])


def translations(task, models, sample, beam=5):
    generator = task.build_generator(models, Namespace(beam=beam))
    found = task.inference_step(generator, models, sample)
    return [[(h["tokens"].tolist(), h["score"].item()) for h in hypotheses] for hypotheses in found]


def same(one, other):
    assert [[t for t, _ in h] for h in one] == [[t for t, _ in h] for h in other]
    torch.testing.assert_close(
        torch.tensor([s for h in one for _, s in h]), torch.tensor([s for h in other for _, s in h])
    )


def test_logits_are_those_of_the_masked_model(pruned, compact, load):
    masked, task = load(pruned)
    small, _ = load(compact)
    sample = batch(task)
    with torch.no_grad():
        expected, _ = masked(**sample["net_input"])
        actual, _ = small(**sample["net_input"])
    assert (actual - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_beam_search_finds_the_same(pruned, compact, load, beam):
    masked, task = load(pruned)  # not prepared: stock attention
    small, _ = load(compact)
    sample = batch(task, 20)
    expected = translations(task, [masked], sample, beam)
    same(translations(task, [small], sample, beam), expected)
    small.make_generation_fast_(need_attn=False)
    same(translations(task, [small], sample, beam), expected)
    masked.make_generation_fast_(need_attn=False)
    assert masked.encoder.layers[0].self_attn.removed
    same(translations(task, [masked], sample, beam), expected)


def test_ensemble_of_models_with_different_heads(pruned, compact, load):
    full, task = load(pruned, heads_to_keep=12)
    masked, _ = load(pruned)
    small, _ = load(compact)
    sample = batch(task)
    same(translations(task, [full, small], sample), translations(task, [full, masked], sample))


def test_parameters_of_removed_heads_are_gone(pruned, compact):
    full, small = torch.load(pruned)["model"], torch.load(compact)
    assert small["last_optimizer_state"] is None
    small = small["model"]
    assert not [key for key in small if "importance" in key]
    assert small["encoder.layers.0.self_attn.q_proj.weight"].shape == (8, 16)
    assert small["encoder.layers.0.self_attn.out_proj.weight"].shape == (16, 8)
    assert [key for key in small if "encoder.layers.1.self_attn." in key] == [
        "encoder.layers.1.self_attn.out_proj.bias"
    ]
    head = full["encoder.layers.0.self_attn.k_proj.weight"][8:]
    assert torch.equal(small["encoder.layers.0.self_attn.k_proj.weight"], head)


def test_saved_again_and_averaged_it_keeps_the_stock_names(compact, load):
    model, _ = load(compact)
    saved = torch.load(compact)["model"]
    state = model.state_dict()
    assert set(saved) == set(state)
    assert all(torch.equal(saved[key], state[key]) for key in saved)
    model.load_state_dict({key: (value + value) / 2 for key, value in state.items()})


def test_half_precision(pruned, compact, load):
    masked, task = load(pruned)
    small, _ = load(compact)
    small.half().make_generation_fast_(need_attn=False)
    sample = batch(task)
    found, expected = translations(task, [small], sample), translations(task, [masked], sample)
    agree = [f[0][0] == e[0][0] for f, e in zip(found, expected, strict=True)]
    assert sum(agree) >= len(agree) - 1  # halves may tie


def test_fairseq_takes_it_with_the_plugin_alone(compact, tiny_data, run_fairseq):
    common = ("--user-dir", "fairseq_dsp", "--path", compact, "--batch-size", 20)
    generated = run_fairseq("generate", tiny_data, *common, "--beam", 5, "--print-alignment").stdout
    assert generated.count("\nH-") == 20
    assert (
        "loss" in run_fairseq("validate", tiny_data, *common, "--valid-subset", "valid", "--task", "translation").stdout
    )


def test_training_goes_on_and_resumes(compact, train_tiny, tmp_path, load):
    flags = ("--kept-heads", compact.with_suffix(".heads.json"), "--compact")
    first = train_tiny(tmp_path, *flags, "--finetune-from-model", compact, "--max-update", 4, arch="transformer_dsp")
    assert "num_updates 4" in first.stdout
    again = train_tiny(tmp_path, *flags, "--max-update", 8, arch="transformer_dsp").stdout
    assert "num_updates 8" in again
    assert "Loaded checkpoint" in again
    model, _ = load(tmp_path / "checkpoint_last.pt")  # needs no file with the heads: they are in the checkpoint
    assert model.kept_heads.kept == 5


def test_mismatch_names_the_module(pruned, compact, train_tiny, tmp_path):
    heads = json.loads(compact.with_suffix(".heads.json").read_text())
    heads["decoder_self"] = [[1], [0]]
    file = tmp_path / "other.json"
    file.write_text(json.dumps({**heads, "kept": 6}))
    flags = ("--compact", "--kept-heads", file, "--finetune-from-model", compact)
    failed = train_tiny(tmp_path / "a", *flags, arch="transformer_dsp", check=False)
    assert failed.returncode != 0
    assert "decoder.layers.0.self_attn has 0 heads in the checkpoint, but 1 in this model" in failed.stdout


def test_alignment_without_heads_is_refused(pruned, load):
    model, _ = load(pruned, heads_to_keep=0)
    with pytest.raises(ValueError, match="no heads left: leave out --print-alignment"):
        model.make_generation_fast_(need_attn=True)


def refusal(capsys, *arguments):
    assert main(list(map(str, arguments))) == 1
    text = capsys.readouterr().err.strip().splitlines()[-1]
    assert text.startswith(f"fairseq-dsp {arguments[0]}: ")
    return text


def test_bad_input(pruned, compact, capsys, train_tiny, tmp_path):
    before = pruned.read_bytes()
    out = tmp_path / "out.pt"
    assert "none.pt cannot be read: No such file" in refusal(capsys, "compact", tmp_path / "none.pt", out)
    assert "compact already" in refusal(capsys, "compact", compact, out)
    assert "exists already" in refusal(capsys, "compact", pruned, compact)
    assert "there is no folder" in refusal(capsys, "compact", pruned, tmp_path / "nowhere" / "out.pt")
    assert "0 to 12" in refusal(capsys, "compact", pruned, out, "--heads-to-keep", 13)
    state = torch.load(pruned)
    model = state["cfg"]["model"]
    model.arch = model._name = "lstm"
    torch.save(state, tmp_path / "other.pt")
    assert "is of the architecture lstm" in refusal(capsys, "compact", tmp_path / "other.pt", out)
    model.arch, model._name, model.heads_to_keep = "transformer_dsp", "transformer_dsp", None
    torch.save(state, tmp_path / "unpruned.pt")
    assert "train with --heads-to-keep K" in refusal(capsys, "compact", tmp_path / "unpruned.pt", out)
    (tmp_path / "text.pt").write_text("no checkpoint")
    assert "text.pt" in refusal(capsys, "compact", tmp_path / "text.pt", out)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other.pt", "text.pt", "unpruned.pt"]
    assert pruned.read_bytes() == before


def test_no_heads_are_the_best_of_a_model_that_never_chose(train_tiny, prepared, capsys, tmp_path):
    """All have the importance they began with, and those with the lowest numbers would stay."""
    train_tiny(tmp_path / "run", "--max-update", 1, arch="transformer_dsp")
    path, out = tmp_path / "run/checkpoint_last.pt", tmp_path / "out"
    for command in ("compact", "export-fairseq", "export-folder", "export-ctranslate2"):
        said = refusal(capsys, command, path, out, "--heads-to-keep", 6)
        assert "it was trained without pruning, and all 12 heads have the same importance" in said
        assert "train with --heads-to-keep, or give --kept-heads FILE" in said
    assert "the same importance" in refusal(capsys, "heads", path, "--heads-to-keep", 6)
    assert "the same importance" in refusal(capsys, "evaluate", path, "--data", prepared, "--heads-to-keep", "12,6")
    assert not out.exists()
    assert main(["compact", str(path), str(tmp_path / "all.pt"), "--heads-to-keep", "12"]) == 0


def writing_commands(pruned, data, out):
    """Every command that writes a file or folder, asked to write *out*."""
    quick = ("--batch-sizes", 1, "--runs", 1, "--length", 2, "--beam", 1, "--no-memory")
    return {
        "compact": ("compact", pruned, out),
        "export-fairseq": ("export-fairseq", pruned, out),
        "export-folder": ("export-folder", pruned, out, "--data", data),
        "export-ctranslate2": ("export-ctranslate2", pruned, out, "--data", data),
        "heads, text": ("heads", pruned, "--output", out),
        "heads, json": ("heads", pruned, "--format", "json", "--output", out),
        "heads, png": ("heads", pruned, "--format", "png", "--output", out),
        "bench": ("bench", pruned, *quick, "--output", out),
    }


@pytest.fixture(params=list(writing_commands("", "", "")))
def writing(request, pruned, tiny_data):
    """``writing(OUT)`` gives the arguments of a command that writes."""
    if "ctranslate2" in request.param:
        pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")
    return lambda out: writing_commands(pruned, tiny_data, out)[request.param]


def test_full_disk_leaves_nothing(writing, pruned, capsys, tmp_path):
    before = pruned.read_bytes()
    old, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, old[1]))  # no file may be larger: writing fails midway
    try:
        text = refusal(capsys, *writing(tmp_path / "out.pt"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, handler)
    assert "could not be written" in text
    assert os.listdir(tmp_path) == []
    assert pruned.read_bytes() == before


def test_unusable_target(writing, pruned, capsys, tmp_path):
    before = pruned.read_bytes()
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("nothing")
    for name in ("file", "folder", "link"):
        assert "exists already" in refusal(capsys, *writing(tmp_path / name))
    for name in ("nowhere/out", "file/out"):
        assert "there is no folder" in refusal(capsys, *writing(tmp_path / name))
    # not even the superuser can write there
    assert re.search("could not be written|cannot be written to", refusal(capsys, *writing(Path("/proc/out"))))
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "link"]
    assert pruned.read_bytes() == before


@pytest.mark.parametrize(("name", "heads"), [("m.k5", "m.k5.heads.json"), ("m.pt", "m.heads.json")])
def test_a_name_that_is_no_suffix_stays(name, heads, pruned, tmp_path):
    assert main(["compact", str(pruned), str(tmp_path / name)]) == 0
    assert sorted(os.listdir(tmp_path)) == sorted([name, heads])


def test_copies_of_a_shared_embedding_are_one(pruned, tmp_path):
    """As averaging leaves them."""
    state, sizes = torch.load(pruned), []
    weight = state["model"]["decoder.embed_tokens.weight"]
    for copies in (weight, weight.clone()):
        state["model"]["decoder.output_projection.weight"] = copies
        torch.save(state, tmp_path / "a.pt")
        out = tmp_path / f"{len(sizes)}.pt"
        assert main(["compact", str(tmp_path / "a.pt"), str(out)]) == 0
        sizes.append(out.stat().st_size)
        small = torch.load(out)["model"]
        assert torch.equal(small["decoder.output_projection.weight"], weight)
    assert sizes[0] == sizes[1]


def test_the_corpus_of_training_is_not_needed(pruned, tmp_path, capsys):
    """What it says of its subwords is for a hint alone."""
    state = torch.load(pruned)
    state["cfg"]["model"].data = str(tmp_path / "data/data-bin")
    torch.save(state, tmp_path / "moved.pt")
    (tmp_path / "data/data-bin").mkdir(parents=True)
    (tmp_path / "data/prepare.json").write_text("{")
    assert main(["compact", str(tmp_path / "moved.pt"), str(tmp_path / "a.pt")]) == 0
    assert "fairseq-generate" in capsys.readouterr().out


def test_heads_of_a_training_that_has_not_begun_to_choose(train_tiny, tmp_path, caplog):
    warm_up = ("--heads-to-keep", 5, "--pruning-warmup-updates", 100, "--max-update", 2)
    train_tiny(tmp_path / "run", *warm_up, arch="transformer_dsp")
    assert main(["compact", str(tmp_path / "run/checkpoint_last.pt"), str(tmp_path / "a.pt")]) == 0
    assert "no heads have been chosen yet" in caplog.text
    caplog.clear()
    assert main(["heads", str(tmp_path / "run/checkpoint_last.pt"), "--heads-to-keep", "12"]) == 0
    assert "chosen yet" not in caplog.text


def test_an_importance_of_another_length(pruned, tmp_path, capsys):
    state = torch.load(pruned)
    state["model"]["heads.importance"] = state["model"]["heads.importance"][:-1]
    torch.save(state, tmp_path / "cut.pt")
    assert "12 heads, but an importance of 11" in refusal(capsys, "compact", tmp_path / "cut.pt", tmp_path / "out.pt")


def test_prints_the_commands(pruned, tmp_path, capsys):
    state = torch.load(pruned)
    state["cfg"]["task"] |= {"source_lang": "xx", "target_lang": "yy"}
    torch.save(state, tmp_path / "pruned.pt")
    assert main(["compact", str(tmp_path / "pruned.pt"), str(tmp_path / "a.pt"), "--heads-to-keep", "3"]) == 0
    said = capsys.readouterr().out
    assert "3 of 12 heads" in said
    for tool in ("generate", "train"):
        assert re.search(rf"fairseq-{tool} \S+ --source-lang xx --target-lang yy ", said)
    assert "--encoder-embed-dim 16" in said
    assert f"--kept-heads {tmp_path / 'a.heads.json'}" in said
    assert isinstance(torch.load(Path(tmp_path / "a.pt"))["cfg"]["model"], Namespace)
