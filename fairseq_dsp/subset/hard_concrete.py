"""Voita et al.'s selection: independent hard-concrete gates, their expected number limited by an L0 penalty.

Voita et al. (2019, "Analyzing Multi-Head Self-Attention", section 5.1) with the hard-concrete distribution of Louizos
et al. (2018, "Learning Sparse Neural Networks through L0 Regularization", section 2.2). The importance w is log α.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from .budget import Budget
from .selection import Selection, register_selection

TEMPERATURE = 0.33
"""β of the concrete distribution, as published."""

LEAST, MOST = -0.1, 1.1
"""γ and ζ, the interval to which a gate is stretched before it is cut to [0, 1], as published."""

_OPEN = -TEMPERATURE * math.log(-LEAST / MOST)
"""The log-odds that a gate of importance 0 is open."""


@register_selection("hard_concrete")
class HardConcrete(Selection):
    """A random gate for each head; a penalty λ · E[number of open gates] decides how many open.

    With a constant λ (:attr:`penalised`) the budget has no part in training. Otherwise λ is at each update the one that
    holds the expected number of open gates at the budget; see :func:`hold`.
    """

    takes_penalty = True
    when_vanished = "every gate is open or closed almost surely, and more training changes none of them"

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        """Draw the gates: Louizos et al., equations 10 and 11."""
        tiny = torch.finfo(torch.float64).tiny
        u = torch.rand(importance.numel(), generator=generator, dtype=torch.float64).clamp(tiny, 1 - 2**-53)
        noise = (u.log() - (-u).log1p()).to(importance)
        log_alpha = importance if self.penalised else hold(importance, budget)
        return _stretch(torch.sigmoid((log_alpha + noise) / TEMPERATURE)) + 0 * importance

    def keep(self, importance: Tensor, budget: Budget) -> Tensor:
        """Keep exactly K or, under a constant penalty and no budget (K = N), what is at least half open."""
        if self.penalised and budget.keeps_all:
            return (_stretch(torch.sigmoid(importance.detach())) >= 0.5).to(importance.dtype)
        return super().keep(importance, budget)

    def temperature(self, update: int) -> float:
        """Return β: these gates are not annealed."""
        return TEMPERATURE

    def expected_open(self, importance: Tensor) -> Tensor:
        """Return the expected number of gates that are not 0 (Louizos et al., equation 12); a scalar."""
        return open_probability(importance).sum()


def open_probability(log_alpha: Tensor) -> Tensor:
    """Return the probability P that each gate is not 0 (Louizos et al., equation 12). *Shape:* (N)."""
    return torch.sigmoid(log_alpha + _OPEN)


def hold(importance: Tensor, budget: Budget) -> Tensor:
    """Return log α = w + c with the c that makes Σ_h P_h the number of heads to keep, in each group of the budget.

    c is a function of w, and with the gradient G_h = ∂loss/∂log α_h that of the loss is

        ∂loss/∂w_h = G_h + λ · P_h (1 − P_h),    λ = − Σ_k G_k / Σ_k P_k (1 − P_k):

    the gradient of loss + λ · Σ_k P_k, its λ being the one that leaves Σ_k P_k where it is.

    :param importance: w. *Shape:* (N).
    :param budget: a group of which all heads stay, or none, has log α = ±∞.
    :return: *Shape:* (N).
    """
    log_alpha = torch.full_like(importance, -math.inf)
    for group in budget.groups:
        indices = torch.tensor(group.indices, device=importance.device)
        if group.count == len(group.indices):
            log_alpha[indices] = math.inf
            continue
        w = importance[indices].double()
        start = w + _shift(w.detach().cpu().numpy() + _OPEN, group.count)
        p = open_probability(start)
        # a step of Newton's method: it does not move the solution, but has the gradient of c
        slope = (p * (1 - p)).sum().detach().clamp_min(torch.finfo(p.dtype).tiny)
        log_alpha[indices] = (start - (p.sum() - group.count) / slope).to(log_alpha)
    return log_alpha


def _shift(log_odds: np.ndarray, count: int) -> float:
    """Return c with Σ_h sigmoid(log_odds_h + c) = count, where 0 < count < N, by bisection."""
    middle = math.log(count / (len(log_odds) - count))
    low, high = middle - float(log_odds.max()), middle - float(log_odds.min())
    while True:
        c = (low + high) / 2
        if not low < c < high:  # neighbouring numbers
            return c
        # 0.5 + 0.5 · tanh(x / 2) is the sigmoid, without overflow
        if float((0.5 + 0.5 * np.tanh((log_odds + c) / 2)).sum()) < count:
            low = c
        else:
            high = c


def _stretch(s: Tensor) -> Tensor:
    return (s * (MOST - LEAST) + LEAST).clamp(0, 1)
