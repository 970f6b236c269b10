"""The gates of a kind of units: importance, the way from it into the modules, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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


def enter_gates(x: Tensor, gates: Tensor, sizes: Sequence[int]) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Cut gates into one leaf for each module, whose gradients reach *gates* once in each backward pass.

    Modules use their leaves anywhere in the forward pass after this call, activation checkpointing included, which goes
    backward through each layer by itself. autograd works through its nodes from the last made to the first: so the
    gradient of *x*, where the forward pass begins, is computed when all modules have left theirs in the leaves.

    :param x: what the forward pass begins with; returned unchanged.
    :param gates: float32; of units or of columns. *Shape:* (N)
    :param sizes: number of them for each module.
    """
    leaves = tuple(part.requires_grad_(gates.requires_grad) for part in gates.detach().split(list(sizes)))
    if gates.requires_grad and torch.is_grad_enabled():
        x = _Enter.apply(x, gates, leaves)
    return x, leaves


def enter_again(x: Tensor, gates: Tensor, leaves: tuple[Tensor, ...]) -> Tensor:
    """Return *x*, from which on the gradients of the same leaves reach *gates* too: another place to begin from."""
    entered: Tensor = _Enter.apply(x, gates, leaves)
    return entered


class _Enter(torch.autograd.Function):
    """The identity of its first argument; backward, the gradient of the second is the one left in the leaves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gates: Tensor, leaves: tuple[Tensor, ...]) -> Tensor:
        ctx.leaves = leaves
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        parts = [torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in ctx.leaves]
        for leaf in ctx.leaves:
            leaf.grad = None
        return grad if ctx.needs_input_grad[0] else None, torch.cat(parts), None


def open_modules(gates: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return how many modules some gates leave open, differentiable; a scalar.

    Σ_m (1 − Π_u (1 − g_u)) over the modules m and their units u, of gates within 0 and 1: the number of modules with an
    open gate where all are 0 or 1. So a gate costs nothing beside another one that is open.

    :param gates: *Shape:* (N).
    :param sizes: number of units of each module.
    """
    # relaxed gates may exceed 1: they count as 1, but learn
    closed = 1 - gates - (gates.clamp(0, 1) - gates).detach()
    parts = closed.split(list(sizes))
    return len(parts) - torch.stack([part.prod() for part in parts]).sum()


def scale_columns(weight: Tensor, factors: Tensor) -> Tensor:
    """Return a matrix with its columns scaled, rounded once to its own precision.

    In half precision the gradient of a factor is summed in float32: the sum over a column may overflow.

    :param weight: *Shape:* (C, columns).
    :param factors: float32. *Shape:* (columns)
    """
    return (weight * factors).to(weight.dtype)
