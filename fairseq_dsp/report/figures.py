"""The pictures of a report, as SVG."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Sequence
from itertools import chain
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from ..model import KINDS, HeadSet, Kind
from ..model.sets import Layers
from ..study.results import Results, Row
from ..study.titles import BASE, BASE_TITLE
from ..study.training_log import NAMES, Curve

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"]  # for the colour-blind too
MARKERS = "osD^vPX"
GREY = "#555555"


def svg(figure: Figure) -> str:
    """A figure as an SVG element, the same bytes for the same figure."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "fairseq-dsp", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def look(i: int) -> tuple[str, str]:
    """Colour and marker of the method number *i*: no two of the first 49 have both."""
    return COLOURS[i % len(COLOURS)], MARKERS[(i + i // len(COLOURS)) % len(MARKERS)]


def score_curve(results: Results, half: float) -> Figure:
    """The score against the number of heads: each method's mean, and the range over its seeds' means.

    :param half: half the 95% confidence interval of the unpruned model's mean.
    """
    figure = Figure(figsize=(7.5, 5), layout="constrained")
    axes = figure.subplots()
    rows = results.rows()
    for row in rows:
        if row.label == BASE:
            mean = row.mean(results.metric)
            interval = math.isfinite(half)  # one sentence has none
            if interval:
                axes.axhspan(mean - half, mean + half, color=GREY, alpha=0.15, linewidth=0)
            label = f"{BASE_TITLE} ({row.heads} heads){', 95% CI' if interval else ''}"
            axes.axhline(mean, color=GREY, linestyle="--", label=label)
            axes.plot([row.heads], [mean], color=GREY, marker="*")
    for i, (label, title) in enumerate(_methods(rows).items()):
        points = sorted((row for row in rows if row.label == label), key=lambda row: row.heads)
        heads = [row.mean_heads for row in points]
        colour, marker = look(i)
        axes.plot(heads, [row.mean(results.metric) for row in points], color=colour, marker=marker, label=title)
        if any(len(row.seeds) > 1 for row in points):
            low, high = ([pick(row.of_seeds(results.metric)) for row in points] for pick in (min, max))
            axes.fill_between(heads, low, high, color=colour, alpha=0.2, linewidth=0)
    axes.set_xticks(_apart({row.heads for row in rows}))
    scores = [score for row in rows for score in row.of_seeds(results.metric)]
    if max(scores) - min(scores) < 0.1:  # nothing to see, so no axis that makes something of it
        axes.set_ylim(min(scores) - 1, max(scores) + 1)
    axes.set_xlabel("heads kept")
    axes.set_ylabel(results.title)
    tidy(axes)
    legend(figure)
    return figure


def head_maps(results: Results, label: str) -> Figure:
    """Which heads and units a method keeps: a column a K, a row a type, a cell a unit, shaded by its share of seeds."""
    rows = [row for row in results.rows() if row.label == label and row.runs[0]["scores"]["kept"]]
    sets = [[HeadSet.from_json(run["scores"]["kept"]) for run in row.runs] for row in rows]
    every = list(chain(*sets))
    kinds = [kind for kind in KINDS.values() if all(one.set_of(kind) for one in every)]
    types = [(kind, of_type) for kind in kinds for of_type in kind.types if _layers(every[0], kind, of_type)]
    sizes = rows[0].runs[0]["scores"].get("sizes") or {}
    widths = [sizes.get(of_type) or _width(every, kind, of_type) for kind, of_type in types]
    layers = [len(_layers(every[0], kind, of_type)) for kind, of_type in types]
    cell = min(0.26, 6 / (len(rows) * max(widths)))
    heights = [max(1.0, cell * number) for number in layers]  # the name of a type takes an inch
    figure = Figure(figsize=(7.5, 1.4 + sum(heights)), layout="constrained")
    grid = figure.subplots(len(types), len(rows), squeeze=False, height_ratios=heights)
    for i, ((kind, of_type), width) in enumerate(zip(types, widths, strict=True)):
        for j, (row, own) in enumerate(zip(rows, sets, strict=True)):
            axes = grid[i][j]
            kept = [_layers(one, kind, of_type) for one in own]
            share = [
                [statistics.fmean(unit in one[layer] for one in kept) for unit in range(width)]
                for layer in range(len(kept[0]))
            ]
            axes.pcolormesh(share, cmap="Blues", vmin=0, vmax=1, edgecolors="#bbbbbb", linewidth=0.8)
            axes.invert_yaxis()
            axes.set_aspect("equal")
            axes.set_xticks([])
            axes.set_yticks([layer + 0.5 for layer in range(len(share))], range(1, len(share) + 1) if j == 0 else [])
            axes.tick_params(length=0, labelsize=8)
            count = statistics.fmean(sum(map(len, one)) for one in kept)
            asked = row.share or f"K = {row.heads}"
            axes.set_title((f"{asked}\n" if i == 0 else "") + f"{round(count, 1):g} kept", fontsize=9)
            if j == 0:
                axes.set_ylabel("\n".join([*kind.titles[of_type].split(), "layer"]), fontsize=9)
    return figure


def _layers(heads: HeadSet, kind: Kind, of_type: str) -> Layers:
    """Return what a set keeps of each layer of a type."""
    units = heads.set_of(kind)
    return units.of(of_type) if units else ()


def _width(sets: Sequence[HeadSet], kind: Kind, of_type: str) -> int:
    """Units of a module, where results do not say it: the highest that any set keeps, or as if all had as many."""
    highest = [max(layer, default=-1) + 1 for one in sets for layer in _layers(one, kind, of_type)]
    units = sets[0].set_of(kind)
    return max([*highest, units.total // sum(map(len, units.layers)) if units else 0])


def learning(curves: dict[str, dict[str, Curve]]) -> Figure:
    """Losses, temperature and softness of the gates of a method's trainings against the updates.

    :param curves: for each training, by what the legend calls it, its curves; the unpruned model's in grey.
    """
    names = [name for name in NAMES if any(name in of_run for of_run in curves.values())]
    figure = Figure(figsize=(7.5, 2.6 * ((len(names) + 1) // 2) + 0.6), layout="constrained")
    grid = figure.subplots((len(names) + 1) // 2, 2, squeeze=False)
    pruned = [run for run in curves if run != BASE_TITLE]
    shades = {run: mpl.colormaps["plasma"](i / max(1, len(pruned)) * 0.9) for i, run in enumerate(pruned)}
    for axes, name in zip(grid.flat, names, strict=False):
        for run, of_run in curves.items():
            if name in of_run:
                updates, values = zip(*of_run[name], strict=True)
                look = {"color": shades[run]} if run in shades else {"color": GREY, "linestyle": "--"}
                axes.plot(updates, values, linewidth=1.2, label=run, **look)
        axes.set_title(NAMES[name], fontsize=10)
        if name == "temperature":
            axes.set_yscale("log")
        axes.set_xlabel("updates", fontsize=9)
        axes.tick_params(labelsize=9)
        tidy(axes)
    for axes in list(grid.flat)[len(names) :]:
        axes.set_axis_off()
    legend(figure)
    return figure


def cost(results: Results) -> Figure:
    """The score against parameters and against speed."""
    figure = Figure(figsize=(7.5, 3.8), layout="constrained")
    grid = figure.subplots(1, 2, sharey=True)
    rows = results.rows()
    keys = (("parameters", "parameters, millions", 1e-6), ("sentences_per_second", "sentences a second", 1.0))
    for axes, (key, axis, unit) in zip(grid, keys, strict=True):
        for i, (label, name) in enumerate(({BASE: BASE_TITLE} | _methods(rows)).items()):
            points = [row for row in rows if row.label == label and all(key in run["scores"] for run in row.runs)]
            x = [unit * statistics.fmean(run["scores"][key] for run in row.runs) for row in points]
            colour, marker = (GREY, "*") if label == BASE else look(i - 1)
            axes.plot(
                x, [row.mean(results.metric) for row in points], color=colour, marker=marker, linestyle=":", label=name
            )
        axes.set_xlabel(axis)
        tidy(axes)
    grid[0].set_ylabel(results.title)
    legend(figure)
    return figure


def _methods(rows: Sequence[Row]) -> dict[str, str]:
    """The methods, without the unpruned model: name → title, as plain text for matplotlib."""
    return {row.label: row.title.replace("$", r"\$") for row in rows if row.label != BASE}


def _apart(numbers: set[int]) -> list[int]:
    """The numbers, from the highest down, that leave room for their labels on an axis over all of them."""
    room = 0.035 * (max(numbers) - min(numbers))
    kept: list[int] = []
    for number in sorted(numbers, reverse=True):
        if not kept or kept[-1] - number >= room:
            kept.append(number)
    return kept


def legend(figure: Figure) -> None:
    """One legend for all axes of a figure, below them, where it hides nothing."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    widest = 0.6 + 0.07 * max(map(len, handles), default=0)  # inches: the line, then letters of 9 points
    columns = min(4, max(1, int(figure.get_figwidth() / widest)))
    lines = -(-len(handles) // columns)
    figure.set_figheight(figure.get_figheight() + 0.2 * max(0, lines - 4))  # many leave no room for the axes else
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=columns, frameon=False, fontsize=9)


def tidy(axes: Any) -> None:
    axes.grid(alpha=0.25)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
