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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils, utils
from fairseq.data import data_utils
from torch import Tensor
from tqdm import tqdm

from ..errors import UserError
from ..files import write_text
from ..model import HeadSet
from ..model.dictionaries import fitting
from ..model.labels import check_labels
from .michel import HeadScores, choose, score


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", help="a trained model: this package's, or fairseq's own transformer or roberta")
    parser.add_argument("--data", required=True, metavar="DATA-BIN", help="the folder of the binarised corpus")
    parser.add_argument("--split", default="valid", help="train or valid (default), never a test set")
    parser.add_argument(
        "--sentences", type=int, metavar="M", help="number of sentences to score on, drawn at random (default: all)"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the random draw (default: 1)")
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
    parser.add_argument("--max-tokens", type=int, default=4000, help="largest batch, in tokens (default: 4000)")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")


def check_arguments(args: argparse.Namespace) -> None:
    """Raise a `UserError` for a test set, or a number that cannot be, whatever the model."""
    if args.split.lower().startswith("test"):
        raise UserError(
            f"--split {args.split} is a test set, and heads chosen on it would bias its score: score on train or valid"
        )
    for name in ("steps", "max_tokens", "sentences"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} is {value}, but it must be 1 or more")
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}, but it must be 0 or more")


def run(args: argparse.Namespace) -> None:
    """Score the heads; print or write what was asked for.

    :raises UserError: if the split is a test set, missing or empty, or an option does not fit the model.
    """
    check_arguments(args)
    model, dataset = _load(args.checkpoint, args.data, args.split)
    device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
    model = model.to(device).float()
    indices, _ = dataset.filter_indices_by_size(np.arange(len(dataset)), model.max_positions())
    if args.sentences is not None and args.sentences < len(indices):
        indices = np.random.default_rng(args.seed).choice(indices, args.sentences, replace=False)
    indices = indices[np.argsort([dataset.num_tokens(i) for i in indices], kind="stable")]
    if not len(indices):
        raise UserError(
            f"the split {args.split} of {args.data} has no sentence within the model's maximum length: give another "
            "split"
        )
    bins = data_utils.batch_by_size(indices, dataset.num_tokens, max_tokens=args.max_tokens)

    def batches() -> Iterator[dict[str, Any]]:
        for batch in tqdm(bins, desc=f"scoring on {args.split}", unit="batch"):
            sample = dataset.collater([dataset[i] for i in batch])
            yield utils.move_to_cuda(sample) if device.type == "cuda" else sample

    def scoring(gates: Tensor) -> HeadScores:
        return score(model, batches(), gates=gates if gates.dim() else None)

    heads: HeadSet | None = None
    try:
        if args.heads_to_keep is None:
            scores = scoring(torch.tensor(1.0))
        else:
            heads, scores = choose(scoring, args.heads_to_keep, steps=args.steps, floor=args.min_heads_per_module)
    except ValueError as error:
        raise UserError(str(error)) from error
    if args.scores:
        write_text(args.scores, json.dumps(scores.to_json()) + "\n")
    if heads is not None and args.out:
        write_text(args.out, heads.to_json() + "\n")
    elif heads is not None:
        print(heads.to_json())
    elif not args.scores:
        print(json.dumps(scores.to_json()))


def _load(checkpoint: str, data: str, split: str) -> tuple[Any, Any]:
    """Return the model of a checkpoint and a dataset of its corpus."""
    for what, path, there in (
        ("checkpoint", checkpoint, Path(checkpoint).is_file()),
        ("corpus", data, Path(data).is_dir()),
    ):
        if not there:
            raise UserError(f"the {what} {path} is missing: give one that fairseq wrote")
    try:
        with fitting(checkpoint, data):
            (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([checkpoint], {"data": data})
    except FileNotFoundError as error:
        raise UserError(
            f"{error.filename} is missing: give --data the folder that fairseq-preprocess made for the model, such as "
            "the data-bin of a prepared corpus"
        ) from error
    check_labels(task, getattr(model, "trained_labels", None))
    try:
        if hasattr(task, "label_dictionary") and not (Path(data) / "input0" / f"{split}.idx").is_file():
            raise FileNotFoundError(split)  # the task of classification fails on it in its own way
        task.load_dataset(split)
    except FileNotFoundError as error:
        raise UserError(f"{data} has no split {split}: give train or valid, or binarise that split first") from error
    except ValueError as error:
        if "empty" not in str(error):  # of a file without a byte, which cannot be mapped into memory
            raise
        raise UserError(f"the split {split} of {data} is empty: give a split that holds sentences") from error
    return model, task.dataset(split)
