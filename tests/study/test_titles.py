"""Titles of methods: from the study file into ``study.json``, and from there into tables and pictures."""

from __future__ import annotations

import csv
import html
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import studies
from support import REPOSITORY

from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError
from fairseq_dsp.study.results import read_results, summary_table
from fairseq_dsp.study.study_file import read_study
from fairseq_dsp.study.sweep import write_study as leave
from fairseq_dsp.study.titles import METHODS

WriteStudy = Callable[..., Path]
PAPER = "DSP, released settings (Li et al. 2021)"


def titles_of(path: Path) -> dict[str, str]:
    """The titles of a study's methods, by name."""
    return {method.name: method.title for method in read_study(path).methods}


def test_each_kind_has_its_title(write_study: WriteStudy) -> None:
    methods: list[Any] = [kind for kind in METHODS if kind not in ("voita", "structure", "unpruned")]
    methods += [{"method": "voita", "heads": [3]}, {"method": "structure", "of": "ste"}]
    found = titles_of(write_study(methods=methods))
    assert {"unpruned": METHODS["unpruned"], **found} == METHODS | {
        "structure": "new weights, heads of straight-through"
    }


@pytest.mark.parametrize(
    ("entry", "title"),
    [
        ({"method": "joint", "title": PAPER}, PAPER),
        ({"method": "joint", "name": "paper", "title": PAPER}, PAPER),
        ({"method": "joint", "name": "slow"}, "slow"),
        ({"method": "joint", "distill": True}, "exact subsets, distilled"),
        ({"method": "joint", "options": {"head-selection": "gumbel"}}, "relaxed Gumbel top-K (Li et al. 2021)"),
        ({"method": "pipelined", "recovery": {"max-update": 5}}, "pipelined, exact subsets, recovered"),
    ],
)
def test_a_title_of_its_own_or_of_what_it_is(entry: dict[str, Any], title: str, write_study: WriteStudy) -> None:
    path = write_study(methods=[entry, {**entry, "heads": [3]}] if "title" in entry else [entry])
    assert set(titles_of(path).values()) == {title}


def test_a_selection_of_the_recipe_counts(write_study: WriteStudy, tiny_recipe: dict[str, Any]) -> None:
    path = write_study(recipe={**tiny_recipe, "head-selection": "gumbel"}, methods=["joint", "pipelined", "ste"])
    gumbel = "relaxed Gumbel top-K (Li et al. 2021)"
    assert list(titles_of(path).values()) == [gumbel, f"pipelined, {gumbel}", "straight-through"]


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ([{"method": "joint", "title": 3}], "title of joint is 3, but a line of text is expected"),
        ([{"method": "joint", "title": ""}], "title of joint is '', but"),
        ([{"method": "joint", "title": "a\nb"}], "a line of text is expected that begins with a letter or a digit"),
        (
            [{"method": "joint", "title": "one"}, {"method": "joint", "title": "two", "heads": [3]}],
            "titles one and two",
        ),
        (["joint", {"method": "ste", "title": "exact subsets"}], "joint and ste have the same title"),
    ],
)
def test_bad_titles(methods: list[Any], message: str, write_study: WriteStudy) -> None:
    with pytest.raises(UserError) as error:
        read_study(write_study(methods=methods))
    assert message in str(error.value)


def test_a_sweep_notes_titles(write_study: WriteStudy, tmp_path: Path) -> None:
    leave(tmp_path, read_study(write_study(methods=["joint", {"method": "ste", "name": "hard"}])), [])
    assert json.loads((tmp_path / "study.json").read_text())["methods"] == [
        {"name": "joint", "method": "joint", "title": "exact subsets"},
        {"name": "hard", "method": "ste", "title": "hard"},
    ]


def test_a_report_shows_titles(tmp_path: Path) -> None:
    """With the letters that HTML, LaTeX, Markdown and matplotlib read as something else."""
    title = r"50% & more | $x_1$ <b>\a"
    results = studies.made.write(tmp_path)
    results.study["methods"][1]["title"] = title
    (tmp_path / "study.json").write_text(json.dumps(results.study))
    assert main(["report", str(tmp_path), "--against", "paper", "--pack", str(tmp_path / "packed.json")]) == 0
    out = tmp_path / "report"
    page, text, tex = ((out / name).read_text() for name in ("report.html", "report.md", "table.tex"))
    for shown in ("Against {}, at the same", "Heads kept: {}<", "Learning curves: {}, seed 1"):
        assert shown.replace("{}", html.escape(title)) in page
    assert f"<td>{html.escape(title)}</td>" in page
    assert "| 50% & more \\| $x_1$ &lt;b>\\a | 6 |" in text
    assert r"50\% \& more \textbar{} \$x\_1\$ \textless{}b\textgreater{}\textbackslash{}a & 6 & 2 &" in tex
    assert r"$\Delta$ to 50\%" in tex
    for picture in ("bleu-heads", "cost"):
        assert html.escape(title, quote=False) in (out / f"{picture}.svg").read_text()
    rows = list(csv.DictReader((out / "table.csv").open()))
    assert {(row["method"], row["title"]) for row in rows} == {
        ("unpruned", "unpruned"), ("joint", "exact subsets"), ("paper", title)
    }  # fmt: skip
    assert title in summary_table(read_results(tmp_path / "packed.json"))


def test_results_without_titles_have_names(tmp_path: Path) -> None:
    results = read_results(REPOSITORY / "docs/results/multi30k-prune.json")
    for method in results.study["methods"]:
        method.pop("title", None)
    assert [row.title for row in results.rows()] == ["unpruned", "prune", "prune"]
