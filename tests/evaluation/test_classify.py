"""What is classified, with which labels: of the model, of the data, of both in one order."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import inprocess
import pairs
import pytest
import support
import torch

import fairseq_dsp
from fairseq_dsp import cli
from fairseq_dsp.corpus import CLASSIFICATION
from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation.evaluate import interval
from fairseq_dsp.evaluation.prepared import PreparedData
from fairseq_dsp.importance.michel import gate_gradients


@pytest.fixture(scope="module")
def trained(pair_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    pairs.train(pair_data, folder, "--max-update", 4)
    path = folder / "checkpoint_last.pt"
    state = torch.load(path)
    torch.nn.init.normal_(state["model"]["heads.importance"], generator=torch.Generator().manual_seed(1))
    torch.save(state, path)
    return path


def labelled(pair_data: Path, folder: Path, dictionary: str, valid: str | None = None) -> Path:
    """The same sentences, their labels binarised anew."""
    for side in ("input0", "input1"):
        shutil.copytree(pair_data / side, folder / side)
    (folder / "labels.txt").write_text("".join(f"{label} 1\n" for label in dictionary.split()))
    files = {split: pair_data.parent / f"{split}.label" for split in ("train", "valid", "test")}
    if valid is not None:
        files["valid"] = folder / "valid.label"
        files["valid"].write_text(valid)
    given = [word for split, file in files.items() for word in (f"--{split}pref", file)]
    command = ("--only-source", *given, "--destdir", folder / "label", "--srcdict", folder / "labels.txt")
    support.run_fairseq("preprocess", *command)
    return folder


def refusal(capsys: pytest.CaptureFixture[str], *command: object) -> str:
    capsys.readouterr()
    assert cli.main(list(map(str, command))) == 1
    said = capsys.readouterr().err
    assert len(said.strip().splitlines()) == 1
    return said


def test_labels_in_another_order_are_not_confused(
    trained: Path, pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [line.split()[0] for line in (pair_data / "label/dict.txt").read_text().splitlines()][:3]
    other = labelled(pair_data, tmp_path / "other", " ".join(reversed(own)))
    small = tmp_path / "small.pt"
    assert cli.main(["compact", str(trained), str(small), "--heads-to-keep", "2"]) == 0
    expected = f"the data have the labels {', '.join(reversed(own))}, but the model was trained with {', '.join(own)}"
    for command in (("evaluate", trained), ("evaluate", small), ("score-heads", trained)):
        assert expected in refusal(capsys, *command, "--data", other, "--cpu")
    assert expected in refusal(capsys, "export-folder", small, tmp_path / "folder", "--data", other)
    assert cli.main(["evaluate", str(small), "--data", str(pair_data), "--cpu"]) == 0
    # a training goes on with the labels of its data
    pairs.train(other, tmp_path / "on", "--finetune-from-model", trained, "--max-update", 1)
    assert cli.main(["evaluate", str(tmp_path / "on/checkpoint_last.pt"), "--data", str(other), "--cpu"]) == 0


def test_a_label_that_is_in_no_dictionary_is_named(
    trained: Path, pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (pair_data.parent / "valid.label").read_text().splitlines()
    own = [line.split()[0] for line in (pair_data / "label/dict.txt").read_text().splitlines()][:3]
    other = labelled(
        pair_data, tmp_path, " ".join(own), "".join(f"{line}\n" for line in [lines[0], "maybe", *lines[2:]])
    )
    for command in ("evaluate", trained, "--split", "valid"), ("score-heads", trained, "--split", "valid"):
        assert "the label of sentence 2 of valid is none of" in refusal(capsys, *command, "--data", other, "--cpu")
    with pytest.raises(UserError, match="the label of sentence 2 of valid is none of"):
        pairs.train(other, tmp_path / "run", "--max-update", 1)


def test_pairs_and_single_sentences_are_not_confused(
    trained: Path, pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    single = tmp_path / "single"
    for name in ("input0", "label"):
        shutil.copytree(pair_data / name, single / name)
    pairs.train(single, tmp_path / "run", "--max-update", 1, "--heads-to-keep", 2)
    of_single, small, folder = tmp_path / "run/checkpoint_last.pt", tmp_path / "small.pt", tmp_path / "folder"
    assert cli.main(["compact", str(of_single), str(small)]) == 0
    for model in of_single, small:
        said = refusal(capsys, "evaluate", model, "--data", pair_data, "--cpu")
        assert "the data are pairs of sentences, but the model was trained on single sentences: give data like" in said
    for command in ("evaluate", trained, "--cpu"), ("score-heads", trained), ("export-folder", trained, folder):
        said = refusal(capsys, *command, "--data", single)
        assert "the data are single sentences, but the model was trained on pairs of sentences" in said
    assert cli.main(["evaluate", str(small), "--data", str(single), "--cpu"]) == 0
    # a folder with dictionaries alone says nothing of it
    for name in ("input0", "label"):
        (tmp_path / "words" / name).mkdir(parents=True)
        shutil.copy(single / name / "dict.txt", tmp_path / "words" / name)
    assert cli.main(["export-folder", str(small), str(folder), "--data", str(tmp_path / "words")]) == 0
    model = fairseq_dsp.from_pretrained(str(folder))
    assert len(model.predict(["ba di", "no ba"])) == 2
    with pytest.raises(UserError, match="input 1 is a pair, but the model was trained on single sentences"):
        model.predict([("ba di", "no ba")])
    # a training goes on with what its data are
    pairs.train(pair_data, tmp_path / "on", "--finetune-from-model", of_single, "--max-update", 1)
    assert cli.main(["evaluate", str(tmp_path / "on/checkpoint_last.pt"), "--data", str(pair_data), "--cpu"]) == 0


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ("--report-mcc", "--report-mcc is computed from labels that are whole numbers, but the data have "),
        ("--best-checkpoint-metric mcc", "which validation does not compute: give one of accuracy, loss, nll_loss"),
        ("--report-acc-and-f1 --regression-target", "but --regression-target has numbers: give --report-pearson-and-"),
    ],
)
def test_reports_that_such_labels_cannot_have(flags: str, reason: str, pair_data: Path, tmp_path: Path) -> None:
    data = pair_data
    if "--regression-target" in flags:
        data = tmp_path / "numbers"
        for side in ("input0", "input1"):
            shutil.copytree(pair_data / side, data / side)
        (data / "label").mkdir()
        for split in ("train", "valid"):
            count = len((pair_data.parent / f"{split}.label").read_text().splitlines())
            (data / "label" / f"{split}.label").write_text("0.5\n" * count)
        flags += " --num-classes 1 --best-checkpoint-metric loss"
    with pytest.raises(UserError, match=re.escape(reason)):
        pairs.train(data, tmp_path / "run", *flags.split())


def test_a_model_of_few_positions_has_a_folder(pair_data: Path, tmp_path: Path) -> None:
    pairs.train(pair_data, tmp_path / "run", "--max-update", 1, "--max-positions", 12, "--shorten-method", "truncate")
    model = tmp_path / "run/checkpoint_last.pt"
    assert cli.main(["export-folder", str(model), str(tmp_path / "folder"), "--data", str(pair_data)]) == 0


def test_a_model_of_translation(
    tiny_data: Path, pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inprocess.train(tiny_data, tmp_path, "--cpu", "--max-update", 1)
    model = tmp_path / "checkpoint_last.pt"
    assert "does not predict labels" in refusal(capsys, "evaluate", model, "--data", pair_data, "--cpu")


@pytest.mark.parametrize(
    ("right", "sentences", "low", "high"), [(99, 100, 97.05, 100), (1, 100, 0, 2.95), (1, 1, 0, 100)]
)
def test_an_interval_is_within_0_and_100(
    right: int, sentences: int, low: float, high: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PreparedData, "references", lambda *_: ["yes"] * sentences)
    output = ["yes"] * right + ["no"] * (sentences - right)
    found = interval(PreparedData(tmp_path, {"task": CLASSIFICATION}), "test", output)["interval"]
    assert found == pytest.approx((low, high), abs=0.2)
    assert 0 <= found[0] <= found[1] <= 100


def test_labels_take_no_references(pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data-bin").symlink_to(pair_data)
    (tmp_path / "prepare.json").write_text(json.dumps({"task": CLASSIFICATION, "data_bin": "data-bin"}))
    references = pair_data.parent / "test.label"
    said = refusal(capsys, "evaluate", "a.pt", "--data", tmp_path, "--references", references)
    assert f"references are given, but {tmp_path} is a corpus with labels: leave them out" in said


def test_labels_are_not_searched_for(pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data-bin").symlink_to(pair_data)
    (tmp_path / "prepare.json").write_text(json.dumps({"task": CLASSIFICATION, "data_bin": "data-bin"}))
    for option in ("--beam", "--lenpen", "--max-len-a", "--max-len-b"):
        said = refusal(capsys, "evaluate", "a.pt", "--data", tmp_path, option, 2)
        assert f"{option} is for translations, but {tmp_path} has labels: leave it out" in said


def test_numbers_are_scored_but_are_no_labels(
    trained: Path, pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = tmp_path / "numbers"
    for side in ("input0", "input1"):
        shutil.copytree(pair_data / side, numbers / side)
    (numbers / "label").mkdir()
    for split in ("train", "valid", "test"):
        labels = (pair_data.parent / f"{split}.label").read_text().splitlines()
        (numbers / "label" / f"{split}.label").write_text("".join(f"{len(label) / 13}\n" for label in labels))
    flags = ("--regression-target", "--num-classes", 1, "--best-checkpoint-metric", "loss", "--max-update", 4)
    pairs.train(numbers, tmp_path / "run", *flags)
    model = tmp_path / "run/checkpoint_last.pt"
    assert "does not predict labels" in refusal(capsys, "evaluate", model, "--data", pair_data, "--cpu")
    assert "holds numbers to predict" in refusal(capsys, "evaluate", trained, "--data", numbers, "--cpu")
    assert "input0/dict.txt is missing" in refusal(capsys, "score-heads", trained, "--data", tmp_path, "--cpu")
    assert cli.main(["score-heads", str(model), "--data", str(numbers), "--cpu"]) == 0
    from fairseq import checkpoint_utils

    (read,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(model)], {"data": str(numbers)})
    task.load_dataset("valid")
    batch = task.dataset("valid").collater([task.dataset("valid")[0]])
    gradients = gate_gradients(read, batch, torch.tensor(1.0))
    weight, losses = read.encoder.sentence_encoder.layers[0].self_attn.out_proj.weight, []
    with torch.no_grad():
        for step in (1e-3, -1e-3):
            before = weight[:, :8].clone()
            weight[:, :8] *= 1 + step
            call = {**batch["net_input"], "classification_head_name": "sentence_classification_head"}
            losses.append(float((read.double()(**call)[0].flatten() - batch["target"]).square().sum()))
            weight[:, :8] = before
    assert float(gradients[0, 0]) == pytest.approx((losses[0] - losses[1]) / 2e-3, rel=5e-2, abs=1e-5)
