"""What ``fairseq-dsp prune`` leaves: the models where the user looks for them, their speed, and the table."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..evaluation.measuring import measure
from ..evaluation.runners import load
from ..files import read_json, replacing, told, write_json
from ..markdown import markdown_table
from ..model.kinds import BEAM
from .results import Results
from .runs import Run
from .titles import BASE

METHOD = "pruned"
"""The label of the runs."""
BATCH, TURNS = 64, 5
"""Of measuring the speed: sentences of a batch, and how often each model translates it."""


def place(out: Path, runs: Sequence[Run]) -> dict[str, Path]:
    """Put the models and their heads where the user looks for them, and return the models by their runs."""
    models, scored = {}, [one for one in runs if one.scored]
    for one in runs:
        if not one.scored:
            _link(one.folder / "checkpoints/checkpoint_best.pt", out / "range.pt")
            continue
        budget = one.name.removeprefix(METHOD).removesuffix(f"-s{one.seed}")  # such as -k18
        name = "compact" if len(scored) == 1 else f"compact{budget}"
        for ending in (".pt", ".heads.json"):
            _link(one.folder / f"compact{ending}", out / f"{name}{ending}")
        models[one.name] = out / f"{name}.pt"
    return models


def _link(made: Path, target: Path) -> None:
    """Have a file at another place too, if it is there and has changed."""
    if made.exists() and not (target.exists() and target.samefile(made)):
        with told(target), replacing(target) as temporary:
            try:
                os.link(made, temporary)
            except OSError:  # a file system without links
                shutil.copyfile(made, temporary)


def measure_speeds(path: Path, models: Mapping[str, Path], length: int, *, cpu: bool) -> dict[str, float]:
    """Return how many sentences of so many subwords a second the models translate, measured in turns, once.

    :param cpu: whether to use no GPU, if there is one.
    """
    import torch

    there: dict[str, float] | None = read_json(path)
    if there is not None and there.keys() == models.keys():
        return there
    print("measuring the speed of each model", file=sys.stderr)
    device = "cuda" if torch.cuda.is_available() and not cpu else "cpu"
    runners = {name: load(str(file), BEAM, length, device, "float32") for name, file in models.items()}
    found = measure(runners, [BATCH], length, TURNS, device=device)
    measured = {one.model: one.sentences_per_second for one in found}
    write_json(path, measured)
    return measured


def table(results: Results, speeds: Mapping[str, float], length: int) -> str:
    """Return the comparison with the original in Markdown.

    :param speeds: sentences a second, by the names of runs; the original is :data:`~.results.BASE`.
    :param length: the subwords of the sentences that these were measured with.
    """
    header = ["model", "heads", "BLEU", "95% CI", "difference", "95% CI of it", "parameters", "sentences/s"]
    found, rows = results.bootstrap(), results.rows()
    original = next(row.seeds for row in rows if row.label == BASE)
    body = []
    for row in rows:
        (one,) = row.runs
        bleu = found.mean(row.seeds)
        compared = None if row.label == BASE else found.compare(row.seeds, original)
        body.append(
            [
                "original" if row.label == BASE else row.full_title,
                row.kept,
                f"{bleu.value:.2f}",
                f"± {bleu.half:.2f}",
                f"{compared.difference.value:+.2f}" if compared else "",
                f"{compared.difference.low:+.2f} to {compared.difference.high:+.2f}" if compared else "",
                f"{one['scores']['parameters']:,}",
                f"{speeds[BASE if row.label == BASE else one['run']]:.1f}",
            ]
        )
    note = (
        f"BLEU on {results.study['split']}, beam {results.study['beam']}; the intervals cover the sentences, not other "
        f"seeds. Speed: batches of {BATCH} sentences of {length} subwords, in float32."
    )
    return f"{markdown_table(header, body)}\n{note}\n"
