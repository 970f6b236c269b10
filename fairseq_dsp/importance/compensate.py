"""Heads that stay take over what they can of the others: for given heads, the output projections of a trained model
are fitted by least squares, before its weights train on. OUT is the checkpoint with these projections and all its
heads, without the state of the optimiser. Feed-forward units of the set are treated alike.

example: choose half of the heads of a trained model at once, and train it on with these
  fairseq-dsp score-heads base.pt --data data-bin --split train --sentences 2000 --heads-to-keep 36 --steps 6 \\
      --out heads.json
  fairseq-dsp compensate base.pt start.pt --data data-bin --kept-heads heads.json
  fairseq-train data-bin --user-dir fairseq_dsp --arch transformer_dsp_iwslt_de_en --head-selection fixed \\
      --kept-heads heads.json --finetune-from-model start.pt ...
"""

from __future__ import annotations

import argparse

import torch

from ..errors import UserError
from ..files import check_target, write_files
from ..model import HeadSet
from . import sentences
from .compensation import compensate
from .sentences import check_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", help="a trained model: this package's, or fairseq's own transformer or roberta")
    parser.add_argument("out", metavar="OUT", help="checkpoint to write; must not exist")
    parser.add_argument("--kept-heads", required=True, metavar="FILE", help="JSON file with the heads that stay")
    sentences.add_arguments(parser, split="train", sentences=2000)


def run(args: argparse.Namespace) -> None:
    """Write the checkpoint.

    :raises UserError: if a file is missing, the heads do not fit the model, or it has not all its heads.
    """
    check_arguments(args)
    out = check_target(args.out)
    read = sentences.Sentences(args.checkpoint, args)
    try:
        heads = HeadSet.read(args.kept_heads)
        projections = compensate(read.model, read.batches("fitting"), heads)
    except ValueError as error:
        raise UserError(f"{args.kept_heads} and {args.checkpoint}: {error}") from error
    state = torch.load(args.checkpoint, map_location="cpu", weights_only=True)
    for name, value in projections.items():
        state["model"][name] = value.cpu().to(state["model"][name])
    # an average, of the weights before, would stay; a training that starts here makes another
    extra = {name: value for name, value in state["extra_state"].items() if not name.startswith("ema")}
    write_files({out: state | {"last_optimizer_state": None, "extra_state": extra}})
    print(f"{out}: {len(projections) // 2} output projections fitted for {heads.counts()}")
