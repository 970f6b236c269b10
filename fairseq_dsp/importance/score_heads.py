"""Michel et al.'s importance: how much the loss of a sentence changes when a head's output is scaled, on average.

example: score a trained model on its training set, and retrain it with the 18 best heads
  fairseq-dsp score-heads checkpoints/base/checkpoint_best.pt --data data-bin --split train --sentences 5000 \\
      --heads-to-keep 18 --steps 6 --out heads.json
  fairseq-train data-bin --user-dir fairseq_dsp --arch transformer_dsp_iwslt_de_en --head-selection fixed \\
      --kept-heads heads.json --finetune-from-model checkpoints/base/checkpoint_best.pt ...

The heads are chosen on train or valid, never on test: the score on a test set that chose the heads would be biased.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from fairseq import checkpoint_utils
from torch import Tensor

from ..errors import UserError
from ..files import check_writable, write_text
from ..model import HeadSet, PrunableModel
from ..model.kinds import flag
from ..model.labels import check_fine_tuned
from ..model.units import shape_of
from . import sentences
from .michel import HeadScores, choose, modules_with_all_heads, score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", help="a trained model: this package's, or fairseq's own transformer or roberta")
    sentences.add_arguments(parser, split="valid", sentences=None)
    parser.add_argument("--heads-to-keep", type=int, metavar="K", help="choose the K best heads")
    parser.add_argument(
        "--steps", type=int, default=1, help="remove the other heads greedily in this many steps (default: 1)"
    )
    parser.add_argument(
        "--min-heads-per-module", type=int, default=0, metavar="M", help="keep at least M heads in each module"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="file for the chosen heads, as JSON (default: print them)"
    )
    parser.add_argument("--scores", type=Path, metavar="FILE", help="file for the scores of all heads, as JSON")


def check_arguments(args: argparse.Namespace) -> None:
    """Raise a `UserError` for a test set, or a number that cannot be, whatever the model."""
    sentences.check_arguments(args, "steps")
    if args.min_heads_per_module < 0:
        raise UserError(f"--min-heads-per-module is {args.min_heads_per_module}, but it must be 0 or more")
    for name, default in {"out": None, "steps": 1, "min_heads_per_module": 0}.items():
        if args.heads_to_keep is None and getattr(args, name) != default:
            raise UserError(
                f"{flag(name)} is given without --heads-to-keep K, how many heads to choose: give both, or neither"
            )
    check_writable(args.out, args.scores)


def run(args: argparse.Namespace) -> None:
    """Score the heads; print or write what was asked for.

    :raises UserError: if the split is a test set, missing or empty, or an option does not fit the model.
    """
    check_arguments(args)
    scored = sentences.Sentences(args.checkpoint, args)
    if not hasattr(scored.model, "decoder"):
        check_fine_tuned(checkpoint_utils.load_checkpoint_to_cpu(args.checkpoint), args.checkpoint)

    def scoring(gates: Tensor) -> HeadScores:
        return score(scored.model, scored.batches("scoring"), gates=gates if gates.dim() else None)

    heads: HeadSet | None = None
    try:
        if args.heads_to_keep is None:
            scores = scoring(torch.tensor(1.0))
        else:
            shape = shape_of(modules_with_all_heads(scored.model))
            heads, scores = choose(
                scoring, shape, args.heads_to_keep, steps=args.steps, floor=args.min_heads_per_module
            )
    except ValueError as error:
        raise UserError(str(error)) from error
    if heads is not None and isinstance(scored.model, PrunableModel):
        heads = replace(heads, others=scored.model.kept().others)  # which it was scored with
    if args.scores:
        write_text(args.scores, json.dumps(scores.to_json()) + "\n")
    if heads is not None and args.out:
        write_text(args.out, heads.to_json() + "\n")
    elif heads is not None:
        print(heads.to_json())
    elif not args.scores:
        print(json.dumps(scores.to_json()))
