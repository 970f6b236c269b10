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
            yield Row(line, bleu, valid, heads, units, loss)


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
    return Row("", f"{scores[POOLED]['bleu']:.1f}", f"{scores['valid']['bleu']:.1f}", (heads,), units, loss)


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
