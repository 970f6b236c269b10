"""A set of heads chosen beforehand: to retrain with it, or to evaluate anyone's choice."""

from __future__ import annotations

import torch
from torch import Tensor

from .budget import Budget
from .selection import Annealing, Selection, register_selection


@register_selection("fixed")
class Fixed(Selection):
    """Gates of exactly 1 for the given heads and exactly 0 for all others, in training and evaluation alike."""

    learns = False
    kept: Tensor
    """0/1 for each head; *Shape:* (N). Set by whoever knows the heads."""

    def __init__(self, annealing: Annealing) -> None:
        super().__init__(annealing)
        self.kept = torch.empty(0)

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        return self.keep(importance, budget)

    def keep(self, importance: Tensor, budget: Budget) -> Tensor:
        if self.kept.shape != importance.shape:
            raise ValueError(f"{self.kept.numel()} heads are fixed, but the model has {importance.numel()}")
        return self.kept.to(importance)
