"""Draws the pictures of the results pages from the JSON beside them: ``python docs/draw.py``."""

from __future__ import annotations

import json
import statistics
from collections import defaultdict
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

RESULTS = Path(__file__).parent / "results"
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#666666"  # told apart with colour blindness too
ENGINE = "CTranslate2 int8"
LABELS = {
    "half": (7, -8),
    "layers-2-2": (7, -4),
    "layers-2-2-long": (7, 2),
    "sixth-long": (7, -7),
    "layers-2-2-two": (7, -8),
    "halves": (7, -10),
    "two": (6, -9),
    "price-of-flops": (7, -7),
    "two-on": (7, -8),
    "unpruned": (6, -10),
    "four-one-long": (7, 4),
}
LABELS_256 = {
    "unpruned": (-20, 7),
    "units-48": (-25, 9),
    "layers-3-2-on": (7, -2),
    "halves": (-36, -12),
    "layers-3-2": (-54, -3),
    "layers-3-2-16-32": (-54, -8),
    "layers-3-1": (-28, 5),
    "layers-3-1-16": (6, 2),
    "layers-3-1-16-48": (6, -11),
    "layers-3-1-ffn-512": (-76, -9),
}
"""Where labels of the frontiers stand, in points from the model's mark, for those that would meet others."""


def read(name: str) -> Any:
    """The JSON of a results page."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def points(method: str, engine: str) -> list[dict[str, Any]]:
    """The points of a method among the converged models whose speed was measured, the most heads first."""
    found = [p for p in read("multi30k-converged-speed")["points"] if p["method"] == method and p["engine"] == engine]
    return sorted(found, key=lambda p: -p["heads"])


def means(found: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """The mean BLEU of each point, and its standard deviation over the seeds (0 for one seed)."""
    scores = [p["bleu"] for p in found]
    return [statistics.fmean(s) for s in scores], [statistics.stdev(s) if len(s) > 1 else 0.0 for s in scores]


def overview() -> Figure:
    """BLEU and speed of converged models against the number of heads kept."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    free, uniform = ("long", "long9", "few"), ("uniform", "uniform9")
    (stock,) = points("unpruned, fairseq's transformer", "fairseq")
    for axes, methods, engine, colour, style, label in (
        (left, free, "fairseq", BLUE, "-", "any heads"),
        (left, uniform, "fairseq", GREEN, ":", "as many in each module"),
        (right, free, "fairseq", BLUE, "-", "fairseq"),
        (right, free, ENGINE, ORANGE, "-", ENGINE),
        (right, uniform, ENGINE, GREEN, ":", f"{ENGINE}, as many in each module"),
    ):
        found = [p for m in ("unpruned", *methods) for p in points(m, engine)]
        bleu, deviation = means(found)
        values = bleu if axes is left else [p["speed"]["64"] for p in found]
        axes.errorbar(
            [p["heads"] for p in found],
            values,
            yerr=deviation if axes is left else None,
            color=colour,
            linestyle=style,
            marker="o",
            capsize=3,
            label=label,
        )
    left.set(title="BLEU", xlabel="heads kept (of 36)", ylabel="BLEU, four test sets of Multi30k")
    right.axhline(stock["speed"]["64"], color=GREY, linestyle="--", label="stock fairseq, unpruned")
    right.set(title="Speed", xlabel="heads kept (of 36)", ylabel="sentences a second, batches of 64")
    right.set_ylim(0, 1.4 * right.get_ylim()[1])  # the legend is above the points
    for axes in (left, right):
        tidy(axes)
        axes.legend(frameon=False, fontsize=8)
        axes.set_xticks([6, 9, 18, 36])
    return figure


def frontier() -> Figure:
    """BLEU against speed in CTranslate2 with int8, of pruned models 128 wide and of unpruned ones with fewer layers."""
    models = read("frontier")["models"]
    known, new = (
        [m for m in models if m["with translations"] >= 4000],
        [m for m in models if m["with translations"] < 4000],
    )
    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, batch in zip(figure.subplots(1, 2, sharey=True), (1, 64), strict=True):
        against_speed(axes, known, batch, LABELS)
        against_speed(axes, new, batch, LABELS, ", 2,600 updates or fewer with translations")
    return with_legend(figure)


def frontier_256() -> Figure:
    """The same of models 256 wide; seeds of one model are one mark, with a line from the least to the most BLEU."""
    result, speeds, seeds = read("frontier-256"), defaultdict(list), defaultdict(list)
    for measured in result["speed"]:
        speeds[measured["model"]].append(measured)
    for run in result["runs"]:
        seeds[run.get("repeats", run["name"])].append(run["scores"]["test,test1,test2,test3"]["bleu"])
    models = [
        {
            **run,
            "label": run["label"].removesuffix(", 4,000"),  # of most
            "bleu": statistics.fmean(seeds[run["name"]]),
            "seeds": seeds[run["name"]],
            "speed": found,
        }
        for run in result["runs"]
        if "repeats" not in run and (found := speeds[run["name"]])
    ]
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for axes, batch in zip(figure.subplots(1, 2, sharey=True), (1, 64), strict=True):
        against_speed(axes, models, batch, LABELS_256)
        axes.set_xlim(right=5.3)  # for the labels of the fastest
    return with_legend(figure)


def against_speed(
    axes: Axes, models: list[dict[str, Any]], batch: int, labels: dict[str, tuple[int, int]], short: str = ""
) -> None:
    """Draw BLEU against speed; models of a kind that ``short`` tells apart have open marks."""
    for kind, colour, marker in (
        ("pruned", BLUE, "o"),
        ("fewer layers", GREEN, "s"),
        ("narrower", ORANGE, "^"),
        ("unpruned", GREY, "D"),
    ):
        if not (found := [m for m in models if m["kind"] == kind]):
            continue
        speeds, scores = [fast(m, batch) for m in found], [m["bleu"] for m in found]
        name = kind if kind == "unpruned" else kind + short
        axes.plot(speeds, scores, marker, color=colour, markerfacecolor="none" if short else colour, label=name)
        for model, at in zip(found, speeds, strict=True):
            offset = labels.get(model["name"], (6, 3))
            axes.vlines(at, min(each := model.get("seeds", [model["bleu"]])), max(each), colors=colour, linewidth=1)
            axes.annotate(model["label"], (at, model["bleu"]), offset, textcoords="offset points", fontsize=7)
    size = f"batches of {batch}" if batch > 1 else "one sentence"
    axes.set(title=f"{size}, beam 5", xlabel="times as fast as unpruned")
    axes.margins(x=0.25, y=0.1)
    tidy(axes)


def with_legend(figure: Figure) -> Figure:
    """Name the common axis and each kind once."""
    figure.axes[0].set_ylabel("BLEU, four test sets of Multi30k")
    named = dict(zip(*reversed(figure.axes[0].get_legend_handles_labels()), strict=True))
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=4, fontsize=7)
    return figure


def fast(model: dict[str, Any], batch: int) -> float:
    """How many times as fast as the unpruned model one of a frontier is in CTranslate2, int8, beam 5."""
    wanted = ("CTranslate2", "int8", 5, batch)
    keys = ("engine", "precision", "beam", "batch")
    return next(float(s["ratio"]) for s in model["speed"] if tuple(s[k] for k in keys) == wanted)


def speed() -> Figure:
    """Tokens a second against the number of heads, of a model of 72 heads."""
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    results = {(r["model"], r["batch"]): r for r in read("speed")["results"]}
    heads = [72, 36, 18, 8, 4]
    kinds = [
        ("compact", "compact", BLUE),
        ("masked", "masked: heads multiplied by 0", GREY),
        ("CTranslate2 int8", "CTranslate2 int8", ORANGE),
    ]
    for axes, batch in zip(figure.subplots(1, 2), (1, 64), strict=True):
        for kind, label, colour in kinds:
            found = [next(r for (m, b), r in results.items() if b == batch and fits(m, k, kind)) for k in heads]
            axes.plot(heads, [r["tokens_per_second"] for r in found], color=colour, marker="o", label=label)
        stock = results["stock fairseq", batch]["tokens_per_second"]
        axes.axhline(stock, color=GREY, linestyle="--", label="stock fairseq, unpruned")
        axes.set(title=f"batch {batch}", xlabel="heads kept (of 72)", ylabel="tokens a second")
        axes.set_xticks(heads)
        axes.set_ylim(bottom=0)
        tidy(axes)
    figure.axes[0].legend(frameon=False, fontsize=8)
    return figure


def fits(model: str, heads: int, kind: str) -> bool:
    """Whether a model of ``speed.json`` has so many heads and is of a kind."""
    return model.startswith(f"K = {heads}: {kind}")


def tidy(axes: Axes) -> None:
    """A light look: no frame, a faint grid."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def main() -> None:
    """Draw all of them, with text as text."""
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "fairseq-dsp", "font.family": "sans-serif"})
    for draw in (overview, frontier, frontier_256, speed):
        path = RESULTS / f"{draw.__name__.replace('_', '-')}.svg"
        draw().savefig(path, metadata={"Date": None})
        print(f"{path.relative_to(RESULTS.parents[1])}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
