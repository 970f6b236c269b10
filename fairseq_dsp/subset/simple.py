"""Exactly K heads in every forward pass, with the gradient of the exact marginals (Ahmed et al. 2023).

SIMPLE ("A Gradient Estimator for k-Subset Sampling", ICLR 2023) draws the gates z from the distribution of N
independent choices conditioned on their number K,

    p(z) ∝ exp(Σ_h θ_h z_h)   over all z in {0, 1}^N with Σ_h z_h = K,   θ = importance / T,

and goes backward as if the gates had been their expectation μ(θ) = E[z]: the gradient of θ is Cov(z) · ∂loss/∂z, for μ
is the gradient of the distribution's log partition function and Cov(z) its Hessian. It is exact up to a bound on its
length; see :data:`~.topk.GRADIENT_BOUND`.

A budget of several draws, as a floor makes it, is drawn one after the other: the floor's heads by this law among them,
then the rest by this law among all that are left. The gradient is that of each draw's marginals, given the draws before
it. So with a floor the law is not that of all K-subsets which hold the floor, nor the gradient that of their marginals.

At the end of the cooldown the heads are decided: from then on the gates are the hard top-K of the importance, which
learns no more, and the weights go on training with just the heads that stay.

Walking over the heads in order, the chance to choose the next one depends only on how many are still to be chosen. So
sample, marginals and the product with the covariance are recursions over a table of N × K conditional probabilities,
in O(N · K), and only the table itself needs the log space.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .budget import Budget
from .selection import Selection, register_selection
from .topk import bounded, hard_gates


@register_selection("simple")
class Simple(Selection):
    """Exact samples of subsets forward, the gradient of the exact marginals backward; the top-K when cooled."""

    def floor(self, kind: str, total: int) -> int:
        # The decoder learns from its own words before it looks at the source: of few heads, chosen early, none may be
        # cross. And what the encoder's heads are worth shows last: chosen early, five heads or more may have none
        # there.
        return {"cross": 1, "encoder_self": round(total / 9)}.get(kind, 0)

    def decides(self, update: int) -> bool:
        return update < self.annealing.cooldown

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        if not self.decides(update):
            return hard_gates(importance, budget) + 0 * importance  # a gradient, as other processes expect, but of 0
        uniform = torch.rand(len(budget.draws), importance.numel(), generator=generator, dtype=torch.float64)
        gates: Tensor = _SampleSubset.apply(importance.double(), budget, self.annealing(update), uniform)
        return gates.to(importance.dtype)


def subset_marginals(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the probability that each head is among the *k* chosen (Ahmed et al., proposition 1).

    :param scores: θ, finite. *Shape:* (N).
    :param k: 0 ≤ k ≤ N.
    :return: μ, which sums to *k*. *Shape:* (N).
    """
    chances = _chances(scores, k)
    return (_remaining(chances) * chances).sum(1)


def sample_subset(scores: np.ndarray, k: int, uniform: np.ndarray) -> np.ndarray:
    """Return an exact sample of the *k*-subsets as 0/1. *Shape:* (N).

    :param uniform: independent uniform numbers from [0, 1). *Shape:* (N).
    """
    return _sample(_chances(scores, k), uniform)


def covariance_product(scores: np.ndarray, k: int, vector: np.ndarray) -> np.ndarray:
    """Return Cov(z) · v, the gradient of v · μ(θ) with respect to θ. *Shape:* (N).

    :param vector: v. *Shape:* (N).
    """
    return _product(_chances(scores, k), vector)


def _sample(chances: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    gates = np.zeros(len(chances))
    left = chances.shape[1] - 1
    for i in range(len(chances)):
        gates[i] = uniform[i] < chances[i, left]
        left -= int(gates[i])
    return gates


def _product(chances: np.ndarray, vector: np.ndarray) -> np.ndarray:
    n, k = len(chances), chances.shape[1] - 1
    remaining = _remaining(chances)
    centred = vector - vector.mean()  # a constant adds k times itself to v · z: no covariance, only rounding
    # after[i, c]: E[Σ_{l ≥ i} v_l z_l], given that c heads are still to be chosen from i on
    after = np.zeros((n + 1, k + 1))
    for i in reversed(range(n)):
        after[i] = (1 - chances[i]) * after[i + 1] + chances[i] * (centred[i] + _shifted(after[i + 1]))
    mean = after[0, k]
    # before[c]: E[Σ_{l < i} v_l z_l, and c heads are still to be chosen from i on]
    before = np.zeros(k + 1)
    product = np.zeros(n)
    for i in range(n):
        chosen = chances[i] * (before + remaining[i] * centred[i])
        # E[z_i (v · z − E[v · z])]
        product[i] = chosen.sum() + (chances[i] * remaining[i] * (_shifted(after[i + 1]) - mean)).sum()
        before = (1 - chances[i]) * before
        before[:-1] += chosen[1:]
    return product


def _chances(scores: np.ndarray, k: int) -> np.ndarray:
    """Return P(head i is chosen | c heads are to be chosen from i on). *Shape:* (N, K + 1)."""
    n = len(scores)
    # log of the elementary symmetric polynomial of degree c in exp(θ_i), …, exp(θ_{N−1})
    log_sums = np.full((n + 1, k + 1), -math.inf)
    log_sums[n, 0] = 0.0
    chances = np.zeros((n, k + 1))
    for i in reversed(range(n)):
        with_it = scores[i] + _shifted(log_sums[i + 1], -math.inf)
        log_sums[i] = np.logaddexp(log_sums[i + 1], with_it)
        possible = log_sums[i] > -math.inf
        chances[i, possible] = np.exp(with_it[possible] - log_sums[i, possible])
    return chances


def _remaining(chances: np.ndarray) -> np.ndarray:
    """Return P(c heads are still to be chosen from i on). *Shape:* (N, K + 1)."""
    remaining = np.zeros_like(chances)
    remaining[0, -1] = 1.0
    for i in range(len(chances) - 1):
        remaining[i + 1] = remaining[i] * (1 - chances[i])
        remaining[i + 1, :-1] += (remaining[i] * chances[i])[1:]
    return remaining


def _shifted(row: np.ndarray, first: float = 0.0) -> np.ndarray:
    """Return the row with entry c at c + 1."""
    return np.concatenate([[first], row[:-1]])


class _SampleSubset(torch.autograd.Function):
    """Sample forward, covariance product backward, draw by draw of the budget."""

    @staticmethod
    def forward(ctx: Any, importance: Tensor, budget: Budget, temperature: float, uniform: Tensor) -> Tensor:
        scores = importance.detach().cpu().numpy() / temperature
        gates = np.zeros(budget.heads)
        draws = []
        for draw, noise in zip(budget.draws, uniform.numpy(), strict=True):
            free = np.array([i for i in draw.indices if not gates[i]], dtype=np.intp)
            chances = _chances(scores[free], draw.count)
            gates[free] = _sample(chances, noise[free])
            draws.append((free, chances))
        ctx.draws, ctx.temperature = draws, temperature
        return torch.from_numpy(gates).to(importance.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        incoming = grad.cpu().numpy()
        outgoing = np.zeros_like(incoming)
        for free, chances in ctx.draws:
            outgoing[free] += _product(chances, incoming[free]) / ctx.temperature
        outgoing = bounded(outgoing, 0.0, incoming)
        return torch.from_numpy(outgoing).to(grad.device), None, None, None
