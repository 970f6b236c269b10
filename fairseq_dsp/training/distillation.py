"""Learning from an unpruned model: its distribution over the next subword as a second target (Hinton et al. 2015)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from fairseq import checkpoint_utils
from torch import Tensor

from ..errors import UserError


class Teacher:
    """A trained model of fairseq with the dictionaries of the task; not trained, saved or moved with the student.

    :param path: its checkpoint.
    :param task: the task of the training.
    :raises UserError: if the file is missing, or the model's dictionaries are of other sizes.
    """

    def __init__(self, path: str, task: Any) -> None:
        if not Path(path).is_file():
            raise UserError(f"--distill-from {path} is missing: give the checkpoint of a trained model")
        self._path = path
        try:
            (model,), _ = checkpoint_utils.load_model_ensemble([path], task=task)
        except RuntimeError as error:  # of sizes that differ
            raise UserError(
                f"--distill-from {path} cannot be loaded with this training's dictionaries ({error}): give a model "
                "that was trained on the same data-bin"
            ) from error
        self._model = model.eval().requires_grad_(False)

    def log_probabilities(self, sample: dict[str, Any]) -> Tensor:
        """Return the log-probabilities of the next subword. *Shape:* (B, T, V)"""
        source = sample["net_input"]["src_tokens"]
        if next(self._model.parameters()).device != source.device:
            self._model.to(source.device)
        with torch.no_grad():
            output = self._model(**sample["net_input"])
            result: Tensor = self._model.get_normalized_probs(output, log_probs=True)
        return result
