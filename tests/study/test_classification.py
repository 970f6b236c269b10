"""A study of a model that classifies, for real: it trains, prunes, compacts, scores and reports accuracy."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pairs
import pytest
import yaml

from fairseq_dsp.errors import UserError
from fairseq_dsp.study.results import read_results
from fairseq_dsp.study.runs import expand
from fairseq_dsp.study.study_file import read_study

RECIPE = {
    "separator-token": 2, "max-positions": 40, "optimizer": "adam", "lr": 0.005, "lr-scheduler": "polynomial_decay",
    "warmup-updates": 4, "total-num-update": 20, "batch-size": 16, "max-update": 20, "log-interval": 5,
}  # fmt: skip


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data-bin as fairseq's own recipe makes it, without a preparation."""
    return pairs.make(tmp_path_factory.mktemp("pairs"))


def write(folder: Path, data: Path, **changes: Any) -> Path:
    content = {
        "name": "pairs", "data": str(data), "recipe": {"arch": "roberta_dsp_tiny", **RECIPE}, "heads": [2],
        "methods": ["joint", {"method": "michel", "options": {"sentences": 10}}],
        "compare": "michel", **changes,
    }  # fmt: skip
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory, dsp: Callable[..., Any]) -> tuple[Path, str]:
    """Its results, and what the sweep printed."""
    folder = tmp_path_factory.mktemp("finished")
    study = write(folder, data)
    done = dsp("sweep", study, "--results", folder / "results", "--jobs", "1", "--gpus", "")
    return folder / "results", done.stdout


@pytest.mark.slow
def test_a_sweep_scores_accuracy(finished: tuple[Path, str], data: Path) -> None:
    folder, said = finished
    assert "accuracy ± SD" in said
    assert "BLEU" not in said
    results = read_results(folder)
    assert sorted(run["run"] for run in results.runs) == ["base-s1", "joint-k2-s1", "michel-k2-s1"]
    labels = (data.parent / "test.label").read_text().splitlines()
    assert (folder / "references.txt").read_text().splitlines() == labels
    for run in results.runs:
        predicted = (folder / "runs" / run["run"] / "predictions.txt").read_text().splitlines()
        right = 100 * sum(a == b for a, b in zip(predicted, labels, strict=True)) / len(labels)
        assert run["scores"]["accuracy"]["score"] == pytest.approx(right)
        low, high = run["scores"]["interval"]
        assert low <= right <= high
        assert run["scores"]["kept"]["kept"] == (4 if run["run"] == "base-s1" else 2)
    assert results.runs[0]["scores"]["parameters"] > results.runs[1]["scores"]["parameters"]


@pytest.mark.slow
def test_a_report_says_accuracy(finished: tuple[Path, str], dsp: Callable[..., Any], tmp_path: Path) -> None:
    dsp("report", finished[0], "--out", tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"accuracy-heads.svg", "report.html", "report.md", "table.csv", "table.tex"} <= names
    for name in ("report.md", "table.tex", "table.csv", "report.html"):
        text = (tmp_path / name).read_text()
        assert "accuracy" in text
        assert "BLEU" not in text
        assert "bleu" not in text.lower()
    with (tmp_path / "table.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert float(rows["joint"]["accuracy_difference"]) == pytest.approx(
        float(rows["joint"]["accuracy"]) - float(rows["unpruned"]["accuracy"]), abs=2e-4
    )
    assert rows["joint"]["accuracy_p_value"]
    assert rows["joint"]["accuracy_to_michel_p_value"]


@pytest.mark.slow
def test_evaluate_with_other_heads_and_an_ensemble(
    finished: tuple[Path, str], data: Path, dsp: Callable[..., Any], tmp_path: Path
) -> None:
    base = finished[0] / "runs/base-s1/checkpoints/checkpoint_best.pt"
    heads = finished[0] / "runs/michel-k2-s1/kept.json"
    command = ("evaluate", "--data", data, "--cpu", "--json", tmp_path / "scores.json")
    dsp(*command, base, "--kept-heads", heads, "--predictions", tmp_path / "predictions.txt")
    # compact equals masked
    compact = finished[0] / "runs/michel-k2-s1/predictions.txt"
    assert (tmp_path / "predictions.txt").read_text() == compact.read_text()
    done = dsp(*command, base, f"{base}:{base}")
    one, two = json.loads((tmp_path / "scores.json").read_text())
    assert one["accuracy"] == two["accuracy"]
    assert 2 * one["parameters"] == two["parameters"]
    assert "95% interval" in done.stdout


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"pretrained": "nothing.pt"}, "pretrained is 'nothing.pt', but no such checkpoint is there"),
        ({"recipe": {"arch": "transformer_dsp_tiny", **RECIPE}}, "for labels only roberta_dsp"),
        ({"evaluate": {"split": "other"}}, "there is no text called 'other' in .*: give one of test, valid"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], sentence: str, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        read_study(write(tmp_path, data, **changes))


def test_a_study_takes_its_sizes_from_a_pretrained_model(
    finished: tuple[Path, str], data: Path, tmp_path: Path, dsp: Callable[..., Any]
) -> None:
    pairs.train(data, tmp_path, "--arch", "roberta", "--encoder-layers", 1, "--encoder-embed-dim", 16,
                "--encoder-ffn-embed-dim", 32, "--encoder-attention-heads", 4, "--max-update", 1)  # fmt: skip
    pretrained = tmp_path / "checkpoint_last.pt"
    study = write(tmp_path, data, recipe=RECIPE, pretrained=str(pretrained), methods=["joint"], compare=None)
    assert read_study(study).shape == {"encoder_self": [4], "decoder_self": [], "cross": []}
    said = dsp("sweep", study, "--results", tmp_path / "results", "--dry-run").stdout
    assert said.count(f"--finetune-from-model {pretrained}") == 2
    assert "--encoder-layers 1" in said
    # what it knows is not taken away at once: its heads go as those of a trained model
    words = said.split()
    assert words[words.index("--heads-to-keep-updates") + 1] == "5"  # of 20
    assert "--pruning-lr 0.02" in said
    assert "--mha-reg-scale-factor" not in said  # its default is the parser's

    structure = {"method": "structure", "of": "joint"}
    study = write(tmp_path, data, recipe=RECIPE, pretrained=str(pretrained), methods=["joint", structure], compare=None)
    found = next(run for run in expand(read_study(study), tmp_path) if run.method == "structure")
    assert "--finetune-from-model" not in found.steps[0].command  # its weights are new
    other = {"method": "unpruned", "name": "deep", "options": {"encoder-layers": 2}}
    study = write(tmp_path, data, recipe=RECIPE, pretrained=str(pretrained), methods=["joint", other], compare=None)
    with pytest.raises(UserError, match=r"encoder-layers of deep is 2, but the pretrained model, .*, has 1"):
        read_study(study)


def test_other_labels_are_another_corpus(data: Path, tmp_path: Path) -> None:
    """Files of labels have the same size whatever they say."""
    copy = shutil.copytree(data, tmp_path / data.name)
    key = read_study(write(tmp_path, copy)).data.key
    assert key == read_study(write(tmp_path, data)).data.key
    labels = bytearray((copy / "label/test.bin").read_bytes())
    labels[0], labels[-2] = labels[-2], labels[0]
    labels[0] ^= 1
    (copy / "label/test.bin").write_bytes(labels)
    assert key != read_study(write(tmp_path, copy)).data.key
