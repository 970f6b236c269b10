"""Results that were changed or damaged after the sweep are refused, each in a sentence."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fairseq_dsp.errors import UserError
from fairseq_dsp.study.results import Results, read_results

RUN = "runs/joint-k6-s1"


@pytest.fixture
def copied(made_up: Results, tmp_path: Path) -> Path:
    """A copy of the made-up results, to spoil."""
    return Path(shutil.copytree(made_up.folder, tmp_path / "results"))


@pytest.mark.parametrize("text", ["{}", "[]", "", '{"run": "joint-k6-s1"}'])
def test_a_result_that_is_none(copied: Path, text: str) -> None:
    (copied / RUN / "result.json").write_text(text)
    with pytest.raises(UserError, match=r"joint-k6-s1/result.json cannot be read"):
        read_results(copied)


def lose_a_word(path: Path) -> None:
    path.write_text(path.read_text().replace("one", "none"))


def add_latin(path: Path) -> None:
    path.write_bytes(b"\xe4" + path.read_bytes())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [(lose_a_word, r"has .* BLEU, but its result.json says"), (add_latin, "cannot be read .*utf-8")],
)
def test_translations_that_are_not_the_results(copied: Path, spoil: Callable[[Path], None], message: str) -> None:
    spoil(copied / RUN / "translations.txt")
    with pytest.raises(UserError, match=message):
        read_results(copied).bootstrap()


def test_a_carriage_return_ends_no_line(copied: Path) -> None:
    for path in (copied / "references.txt", *copied.glob("runs/*/translations.txt")):
        path.write_bytes(path.read_bytes().replace(b" ", b"\r", 1))
    assert len(read_results(copied).bootstrap().scores) == 8


def test_losses_are_averaged_by_seed_as_scores_are(made_up: Results) -> None:
    (row,) = (row for row in made_up.rows() if row.label == "joint" and row.heads == 6)
    seeds = {run["run"]: run["seed"] for run in row.runs}
    assert row.by_seed({name: 10.0 * seed for name, seed in seeds.items()}) == [10.0, 20.0]
    twice = [{**row.runs[0], "run": name} for name in ("a", "b")] + [row.runs[1]]
    more = type(row)(row.label, row.title, row.heads, twice)
    assert more.by_seed({"a": 1.0, "b": 3.0, row.runs[1]["run"]: 7.0}) == [2.0, 7.0]
