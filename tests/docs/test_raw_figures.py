"""The tables of the results pages against the raw figures beside them."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

RESULTS = Path(__file__).parents[2] / "docs" / "results"
POOLED = "test,test1,test2,test3"
PAGES = {
    "distillation": "multi30k-distilled",
    "range-distilled": "multi30k-distilled",
    "frontier": "multi30k-distilled",
    "frontier-256": "frontier-256",
}


class Row(NamedTuple):
    """What a table says of one model, as it stands there."""

    line: str
    bleu: str
    valid_bleu: str
    heads: tuple[str, ...]
    units: str
    loss: str
    cells: dict[str, str]


def rows(page: str) -> Iterator[Row]:
    """Yield one row for each model that the tables of a page name with its BLEU."""
    names: list[str] = []
    for line in (RESULTS / f"{page}.md").read_text(encoding="utf-8").splitlines():
        if not line.startswith("|"):
            names = []
            continue
        cells = [cell.strip().replace("*", "") for cell in line.strip()[1:-1].split("|")]
        if not names or not set("".join(cells)) - set("-:"):
            names = names or cells
            continue
        heads = tuple(cell for cell in cells if re.fullmatch(r"\d+ / \d+ / \d+", cell))
        column = dict(zip(names, cells, strict=True))
        loss, units = column.get("valid loss", ""), column.get("units", "")
        pairs = [match.groups() for cell in cells if (match := re.fullmatch(r"(\d+\.\d) \((\d+\.\d)\)", cell))]
        if "BLEU, test sets" in column:
            pairs = [(column["BLEU, test sets"], column["BLEU, validation set"])]
        for bleu, valid in pairs:
            yield Row(line, bleu, valid, heads, units, loss, column)


def counted(modules: list[list[int]]) -> int:
    """Return how many units the modules keep together."""
    return sum(map(len, modules))


def as_written(run: dict) -> Row:
    """Return the row that a table would have of a run."""
    kept, scores = run["kept"], run["scores"]
    heads = " / ".join(str(counted(kept[kind])) for kind in ("encoder_self", "decoder_self", "cross"))
    ffn = kept.get("ffn")
    units = " / ".join(str(counted(ffn[side])) for side in ("encoder", "decoder")) if ffn else ""
    loss = run["valid_losses"][-1][1] if "valid_losses" in run else run.get("valid_loss_at_end")
    loss = "" if loss is None else f"{loss:.3f}"
    return Row("", f"{scores[POOLED]['bleu']:.1f}", f"{scores['valid']['bleu']:.1f}", (heads,), units, loss, {})


def says_the_same(row: Row, run: Row) -> bool:
    """Return whether a row can be of a run: all that both name is equal."""
    return (
        (row.bleu, row.valid_bleu) == (run.bleu, run.valid_bleu)
        and (not row.heads or run.heads[0] in row.heads)
        and (not run.units or not row.units or row.units == run.units)
        and (not run.loss or not row.loss or row.loss == run.loss)
    )


@pytest.mark.parametrize("page", PAGES)
def test_every_row_with_bleu_is_a_run_of_the_raw_figures(page: str) -> None:
    runs = [as_written(run) for run in json.loads((RESULTS / f"{PAGES[page]}.json").read_text())["runs"]]
    found = list(rows(page))
    assert len(found) > 2
    assert [row for row in found if not any(says_the_same(row, run) for run in runs)] == []


SPEEDS = {
    "int8, batches of 64": ("CTranslate2", "int8", 64, 5),
    "greedy": ("CTranslate2", "int8", 64, 1),
    "one sentence": ("CTranslate2", "int8", 1, 5),
    "float32, batches of 64": ("CTranslate2", "float32", 64, 5),
    "fairseq, batches of 64": ("fairseq", "float32", 64, 5),
}
"""Columns, and the engine, precision, batch and beam of their figures."""


def speeds_of(page: str, row: Row) -> list[dict]:
    """Return what was measured of the model of a row: the one with its heads and its BLEU on both sets."""
    content = json.loads((RESULTS / f"{page}.json").read_text())
    if "models" in content:
        models = [(m["heads"], m["bleu"], m["valid_bleu"], m["speed"]) for m in content["models"]]
    else:
        models = [
            (*as_written(run).heads, run["scores"][POOLED]["bleu"], run["scores"]["valid"]["bleu"],
             [one for one in content["speed"] if one["model"] == run["name"]])
            for run in content["runs"]
        ]  # fmt: skip
    (found,) = (
        speed
        for heads, bleu, valid_bleu, speed in models
        if heads in row.heads and max(abs(bleu - float(row.bleu)), abs(valid_bleu - float(row.valid_bleu))) < 0.0551
    )
    return found


@pytest.mark.parametrize("page", ["frontier", "frontier-256"])
def test_every_speed_is_that_of_the_raw_figures(page: str) -> None:
    count, wrong = 0, []
    for row in rows(page):
        given = [name for name in SPEEDS if row.cells.get(name)]
        measured = speeds_of(page, row) if given else []
        ratios = {(one["engine"], one["precision"], one["batch"], one["beam"]): one["ratio"] for one in measured}
        count += len(given)
        # half a hundredth, and what rounding to thousandths adds to it
        wrong += [(row.line, name) for name in given if abs(float(row.cells[name]) - ratios[SPEEDS[name]]) > 0.0056]
    assert wrong == []
    assert count > 30
