"""The weight λ of the L0 penalty, which may follow the number of heads that are open."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class Multiplier(nn.Module):
    """λ as a Lagrange multiplier: it rises while more heads are open than wanted, and falls while fewer are.

    Dual ascent on log λ, so that λ stays positive and the rate means the same for any size of the loss:

        log λ ← log λ + rate · (E[open] − K) / N.

    λ and the update that it was adapted for are buffers: checkpoints hold them, and a resumed run goes on with them.

    :param start: the first λ, above 0.
    :param rate: how fast log λ moves.
    :param wanted: K, the number of heads that shall be open.
    :param heads: N, the number of heads there are.
    """

    value: Tensor
    """λ, in float32 whatever the model. *Shape:* ()"""

    update: Tensor
    """The update that λ was last adapted for. *Shape:* ()"""

    def __init__(self, start: float, rate: float, wanted: int, heads: int) -> None:
        super().__init__()
        self.rate, self.wanted, self.heads = rate, wanted, heads
        self.register_buffer("value", torch.tensor(start, dtype=torch.float32))
        self.register_buffer("update", torch.tensor(0))

    def adapt(self, update: int, expected_open: Tensor) -> None:
        """Move λ once for each update, however many forward passes it takes.

        :param update: number of updates made so far; nothing happens before the first one.
        :param expected_open: the expected number of open heads, a scalar.
        """
        if update != int(self.update):
            excess = (float(expected_open) - self.wanted) / self.heads
            self.value.mul_(math.exp(self.rate * excess))
            self.update.fill_(update)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Multiplier:
        exact = self.value
        super()._apply(fn, recurse)
        if self.value.dtype != exact.dtype:
            self.value = exact.to(self.value.device)
        return self
