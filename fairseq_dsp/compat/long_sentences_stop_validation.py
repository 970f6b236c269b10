"""One long sentence of the validation set costs the training an epoch.

Broken: ve-fairseq 0.12.3 trains a whole epoch and then ends in an error at the first validation, when a sentence of the
validation set is longer than the model's positions or than ``--max-tokens-valid``. What it leaves out of training it
does not leave out there, unless ``--skip-invalid-size-inputs-valid-test`` is given.

Fix: a sentence beyond the positions is left out of the validation loss with fairseq's own warning, and one beyond
the tokens of a batch has a batch of its own. Can go when fairseq validates on what is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from fairseq import utils
from fairseq.trainer import Trainer
from omegaconf import open_dict

from fairseq_dsp.wrapping import wrap


def apply() -> None:
    """Wrap the function with which a training makes the batches of its validation."""
    wrap(Trainer, "get_valid_iterator", _leaving_out)


def _leaving_out(stock: Callable[..., Any], self: Any, subset: str, *args: Any, **kwargs: Any) -> Any:
    options = self.cfg.dataset
    before = {name: options[name] for name in ("skip_invalid_size_inputs_valid_test", "max_tokens_valid")}
    now: dict[str, Any] = {"skip_invalid_size_inputs_valid_test": True}
    if before["max_tokens_valid"] is not None:
        now["max_tokens_valid"] = max(before["max_tokens_valid"], _longest(self, subset))
    with open_dict(options):
        options.update(now)
        try:
            return stock(self, subset, *args, **kwargs)
        finally:
            options.update(before)


def _longest(trainer: Any, subset: str) -> int:
    """The number of tokens of the longest sentence that the model can take; 0 where a data set does not tell."""
    data = trainer.task.dataset(subset)
    limits = utils.resolve_max_positions(trainer.task.max_positions(), trainer.model.max_positions())
    try:
        indices, _ = data.filter_indices_by_size(np.arange(len(data)), limits)
        return int(max(data.num_tokens_vec(indices), default=0))
    except NotImplementedError:
        return 0
