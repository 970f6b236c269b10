"""``fairseq-dsp score-heads`` on checkpoints as fairseq writes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import inprocess
import pairs
import pytest
import torch

from fairseq_dsp.cli import main
from fairseq_dsp.model import TYPES, HeadSet


def test_the_chosen_heads_can_be_retrained(stock: Path, tiny_data: Path, tmp_path: Path):
    out, scores = tmp_path / "new" / "heads.json", tmp_path / "scores.json"
    where = [str(stock), "--data", str(tiny_data), "--cpu"]
    assert main(["score-heads", *where, "--heads-to-keep", "5", "--out", str(out), "--scores", str(scores)]) == 0
    heads = HeadSet.read(out)
    assert (heads.total, heads.kept) == (12, 5)
    content = json.loads(scores.read_text())
    assert content["sentences"] == 20
    values = [value for kind in TYPES for layer in content[kind] for value in layer]
    assert len(values) == 12
    least_kept = min(content[kind][i][h] for kind in TYPES for i, layer in enumerate(heads.of(kind)) for h in layer)
    assert sum(value >= least_kept for value in values) == 5
    flags = ["--head-selection", "fixed", "--kept-heads", out, "--finetune-from-model", stock, "--max-update", 2]
    state = inprocess.train(tiny_data, tmp_path / "retrained", "--cpu", *flags)
    assert state["optimizer_history"][-1]["num_updates"] == 2


def test_given_heads_are_neither_scored_anew_nor_of_another_number(
    stock: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    heads, retrained = tmp_path / "heads.json", str(tmp_path / "retrained/checkpoint_last.pt")
    main(["score-heads", str(stock), "--data", str(tiny_data), "--cpu", "--heads-to-keep", "5", "--out", str(heads)])
    flags = ["--cpu", "--head-selection", "fixed", "--kept-heads", heads, "--max-update", 2]
    inprocess.train(tiny_data, tmp_path / "retrained", *flags)
    capsys.readouterr()
    assert main(["score-heads", retrained, "--data", str(tiny_data), "--cpu", "--heads-to-keep", "8"]) == 1
    assert "the model keeps only 5 of its 12 heads" in capsys.readouterr().err
    for command in (["heads", retrained], ["compact", retrained, str(tmp_path / "small.pt")]):
        assert main([*command, "--heads-to-keep", "8"]) == 1
        assert "8 heads are asked for, but they were given to this model, which keeps 5" in capsys.readouterr().err
    assert not (tmp_path / "small.pt").exists()
    assert main(["heads", retrained, "--heads-to-keep", "5"]) == 0


def test_greedy_on_a_sample_of_train_is_reproducible(stock: Path, tiny_data: Path, capsys: pytest.CaptureFixture):
    where = ["score-heads", str(stock), "--data", str(tiny_data), "--split", "train", "--sentences", "30", "--cpu"]
    printed = []
    for extra in ([], [], ["--seed", "2"]):
        assert main([*where, "--heads-to-keep", "4", "--steps", "3", *extra]) == 0
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0] == printed[1]
    assert printed[0]["kept"] == 4
    assert main(where) == 0
    assert json.loads(capsys.readouterr().out)["sentences"] == 30


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--split test", "--split test is a test set"),
        ("--split TEST1", "is a test set"),
        ("--split nowhere", "has no split nowhere: give train or valid"),
        ("--heads-to-keep 13", "13 heads are to be kept of 12: give a number from 0 to 12"),
        ("--heads-to-keep 3 --min-heads-per-module 1", "need 6 heads in all, but only 3"),
        ("--sentences 3 --seed -1", "--seed is -1, but it must be 0 or more"),
        ("--heads-to-keep 3 --steps 0", "--steps is 0, but it must be 1 or more"),
        ("--sentences 0", "--sentences is 0"),
        ("--data elsewhere", "the corpus elsewhere is missing"),
        ("--min-heads-per-module -1", "--min-heads-per-module is -1, but it must be 0 or more"),
        ("--data {folder}", "dict.txt is missing: give --data the folder that fairseq-preprocess made"),
        ("--scores {folder}", "is a folder, but a file is expected"),
        ("--scores {folder}/heads.json", "heads.json is given twice"),
    ],
)
def test_bad_input_is_one_sentence(flags: str, sentence: str, stock: Path, tiny_data: Path, tmp_path: Path, capsys):
    flags = flags.format(folder=tmp_path)
    command = ["score-heads", str(stock), "--data", str(tiny_data), "--cpu", "--heads-to-keep", "3", *flags.split()]
    assert main([*command, "--out", str(tmp_path / "heads.json")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert sentence in printed.err
    assert "Traceback" not in printed.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flags", ["--out heads.json", "--steps 6", "--min-heads-per-module 1"])
def test_what_needs_a_number_of_heads(flags: str, stock: Path, tiny_data: Path, capsys: pytest.CaptureFixture):
    assert main(["score-heads", str(stock), "--data", str(tiny_data), *flags.split()]) == 1
    assert f"{flags.split()[0]} is given without --heads-to-keep K" in capsys.readouterr().err


def test_a_sentence_longer_than_a_batch_has_one_of_its_own(stock: Path, tiny_data: Path, capsys: pytest.CaptureFixture):
    command = ["score-heads", str(stock), "--data", str(tiny_data), "--cpu", "--max-tokens"]
    scores = []
    for tokens in ("1", "4000"):
        assert main([*command, tokens]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0]["sentences"] == scores[1]["sentences"]
    torch.testing.assert_close(scores[0]["cross"], scores[1]["cross"])


def test_options_without_effect_on_a_trained_model(
    stock: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
):
    """Activations that are computed anew, and padding on the left, whose rows of the softmax see nothing else."""
    state = torch.load(stock, weights_only=True)
    state["cfg"]["model"].checkpoint_activations = True
    state["cfg"]["task"]["left_pad_target"] = True
    other = tmp_path / "other.pt"
    torch.save(state, other)
    scores = []
    for path in (stock, other):
        assert main(["score-heads", str(path), "--data", str(tiny_data), "--cpu"]) == 0
        scores.append(json.loads(capsys.readouterr().out))
    assert scores[0] == scores[1]


def test_a_classifier_whose_classification_head_is_chance(tmp_path: Path, capsys: pytest.CaptureFixture):
    """One that import-bert made, and one that fairseq would make."""
    data = pairs.make(tmp_path)
    pairs.train(data, tmp_path, "--arch", "roberta_dsp_tiny", "--max-update", 2)
    path = tmp_path / "checkpoint_last.pt"
    assert main(["score-heads", str(path), "--data", str(data), "--cpu", "--split", "train"]) == 0
    state = torch.load(path, weights_only=True)
    state["optimizer_history"][-1]["num_updates"] = 0
    torch.save(state, path)
    for command, split in (("score-heads", "train"), ("evaluate", "valid")):
        assert main([command, str(path), "--data", str(data), "--cpu", "--split", split]) == 1
        assert "has a classification head that was never trained, so the labels" in capsys.readouterr().err
    assert main(["export-folder", str(path), str(tmp_path / "folder"), "--data", str(data), "--bpe", "none"]) == 1
    assert "has a classification head that was never trained, so the labels" in capsys.readouterr().err
    assert not (tmp_path / "folder").exists()
    state["model"] = {k: v for k, v in state["model"].items() if not k.startswith("classification_heads.")}
    torch.save(state, path)
    assert main(["score-heads", str(path), "--data", str(data), "--cpu", "--split", "train"]) == 1
    assert (
        "has no classification head, so the labels that it gives mean nothing: fine-tune it first"
        in capsys.readouterr().err
    )


def test_a_set_has_the_units_that_the_model_keeps(stock: Path, tiny_data: Path, tmp_path: Path):
    units = ["--cpu", "--ffn-units-to-keep", 7, "--cooldown-updates", 1, "--max-update", 2]
    inprocess.train(tiny_data, tmp_path, *units, "--finetune-from-model", stock)
    last, heads = tmp_path / "checkpoint_last.pt", tmp_path / "heads.json"
    where = [str(last), "--data", str(tiny_data), "--cpu", "--heads-to-keep", "5", "--out", str(heads)]
    assert main(["score-heads", *where]) == 0
    (of_ffn,) = HeadSet.read(heads).others
    assert of_ffn.kept == 7
    flags = ["--head-selection", "fixed", "--kept-heads", heads, "--finetune-from-model", last, "--max-update", 1]
    state = inprocess.train(tiny_data, tmp_path / "on", "--cpu", *flags)
    assert [int(state["model"][f"{name}.kept"].sum()) for name in ("heads", "ffn")] == [5, 7]


def test_weights_that_are_no_numbers(stock: Path, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    state = torch.load(stock, weights_only=True)
    state["model"]["encoder.layers.0.fc1.weight"][0, 0] = float("nan")
    broken, out, heads = (tmp_path / name for name in ("broken.pt", "out", "heads.json"))
    torch.save(state, broken)
    heads.write_text(HeadSet.from_gates(torch.ones(12), {kind: [2, 2] for kind in TYPES}).to_json())
    (tmp_path / "references").write_text("a\n" * 20)
    data, on_cpu = ["--data", str(tiny_data)], ["--cpu"]
    for command in (
        ["score-heads", str(broken), *data],
        ["compensate", str(broken), str(out), *data, "--kept-heads", str(heads)],
        ["evaluate", str(broken), *data, "--references", str(tmp_path / "references")],
    ):
        assert main([*command, *on_cpu]) == 1
        error = capsys.readouterr().err
        assert "encoder.layers.0.fc1.weight in the checkpoint" in error, command
        assert "holds a NaN or an infinity, with which nothing can be computed: give an earlier" in error
    assert not out.exists()


def test_a_missing_checkpoint(tiny_data: Path, capsys: pytest.CaptureFixture):
    assert main(["score-heads", "nowhere.pt", "--data", str(tiny_data)]) == 1
    assert "the checkpoint nowhere.pt is missing" in capsys.readouterr().err


def test_an_empty_split(stock: Path, tiny_data: Path, tmp_path: Path, run_fairseq, capsys: pytest.CaptureFixture):
    for language in ("xx", "yy"):
        (tmp_path / f"valid.{language}").write_text("")
    dictionaries = ["--srcdict", tiny_data / "dict.xx.txt", "--tgtdict", tiny_data / "dict.yy.txt"]
    languages = ["--source-lang", "xx", "--target-lang", "yy"]
    run_fairseq(
        "preprocess", *languages, *dictionaries, "--validpref", tmp_path / "valid", "--destdir", tmp_path / "bin"
    )
    for language in ("xx", "yy"):
        shutil.copy(tiny_data / f"dict.{language}.txt", tmp_path / "bin")
    assert main(["score-heads", str(stock), "--data", str(tmp_path / "bin")]) == 1
    assert "is empty: give a split that holds sentences" in capsys.readouterr().err
