"""Straight-through top-K (Li et al. 2021, section 3.2; Bengio et al. 2013)."""

from __future__ import annotations

import torch
from torch import Tensor

from .budget import Budget
from .selection import Selection, register_selection
from .topk import hard_gates


@register_selection("ste")
class StraightThrough(Selection):
    """Forward the hard top-K of the importance, without noise; backward the identity."""

    anywhere = True
    annealed = False

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        # the difference is exactly 0: it changes no gate and passes the gradient on unchanged
        return hard_gates(importance, budget) + (importance - importance.detach())

    def temperature(self, update: int) -> float:
        """Return 1: these gates have none."""
        return 1.0
