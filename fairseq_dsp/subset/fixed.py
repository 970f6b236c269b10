"""A set of heads chosen beforehand: to retrain with it, or to evaluate anyone's choice."""

from __future__ import annotations

import torch
from torch import Tensor

from .budget import Budget
from .device import beside
from .selection import Annealing, Selection, register_selection


@register_selection("fixed")
class Fixed(Selection):
    """Gates of exactly 1 for the given heads and exactly 0 for all others, in training and evaluation alike."""

    learns = False
    anywhere = True
    annealed = False

    def __init__(self, annealing: Annealing, kept: Tensor | None = None, penalised: bool = False) -> None:
        """
        :param kept: 0/1 for each head. *Shape:* (N).
        """
        super().__init__(annealing)
        self.kept = kept

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        return self.keep(importance, budget)

    def keep(self, importance: Tensor, budget: Budget) -> Tensor:
        if self.kept is None or self.kept.shape != importance.shape:
            raise ValueError(
                f"the set of kept heads is missing, or has other than one entry for each of the {importance.numel()} "
                "heads: give a set of this model's heads"
            )
        self.kept = beside(self.kept.to(importance.dtype), importance.device)
        return self.kept
