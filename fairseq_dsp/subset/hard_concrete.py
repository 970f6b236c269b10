"""Voita et al.'s selection: independent hard-concrete gates, their expected number limited by an L0 penalty.

Voita et al. (2019, "Analyzing Multi-Head Self-Attention", section 5.1) with the hard-concrete distribution of Louizos
et al. (2018, "Learning Sparse Neural Networks through L0 Regularization", section 2.2). The importance w is log α.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .budget import Budget
from .device import constant, uniform
from .selection import Annealing, Selection, register_selection

TEMPERATURE = 0.33
"""β of the concrete distribution, as published."""

LEAST, MOST = -0.1, 1.1
"""γ and ζ, the interval to which a gate is stretched before it is cut to [0, 1], as published."""

_PARTS, _STEPS = 32, 14
"""How many parts the search for c cuts its interval into, and how often: to the 2^70th part."""

_OPEN = -TEMPERATURE * math.log(-LEAST / MOST)
"""The log-odds that a gate of importance 0 is open."""


@register_selection("hard_concrete")
class HardConcrete(Selection):
    """A random gate for each head; a penalty λ · E[number of open gates] decides how many open.

    With a constant λ the budget has no part in training. Otherwise λ is at each update the one that holds the expected
    number of open gates at the budget; see :func:`hold`.
    """

    takes_penalty = True
    anywhere = True
    annealed = False
    when_vanished = "every gate is open or closed almost surely, and more training changes none of them"

    def __init__(self, annealing: Annealing, kept: Tensor | None = None, penalised: bool = False) -> None:
        """
        :param penalised: whether λ is constant: the loss grows by λ times :meth:`expected_open`.
        """
        super().__init__(annealing)
        self.penalised = penalised

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        """Draw the gates: Louizos et al., equations 10 and 11."""
        tiny = torch.finfo(torch.float64).tiny
        u = uniform(importance.shape, generator, importance.device).clamp(tiny, 1 - 2**-53)
        noise = (u.log() - (-u).log1p()).to(importance.dtype)
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
    # one number more, which is no head's: rounds are filled up with it
    w = torch.cat([importance.double(), importance.new_full((1,), -math.inf, dtype=torch.float64)])
    log_alpha = torch.full_like(w, -math.inf)
    undecided = []
    for group in budget.groups:
        if group.count == len(group.indices):
            log_alpha.index_fill_(0, constant(group.indices, w.device), math.inf)
        else:
            undecided.append(group)
    for indices, counts in Budget(budget.heads, tuple(undecided)).rounds(w.device):
        among = w.gather(0, indices.flatten()).view_as(indices)
        count = constant(counts, w.device)[:, None]
        start = among + shift(among.detach() + _OPEN, counts)
        p = open_probability(start)
        # a step of Newton's method: it does not move the solution, but has the gradient of c
        slope = (p * (1 - p)).sum(1, keepdim=True).detach().clamp_min(torch.finfo(p.dtype).tiny)
        found = start - (p.sum(1, keepdim=True) - count) / slope
        log_alpha = log_alpha.scatter(0, indices.flatten(), found.flatten())
    return log_alpha[:-1].to(importance.dtype)


def shift(log_odds: Tensor, counts: tuple[int, ...]) -> Tensor:
    """Return the c for which Σ_h sigmoid(log_odds_h + c) is a row's count. *Shape:* (rows, 1).

    A fixed number of steps, each of which tries many c: nothing waits for a GPU.

    :param log_odds: −∞ where a row has no more heads. *Shape:* (rows, heads).
    :param counts: between 0 and the row's number of heads.
    """
    count = constant(counts, log_odds.device)[:, None].double()
    heads = log_odds > -math.inf
    middle = torch.log(count / (heads.sum(1, keepdim=True) - count))
    low = middle - log_odds.amax(1, keepdim=True)
    width = middle - log_odds.masked_fill(~heads, math.inf).amin(1, keepdim=True) - low
    parts = torch.arange(1, _PARTS, device=log_odds.device, dtype=log_odds.dtype) / _PARTS
    for _ in range(_STEPS):
        sums = torch.sigmoid(log_odds[:, None] + torch.addcmul(low, width, parts)[:, :, None]).sum(2)
        below = (sums < count).sum(1, keepdim=True, dtype=width.dtype)
        width = width / _PARTS
        low = torch.addcmul(low, width, below)
    return low + width / 2


def _stretch(s: Tensor) -> Tensor:
    return (s * (MOST - LEAST) + LEAST).clamp(0, 1)
