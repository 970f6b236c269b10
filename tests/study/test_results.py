"""Results that were changed or damaged after the sweep are refused, each in a sentence."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fairseq_dsp.errors import UserError
from fairseq_dsp.report.figures import score_curve
from fairseq_dsp.report.tables import cost_cells, table_lines, to_csv
from fairseq_dsp.study.results import Results, read_results, summary_table

RUN = "runs/joint-k6-s1"


@pytest.fixture
def copied(made_up: Results, tmp_path: Path) -> Path:
    """A copy of the made-up results, to spoil."""
    return Path(shutil.copytree(made_up.folder, tmp_path / "results"))


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{}", "holds no result of a run"),
        ("[]", "holds no JSON object"),
        ("", "is not JSON"),
        ('{"run": "joint-k6-s1"}', "holds no result of a run"),
    ],
)
def test_a_result_that_is_none(copied: Path, text: str, told: str) -> None:
    (copied / RUN / "result.json").write_text(text)
    with pytest.raises(UserError, match=rf"joint-k6-s1/result.json {told}.*: remove it and start the sweep again"):
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


def test_several_runs_of_a_seed_have_no_spread(copied: Path) -> None:
    """As by two penalties: the table's standard deviation and the picture's band are those of the seeds."""
    results = read_results(copied)
    (row,) = (row for row in results.rows() if row.label == "joint" and row.heads == 6)
    two = [{**row.runs[0], "run": name} for name in ("a", "b")]
    two[1]["scores"] = {**two[1]["scores"], "bleu": {"score": two[0]["scores"]["bleu"]["score"] + 4}}
    twice = type(row)(row.label, row.title, row.heads, two)
    assert twice.spread("bleu") is None
    two[0]["penalty"], two[1]["penalty"] = 0.02, 0.01
    assert twice.full_title == f"{row.title}, penalty 0.01, 0.02"
    assert row.full_title == row.title
    assert twice.of_seeds("bleu") == [twice.mean("bleu")] == [pytest.approx(two[0]["scores"]["bleu"]["score"] + 2)]


def test_heads_of_a_share_are_the_mean_wherever_they_are_shown(copied: Path) -> None:
    for seed, heads in ((1, 7), (2, 4)):
        path = copied / f"runs/joint-k6-s{seed}/result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"heads": heads, "share": "0.5 of the FLOPs"}))
    results = read_results(copied)
    (row,) = (row for row in results.rows() if row.budget == "0.5 of the FLOPs")
    assert row.kept == "5.5"
    assert row.full_title == f"{row.title}, 0.5 of the FLOPs"
    assert f"\n{row.full_title} " in summary_table(results)
    lines = csv.DictReader(to_csv(table_lines(results, results.bootstrap())).splitlines())
    assert [one["heads"] for one in lines if one["method"] == "joint"] == ["5.5", "3"]
    places = [line.get_xdata() for line in score_curve(results, 1.0).axes[0].lines]
    assert [3, 5.5] in [list(x) for x in places]


def test_parameters_are_the_mean_wherever_they_are_shown(copied: Path) -> None:
    path = copied / RUN / "result.json"
    result = json.loads(path.read_text())
    result["scores"]["parameters"] = 2006
    path.write_text(json.dumps(result))
    results = read_results(copied)
    (row,) = (row for row in results.rows() if row.label == "joint" and row.heads == 6)
    assert [run["scores"]["parameters"] for run in row.runs] == [2006, 1006]
    (line,) = (
        line for line in summary_table(results).splitlines() if line.startswith(f"{row.title}  ") and " 6 of " in line
    )
    assert line.split()[-1] == "1,506"
    assert cost_cells([row], "bleu")[0][2] == "1,506"
    (written,) = (
        one
        for one in csv.DictReader(to_csv(table_lines(results, results.bootstrap())).splitlines())
        if (one["method"], one["heads"]) == ("joint", "6")
    )
    assert written["parameters"] == "1506"
