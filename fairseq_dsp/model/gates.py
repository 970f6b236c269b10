"""The gates of a kind of units: importance, and what scales the columns that read a unit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby

import torch
from torch import Tensor, nn

from .kinds import UnitModule

ALL, CHOOSING, FIXED = range(3)
"""The phases of a training: all units stay, as pruning has not begun; units are being chosen; they are fixed."""


class UnitChoice(nn.Module):
    """The importance of all units of one kind, and which of them stay; a part of the model's state dict.

    All of it is floating-point, so that what averages models can average it. Where they disagree, :attr:`kept` holds
    fractions then, and the mean importance says which units stay.

    :param units: N.
    """

    importance: nn.Parameter
    """One number a unit, in float32 whatever the model: half precision would make ties. *Shape:* (N)"""

    kept: Tensor
    """1 for each unit that evaluation keeps, as of the last save or load. *Shape:* (N)"""

    phase: Tensor
    """:data:`ALL`, :data:`CHOOSING` or :data:`FIXED`, likewise. *Shape:* ()"""

    def __init__(self, units: int) -> None:
        super().__init__()
        self.importance = nn.Parameter(torch.zeros(units))
        self.register_buffer("kept", torch.ones(units))
        self.register_buffer("phase", torch.tensor(float(ALL)))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> UnitChoice:
        exact = self.importance.data
        super()._apply(fn, recurse)
        if self.importance.dtype != exact.dtype:
            self.importance.data = exact.to(self.importance.device)
        return self


def to_columns(gates: Tensor, modules: Sequence[UnitModule]) -> Tensor:
    """Return the gate of the unit that each column of the modules' last matrices reads, differentiable.

    :param gates: *Shape:* (N).
    :return: *Shape:* (sum of units · width over the modules).
    """
    widths = [(width, sum(m.units for m in same)) for width, same in groupby(modules, lambda module: module.width)]
    parts = gates.split([units for _, units in widths])
    columns = [part.unsqueeze(1).expand(-1, width).flatten() for part, (width, _) in zip(parts, widths, strict=True)]
    return columns[0] if len(columns) == 1 else torch.cat(columns)


def scale_columns(weight: Tensor, factors: Tensor) -> Tensor:
    """Return a matrix with its columns scaled, rounded once to its own precision.

    In half precision the gradient of a factor is summed in float32: the sum over a column may overflow.

    :param weight: *Shape:* (…, C, columns).
    :param factors: float32. *Shape:* (columns), or (…, 1, columns)
    """
    return (weight * factors).to(weight.dtype)
