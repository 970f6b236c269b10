"""Learning from an unpruned model: its distribution over the next subword as a second target (Hinton et al. 2015)."""

from __future__ import annotations

import contextlib
import copy
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq import checkpoint_utils
from fairseq.models import FairseqEncoderDecoderModel
from fairseq.modules import LearnedPositionalEmbedding
from fairseq.trainer import Trainer
from torch import Tensor

from ..errors import UserError
from ..model.dictionaries import check_words, fitting, of_task
from ..model.finite import check_finite
from ..model.flat_options import NO_FILES
from ..wrapping import wrap


class Teacher:
    """A trained model of fairseq with the dictionaries of the task; not trained, saved or moved with the student.

    Reading it changes nothing of the training: the random generators, the task and what the task validates with stay
    as they are.

    :param path: its checkpoint.
    :param task: the task of the training.
    :raises UserError: if the file is missing or cannot be read, if it holds no translation model, a weight that is not
        finite, or a model of other dictionaries.
    """

    def __init__(self, path: str, task: Any) -> None:
        state = checkpoint_utils.load_checkpoint_to_cpu(path, NO_FILES)
        check_words(state, path, Path(str(task.cfg.data).partition(":")[0]), of_task(task))
        state.pop("task_state", None)  # the training's own is another
        with _generators_untouched(), fitting(f"--distill-from {path}", "this training's data-bin"):
            # with --eval-bleu a task keeps a generator for the last model it built: the copy may keep this one
            (model,), _ = checkpoint_utils.load_model_ensemble([path], task=copy.copy(task), state=state)
        if not isinstance(model, FairseqEncoderDecoderModel):
            raise UserError(
                f"--distill-from {path} holds a {type(model).__name__}, but a model with an encoder and a decoder is "
                "expected: give the checkpoint of a translation model"
            )
        check_finite(dict(model.named_parameters()), f"--distill-from {path}")
        if any(isinstance(module, LearnedPositionalEmbedding) for module in model.modules()):
            for side, taken, theirs in zip(
                ("source", "target"), task.max_positions(), model.max_positions(), strict=True
            ):
                if taken > theirs:
                    raise UserError(
                        f"--distill-from {path} has {theirs} {side} positions, but this training takes sentences of up "
                        f"to {taken}: give --max-{side}-positions {theirs}"
                    )
        self._model = model.eval().requires_grad_(False)

    def log_probabilities(self, sample: dict[str, Any], like: Tensor) -> Tensor:
        """Return the log-probabilities of the next subword in float32. *Shape:* (B, T, V)

        :param like: a weight of the student; the teacher computes on the same device and with the same precision.
        """
        own = next(self._model.parameters())
        if (own.device, own.dtype) != (like.device, like.dtype):
            self._model.to(like)
        with torch.no_grad():
            output = self._model(**sample["net_input"])
            result: Tensor = self._model.get_normalized_probs(output, log_probs=True)
        return result


@contextlib.contextmanager
def _generators_untouched() -> Iterator[None]:
    """Put back the random generators that building a model on the CPU draws from."""
    python, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)


def install() -> None:
    """Have fairseq's trainer tell the criterion that a training starts.

    fairseq builds the criterion alike to train and to validate, and only a training needs the teacher.
    """
    wrap(Trainer, "__init__", _telling_the_criterion)


def _telling_the_criterion(
    stock: Callable[..., None], self: Any, cfg: Any, task: Any, model: Any, criterion: Any, *args: Any, **kwargs: Any
) -> None:
    if hasattr(criterion, "before_training"):
        criterion.before_training()
    stock(self, cfg, task, model, criterion, *args, **kwargs)
