"""``fairseq-train --fp16 --cpu``.

Broken: ve-fairseq 0.12.3 gathers the gradients of ``--fp16`` by the number of their GPU. Those on a CPU have none, so
on a machine with a GPU no parameter ever moves, without a word; on one without a GPU the training ends in a traceback.

Fix: refused. Can go when fairseq gathers the gradients of a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fairseq.trainer import Trainer

from fairseq_dsp.errors import UserError
from fairseq_dsp.wrapping import wrap


def apply() -> None:
    """Wrap the function in which fairseq's trainer builds an optimiser."""
    wrap(Trainer, "_build_optimizer", _refusing)


def _refusing(stock_build: Callable[[Any], None], self: Any) -> None:
    common = self.cfg.common
    if common.fp16 and not (self.cuda or common.memory_efficient_fp16 or common.fp16_no_flatten_grads):
        raise UserError("--fp16 needs a GPU, but this training is on the CPU: leave out --fp16, or give --bf16.")
    stock_build(self)
