"""Results in one file: the same report, without text and without the sweep's folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError
from fairseq_dsp.study import packed_results
from fairseq_dsp.study.results import Results, read_results


def contents(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text(encoding="utf-8") for file in sorted(folder.iterdir())}


def test_the_report_of_a_packed_file_is_that_of_the_folder(finished: tuple[Path, Any], tmp_path: Path) -> None:
    results = finished[0] / "results"
    packed = tmp_path / "packed.json"
    assert main(["report", str(results), "--out", str(tmp_path / "one"), "--pack", str(packed)]) == 0
    assert main(["report", str(packed)]) == 0
    one, other = contents(tmp_path / "one"), contents(tmp_path / "packed-report")
    assert "learning-joint.svg" in one
    assert one == other
    text = packed.read_text(encoding="utf-8")
    assert str(results) not in text
    outputs = (results / "runs/base-s1/translations.txt").read_text(encoding="utf-8").split("\n")
    references = (results / "references.txt").read_text(encoding="utf-8").split("\n")
    for line in filter(None, outputs + references):
        assert json.dumps(line, ensure_ascii=False) not in text


def test_where_a_run_was_done_is_not_packed(made_up: Results, tmp_path: Path) -> None:
    """A results folder may have moved since."""
    moved = tmp_path / "moved"
    shutil.copytree(made_up.folder, moved)
    for file in moved.glob("runs/*/result.json"):
        run = json.loads(file.read_text(encoding="utf-8"))
        run["scores"]["checkpoint"] = f"/home/me/runs/{run['run']}/checkpoints/checkpoint_best.pt"
        file.write_text(json.dumps(run), encoding="utf-8")
    text = packed_results.pack(read_results(moved))
    runs = json.loads(text)["runs"]
    assert [run["scores"]["checkpoint"] for run in runs] == [
        f"runs/{run['run']}/checkpoints/checkpoint_best.pt" for run in runs
    ]
    assert "/home/me" not in text


def test_intervals_are_the_same_to_the_last_digit(made_up: Results, tmp_path: Path) -> None:
    packed = tmp_path / "made-up.json"
    packed.write_text(packed_results.pack(made_up), encoding="utf-8")
    one, other = made_up.bootstrap(), read_results(packed).bootstrap()
    assert one.scores == other.scores
    assert one.signature == other.signature
    assert all((one.resampled[name] == other.resampled[name]).all() for name in one.resampled)


@pytest.mark.parametrize("most", [7, 255, 256, 70_000])
def test_counts_of_any_size_come_back(most: int) -> None:
    draw = np.random.default_rng(1)
    counts = {name: draw.integers(0, most, (50, 10), endpoint=True) for name in "abc"}
    counts["b"][3, 4] = most
    found = packed_results._decoded(packed_results._encoded(counts))
    assert list(found) == list(counts)
    assert all((found[name] == counts[name]).all() for name in counts)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda content: content.pop("counts"), "'counts'"),
        (lambda content: content.update(format=3), "it is of format 3, but this version reads 2"),
        (lambda content: content["counts"].update(zlib="AAAA"), "while decompressing"),
        (lambda content: content["study"]["methods"][0].update(name="../joint"), "has a method called '../joint'"),
    ],
)
def test_another_file(change: Callable[[Any], Any], reason: str, made_up: Results, tmp_path: Path) -> None:
    content = json.loads(packed_results.pack(made_up))
    change(content)
    packed = tmp_path / "made-up.json"
    packed.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(UserError, match="is not what fairseq-dsp report --pack writes") as error:
        read_results(packed)
    assert reason in str(error.value)


def test_somebodys_file_is_not_overwritten(made_up: Results, tmp_path: Path) -> None:
    study, mine = made_up.folder / "study.json", tmp_path / "packed.json"
    before = study.read_text()
    assert main(["report", str(made_up.folder), "--out", str(tmp_path / "report"), "--pack", str(study)]) == 1
    assert study.read_text() == before
    for _ in range(2):  # what is its own is written again
        assert main(["report", str(made_up.folder), "--out", str(tmp_path / "report"), "--pack", str(mine)]) == 0
