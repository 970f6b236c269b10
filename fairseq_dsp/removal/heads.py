"""Read a checkpoint, nothing else (no corpus, no dictionary), and show which heads the model keeps.

text: a map with one row for each attention module, a # for each head kept and a . for each other one, then the
importance that each head was given in training.
json: the set of heads, which --kept-heads FILE reads.
png: the same map in colours; --output says where to.

examples:
  fairseq-dsp heads checkpoints/checkpoint_best.pt
  fairseq-dsp heads checkpoints/checkpoint_best.pt --heads-to-keep 8 --format json --output heads.json
  fairseq-dsp heads checkpoints/checkpoint_best.pt --format png --output heads.png
"""

from __future__ import annotations

import argparse
import io
import logging
from typing import Any

from ..errors import UserError
from ..files import check_target, write_files
from ..model import HEADS
from .checkpoint import TrainedModel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a model with pruned heads, compact or not")
    parser.add_argument("--heads-to-keep", type=int, metavar="K", help="show the best K heads, whatever K was trained")
    parser.add_argument("--format", choices=["text", "json", "png"], default="text", help="default: text")
    parser.add_argument("--output", metavar="FILE", help="write to a new file, not to the terminal")


def run(args: argparse.Namespace) -> None:
    """Show the heads."""
    if args.format == "png" and args.output is None:
        raise UserError("a picture needs a file to be written to: give --output FILE.png")
    target = None if args.output is None else check_target(args.output)
    model = TrainedModel.read(args.checkpoint, heads_to_keep=args.heads_to_keep)
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


def rows(model: TrainedModel) -> list[tuple[str, int, list[bool], list[float]]]:
    """Return type, layer, whether each head is kept and each head's importance, for each attention module."""
    importance = iter([] if model.importance is None else model.importance.tolist())
    return [
        (
            kind,
            layer,
            [h in model.heads.of(kind)[layer] for h in range(heads)],
            [next(importance) for _ in range(heads if model.importance is not None else 0)],
        )
        for kind in HEADS.types
        for layer, heads in enumerate(model.shape[kind])
    ]


def kinds(model: TrainedModel) -> list[str]:
    """Return the attention types to show: those of which the model's architecture has any."""
    return model.model_class.architecture.types(HEADS)


def text_map(model: TrainedModel) -> str:
    """Return the heads as text."""
    lines = [f"{model.heads.kept} of {model.heads.total} heads are kept"]
    if model.is_compact:
        lines[0] += "; the others, and the importances, are gone: this model is compact"
    elif not model.chosen:
        lines[0] += ": this model was not pruned"
    for kind in kinds(model):
        table = [row for row in rows(model) if row[0] == kind]
        kept = sum(sum(row[2]) for row in table)
        lines += ["", f"{HEADS.titles[kind]}: {kept} of {sum(len(row[2]) for row in table)}"]
        for _, layer, keeps, importance in table:
            marks = " ".join("#" if keep else "." for keep in keeps)
            numbers = " ".join(f"{value:8.3f}" for value in importance)
            lines.append(f"  layer {layer:2d}   {marks}   {sum(keeps)} kept   {numbers}".rstrip())
    return "\n".join(lines)


def picture(model: TrainedModel) -> Any:
    """Return the heads as a matplotlib figure: a frame around each head kept, its importance as number and colour."""
    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq turns everybody's debugging messages on
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    table = rows(model)
    widest = max(len(row[2]) for row in table)
    tallest = max(len(layers) for layers in model.shape.values())
    shown = kinds(model)
    figure = Figure(figsize=(len(shown) * (0.75 * widest + 0.6), 0.55 * tallest + 1.6), layout="constrained")
    figure.suptitle(f"{model.heads.kept} of {model.heads.total} heads kept")
    values = [v for row in table for v in row[3]] or [0.0, 1.0]
    limits = (min(values), max(values) if max(values) > min(values) else min(values) + 1)
    for axes, kind in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        own = [row for row in table if row[0] == kind]
        if own:
            numbers = [row[3] or [float(keep) for keep in row[2]] for row in own]
            axes.imshow(numbers, cmap="Blues", vmin=limits[0], vmax=limits[1], aspect="auto")
        middle = sum(limits) / 2
        for _, layer, keeps, importance in own:
            for head, keep in enumerate(keeps):
                if importance:
                    colour = "white" if importance[head] > middle else "black"
                    axes.text(head, layer, f"{importance[head]:.2f}", ha="center", va="center", color=colour, size=8)
                if keep:
                    frame = Rectangle((head - 0.46, layer - 0.46), 0.92, 0.92, fill=False, edgecolor="C1", linewidth=3)
                    axes.add_patch(frame)
        axes.set_title(f"{HEADS.titles[kind]}: {sum(sum(row[2]) for row in own)}", size=10)
        axes.set_xticks(range(max((len(row[2]) for row in own), default=0)))
        axes.set_yticks(range(len(own)))
        axes.set_xlabel("head (framed: kept)")
        axes.set_ylabel("layer")
    return figure
