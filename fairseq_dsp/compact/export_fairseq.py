"""OUT is a checkpoint of fairseq's own `transformer`, for fairseq without this plugin, with the same translations: the
gates are in the weights, and the heads that are not kept are zeros. So it is as large and as slow as an unpruned model.
Its configuration is plain values, which torch's safe loading takes in a fairseq without this plugin's mends too.

example:
  fairseq-dsp export-fairseq checkpoints/checkpoint_best.pt stock.pt
  fairseq-generate data-bin --path stock.pt --beam 5
"""

from __future__ import annotations

import argparse
from typing import Any

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY

from ..model.config import flat_names
from .checkpoint import TrainedModel, check_target, write_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a pruned model, compact or not")
    parser.add_argument("out", metavar="OUT", help="checkpoint to write; must not exist")
    parser.add_argument("--heads-to-keep", type=int, metavar="K", help="keep the best K heads, whatever K was trained")


def run(args: argparse.Namespace) -> None:
    """Make the stock checkpoint."""
    out = check_target(args.out)
    model = TrainedModel.read(args.checkpoint, heads_to_keep=args.heads_to_keep)
    write_files({out: stock_state(model)})
    print(f"{out}: a stock transformer; fairseq-generate DATA --path {out} --beam 5")


def stock_state(model: TrainedModel) -> dict[str, Any]:
    """Return the state of a stock checkpoint that computes the same."""
    options = {name: value for name, value in vars(model.options).items() if name in flat_names()}
    state = model.state_with(model.full_parameters(), {**options, "_name": "transformer", "arch": "transformer"})
    for part in ("task", "criterion"):
        settings = state["cfg"].get(part)
        if settings and settings.get("_name"):
            settings["_name"] = settings["_name"].removesuffix("_dsp")
    criterion = state["cfg"].get("criterion")
    if criterion and (stock := CRITERION_DATACLASS_REGISTRY.get(criterion.get("_name"))):
        state["cfg"]["criterion"] = {k: v for k, v in criterion.items() if k in stock.__dataclass_fields__}
    common = state["cfg"].get("common")
    if common:
        common["user_dir"] = None
    return {**state, "criterion": None}
