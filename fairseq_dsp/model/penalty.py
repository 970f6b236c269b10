"""The weight λ of the L0 penalty, which may follow the number of heads that are open."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Multiplier(nn.Module):
    """The penalty's weight as an augmented Lagrangian makes it, for the constraint E[open] = K.

    The weight is λ + ρ · (E[open] − K): negative, too, where more heads shall open. After each update

        λ ← λ + rate · ρ · (E[open] − K),

    so that λ ends where it balances the loss. λ and the update it was adapted for are buffers: checkpoints hold them,
    and a resumed run goes on with them.

    :param stiffness: ρ, above 0.
    :param rate: how fast λ moves.
    :param wanted: K, the number of heads that shall be open.
    """

    value: Tensor
    """λ, in float32 whatever the model; 0 at first. *Shape:* ()"""

    update: Tensor
    """The update that λ was last adapted for. *Shape:* ()"""

    def __init__(self, stiffness: float, rate: float, wanted: int) -> None:
        super().__init__()
        self.stiffness, self.rate, self.wanted = stiffness, rate, wanted
        self.register_buffer("value", torch.zeros((), dtype=torch.float32))
        self.register_buffer("update", torch.tensor(0))

    def adapt(self, update: int, expected_open: Tensor) -> None:
        """Move λ once for each update, however many forward passes it takes.

        :param update: number of updates made so far; nothing happens before the first one.
        :param expected_open: the expected number of open heads, a scalar.
        """
        if update != int(self.update):
            self.value += self.rate * self.stiffness * (float(expected_open) - self.wanted)
            self.update.fill_(update)

    def weight(self, expected_open: Tensor) -> float:
        """Return the weight of the penalty, given the expected number of open heads, a scalar."""
        return float(self.value) + self.stiffness * (float(expected_open) - self.wanted)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Multiplier:
        exact = self.value
        super()._apply(fn, recurse)
        if self.value.dtype != exact.dtype:
            self.value = exact.to(self.value.device)
        return self
