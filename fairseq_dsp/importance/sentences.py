"""Sentences of a corpus, with a trained model to put them through."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils, utils
from fairseq.data import data_utils
from fairseq.models.roberta import RobertaModel
from fairseq.models.transformer import TransformerModelBase
from tqdm import tqdm

from ..corpus import data_bin_of
from ..errors import UserError
from ..model.dictionaries import check_words, fitting, of_task
from ..model.finite import check_finite
from ..model.flat_options import NO_FILES
from ..model.kinds import flag
from ..model.labels import check_labels, check_splits


def add_arguments(parser: argparse.ArgumentParser, *, split: str, sentences: int | None) -> None:
    """Add the arguments that say which sentences, with these defaults."""
    parser.add_argument("--data", required=True, metavar="DATA", type=data_bin_of, help="the corpus, or its data-bin")
    parser.add_argument("--split", default=split, help=f"train or valid (default: {split}), never a test set")
    parser.add_argument(
        "--sentences", type=int, default=sentences, metavar="M",
        help=f"number of sentences, drawn at random (default: {sentences or 'all'})",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="seed of the random draw (default: 1)")
    parser.add_argument("--max-tokens", type=int, default=4000, help="largest batch, in tokens (default: 4000)")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")


def check_arguments(args: argparse.Namespace, *counts: str) -> None:
    """Raise a `UserError` for a test set, or a number that cannot be, whatever the model.

    :param counts: further arguments that must be 1 or more.
    """
    if args.split.lower().startswith("test"):
        raise UserError(
            f"--split {args.split} is a test set, and heads chosen on it would bias its score: use train or valid"
        )
    for name in (*counts, "max_tokens", "sentences"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise UserError(f"{flag(name)} is {value}, but it must be 1 or more")
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}, but it must be 0 or more")


class Sentences:
    """Sentences that a trained model can read.

    :param checkpoint: of the model: this package's, or fairseq's own.
    :param args: of `add_arguments`.
    :raises UserError: if the checkpoint or the split is missing, empty, or they do not belong together.
    """

    def __init__(self, checkpoint: str, args: argparse.Namespace) -> None:
        model, self.dataset = _load(checkpoint, args.data, args.split)
        self.device = torch.device("cuda" if torch.cuda.is_available() and not args.cpu else "cpu")
        self.model = model.to(self.device).float()
        self.split = args.split
        indices, _ = self.dataset.filter_indices_by_size(np.arange(len(self.dataset)), model.max_positions())
        if args.sentences is not None and args.sentences < len(indices):
            indices = np.random.default_rng(args.seed).choice(indices, args.sentences, replace=False)
        indices = indices[np.argsort([self.dataset.num_tokens(i) for i in indices], kind="stable")]
        if not len(indices):
            raise UserError(
                f"the split {args.split} of {args.data} has no sentence within the model's maximum length: give "
                "another split"
            )
        longest = self.dataset.num_tokens(indices[-1])  # which has a batch of its own if it is longer than a batch
        tokens = max(args.max_tokens, longest)
        self.bins = data_utils.batch_by_size(indices, self.dataset.num_tokens, max_tokens=tokens)

    def batches(self, doing: str) -> Iterator[dict[str, Any]]:
        """Yield them in batches on the model's device, with a progress bar that says what is done."""
        for batch in tqdm(self.bins, desc=f"{doing} on {self.split}", unit="batch"):
            sample = self.dataset.collater([self.dataset[i] for i in batch])
            yield utils.move_to_cuda(sample) if self.device.type == "cuda" else sample


_FOR_GRADIENTS = dict.fromkeys(("checkpoint_activations", "offload_activations", "left_pad_target"), False)
"""Options without effect on a trained model. A layer whose activations are computed anew has no gradient of its gates
if no parameter needs one, and padding on the left sees nothing but itself, which is NaN."""


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
            overrides = {"data": data, **NO_FILES, **_FOR_GRADIENTS}
            (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([checkpoint], overrides)
    except Exception as error:
        if isinstance(error, FileNotFoundError):
            missing = error.filename
        elif "infer language pair" in str(error):  # an Exception of no class, of a folder without dictionaries
            missing = Path(data) / "dict.txt"
        else:
            raise
        raise UserError(
            f"{missing} is missing: give --data the folder that fairseq-preprocess made for the model, such as "
            "the data-bin of a prepared corpus"
        ) from error
    if not isinstance(model, (TransformerModelBase, RobertaModel)):
        raise UserError(f"{checkpoint} holds a {type(model).__name__}, but a transformer or a roberta is expected")
    check_finite(dict(model.named_parameters()), f"the checkpoint {checkpoint}")
    check_labels(task, getattr(model, "trained_on", None))
    if hasattr(task.cfg, "source_lang"):
        state = checkpoint_utils.load_checkpoint_to_cpu(checkpoint)  # which knows the folder of its training
        check_words(state, checkpoint, Path(data), of_task(task))
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
    check_splits(task)
    return model, task.dataset(split)
