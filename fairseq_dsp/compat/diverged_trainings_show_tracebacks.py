"""A training whose gradients are no numbers any more ends in a traceback.

Broken: in ve-fairseq 0.12.3 ``Trainer.train_step`` raises a ``FloatingPointError``: "gradients are Nan/Inf", or
that the loss scale is at its minimum. Before that it writes ``crash.pt`` and looks for the module at fault, by hooks
that torch 2 ends with a ``StopIteration``. No module is at fault where a training diverges.

Fix: a `UserError` says so, with the update, what to change and what is left. Gradients that differ between processes,
for which fairseq raises the same error, keep theirs. Can go when fairseq says it in one sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fairseq.trainer import Trainer

from fairseq_dsp.errors import UserError, find_in_chain
from fairseq_dsp.wrapping import wrap


def apply() -> None:
    """Wrap the training step."""
    wrap(Trainer, "train_step", _explaining)


def _explaining(stock: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return stock(self, *args, **kwargs)
    except Exception as error:
        found = find_in_chain(error, FloatingPointError)
        if found is None or "inconsistent" in str(found) or find_in_chain(error, OSError):  # crash.pt cannot be written
            raise
        raise UserError(
            f"the gradients of update {self.get_num_updates() + 1} hold a NaN or an infinity "
            f"({str(found).split('. ')[0]}), so training stops: lower --lr, or give --clip-norm or more "
            "--warmup-updates; the checkpoints already there are whole, and crash.pt beside them is the model as it was"
        ) from error
