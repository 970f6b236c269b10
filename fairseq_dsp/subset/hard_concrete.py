"""Voita et al.'s selection: independent hard-concrete gates under an L0 penalty.

Voita et al. (2019, "Analyzing Multi-Head Self-Attention", section 5.1) with the hard-concrete distribution of Louizos
et al. (2018, "Learning Sparse Neural Networks through L0 Regularization", section 2.2). The importance is log α.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .budget import Budget
from .selection import Selection, register_selection

TEMPERATURE = 0.33
"""β of the concrete distribution, as published."""

LEAST, MOST = -0.1, 1.1
"""γ and ζ, the interval to which a gate is stretched before it is cut to [0, 1], as published."""


@register_selection("hard_concrete")
class HardConcrete(Selection):
    """A random gate for each head; the penalty, not the budget, decides how many open.

    Without a budget (K = N), evaluation keeps the heads whose gate without noise is at least ½; with one, exactly K.
    """

    penalised = True

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        """Draw the gates: Louizos et al., equations 10 and 11."""
        tiny = torch.finfo(torch.float64).tiny
        u = torch.rand(importance.numel(), generator=generator, dtype=torch.float64).clamp(tiny, 1 - 2**-53)
        noise = (u.log() - (-u).log1p()).to(importance)
        return _stretch(torch.sigmoid((importance + noise) / TEMPERATURE))

    def keep(self, importance: Tensor, budget: Budget) -> Tensor:
        if budget.keeps_all:
            return (_stretch(torch.sigmoid(importance.detach())) >= 0.5).to(importance.dtype)
        return super().keep(importance, budget)

    def expected_open(self, importance: Tensor) -> Tensor:
        """Return the expected number of gates that are not 0 (Louizos et al., equation 12); a scalar."""
        return torch.sigmoid(importance - TEMPERATURE * math.log(-LEAST / MOST)).sum()


def _stretch(s: Tensor) -> Tensor:
    return (s * (MOST - LEAST) + LEAST).clamp(0, 1)
