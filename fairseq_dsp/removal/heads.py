"""Read a checkpoint, nothing else (no corpus, no dictionary), and show which heads and feed-forward units it keeps.

text: a map with one row for each module, a # for each head or unit kept and a . for each other one, then the importance
that each was given in training.
json: the set of heads and units, which --kept-heads FILE reads.
png: the same map in colours; --output says where to.

examples:
  fairseq-dsp heads checkpoints/checkpoint_best.pt
  fairseq-dsp heads checkpoints/checkpoint_best.pt --heads-to-keep 8 --format json --output heads.json
  fairseq-dsp heads checkpoints/checkpoint_best.pt --format png --output heads.png
"""

from __future__ import annotations

import argparse
import io
from typing import Any

from ..errors import UserError
from ..files import check_target, write_files
from ..model import UnitSet
from .checkpoint import TrainedModel, add_budgets, budgets

_CELL, _WIDEST = 0.75, 60.0
"""The width of a unit in a picture, and that of all units of a kind at most, in inches."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a model with pruned heads, compact or not")
    add_budgets(parser)
    parser.add_argument("--format", choices=["text", "json", "png"], default="text", help="default: text")
    parser.add_argument("--output", metavar="FILE", help="write to a new file, not to the terminal")


def run(args: argparse.Namespace) -> None:
    """Show the heads and units."""
    if args.format == "png" and args.output is None:
        raise UserError("a picture needs a file to be written to: give --output FILE.png")
    target = None if args.output is None else check_target(args.output)
    model = TrainedModel.read(args.checkpoint, **budgets(args))
    content: str | bytes
    if args.format == "png":
        image = io.BytesIO()
        picture(model).savefig(image, format="png", dpi=150)
        content = image.getvalue()
    else:
        content = (model.heads.to_json() if args.format == "json" else text_map(model)) + "\n"
    if target is None:
        print(content, end="")
    else:
        write_files({target: content})


Row = tuple[int, list[bool], list[float]]


def rows(model: TrainedModel, units: UnitSet) -> dict[str, list[Row]]:
    """Return the modules of a kind: for each of its types that the model has, the rows of its map.

    :return: for each module, its layer, whether each unit is kept, and each unit's importance, if there is one.
    """
    scores = (model.importance or {}).get(units.kind.name)
    importance = None if scores is None else iter(scores.tolist())
    table: dict[str, list[Row]] = {kind: [] for kind in model.model_class.architecture.types(units.kind)}
    for module, kept in model.kept_by_module():
        if module.kind is units.kind:
            keeps = [unit in kept for unit in range(module.units)]
            values = [] if importance is None else [next(importance) for _ in keeps]
            table[module.type].append((module.layer, keeps, values))
    return table


def text_map(model: TrainedModel) -> str:
    """Return the heads and units as text."""
    lines = [f"{model.heads.counts()} are kept"]
    if model.is_compact:
        lines[0] += "; the others, and the importances, are gone: this model is compact"
    elif not model.chosen:
        lines[0] += ": this model was not pruned"
    elif model.range is not None:
        lines[0] += "; this model was trained for every number of heads from {} to {}".format(*model.range)
    for units in model.heads.all:
        for kind, table in rows(model, units).items():
            kept = sum(sum(keeps) for _, keeps, _ in table)
            title = units.kind.titles[kind]
            if units.width is not None:
                title += f", units of {units.width}"
            lines += ["", f"{title}: {kept} of {sum(len(keeps) for _, keeps, _ in table)}"]
            for layer, keeps, importance in table:
                marks = " ".join("#" if keep else "." for keep in keeps)
                numbers = " ".join(f"{value:8.3f}" for value in importance)
                lines.append(f"  layer {layer:2d}   {marks}   {sum(keeps)} kept   {numbers}".rstrip())
    return "\n".join(lines)


def picture(model: TrainedModel) -> Any:
    """Return the map as a matplotlib figure: a frame around each unit kept, its importance as number and colour.

    The kinds of units are one below the other, with colours of their own.
    """
    from matplotlib.figure import Figure

    tables = [(units, rows(model, units)) for units in model.heads.all]
    counts = [len(own) * max(len(keeps) for table in own.values() for _, keeps, _ in table) for _, own in tables]
    widths = [min(_CELL * count, _WIDEST) for count in counts]
    heights = [0.55 * max(map(len, own.values())) + 1.0 for _, own in tables]
    most = max(len(own) for _, own in tables)
    figure = Figure(figsize=(max(widths) + 0.6 * most, sum(heights) + 0.6), layout="constrained")
    figure.suptitle(f"{model.heads.counts()} kept")
    parts = figure.subfigures(len(tables), 1, squeeze=False, height_ratios=heights)[:, 0]
    for part, count, (units, table) in zip(parts, counts, tables, strict=True):
        fits = _CELL * count <= _WIDEST
        values = [v for own in table.values() for _, _, row in own for v in row] or [0.0, 1.0]
        limits = (min(values), max(values) if max(values) > min(values) else min(values) + 1)
        for axes, (kind, own) in zip(part.subplots(1, len(table), squeeze=False)[0], table.items(), strict=True):
            _draw(axes, own, limits, fits=fits)
            axes.set_title(f"{units.kind.titles[kind]}: {sum(sum(keeps) for _, keeps, _ in own)}", size=10)
            axes.set_xlabel(f"{units.kind.unit} ({'framed' if fits else 'orange'}: kept)")
            axes.set_ylabel("layer")
    return figure


def _draw(axes: Any, table: list[Row], limits: tuple[float, float], *, fits: bool) -> None:
    """Draw the modules of a type: colours between two *limits* of the importance.

    :param fits: whether a unit has room for a frame, its number and its importance; else what is kept has a bar below.
    """
    from matplotlib.patches import Rectangle

    if table:
        numbers = [importance or [float(keep) for keep in keeps] for _, keeps, importance in table]
        axes.imshow(numbers, cmap="Blues", vmin=limits[0], vmax=limits[1], aspect="auto")
    for layer, keeps, importance in table:
        for unit, keep in enumerate(keeps):
            if not fits:
                if keep:
                    axes.add_patch(Rectangle((unit - 0.5, layer + 0.36), 1, 0.1, facecolor="C1", linewidth=0))
                continue
            if importance:
                colour = "white" if importance[unit] > sum(limits) / 2 else "black"
                axes.text(unit, layer, f"{importance[unit]:.2f}", ha="center", va="center", color=colour, size=8)
            if keep:
                frame = Rectangle((unit - 0.46, layer - 0.46), 0.92, 0.92, fill=False, edgecolor="C1", linewidth=3)
                axes.add_patch(frame)
    if fits:
        axes.set_xticks(range(max((len(keeps) for _, keeps, _ in table), default=0)))
    axes.set_yticks(range(len(table)))
