"""Exactly K heads in every forward pass, with the gradient of the exact marginals (Ahmed et al. 2023).

SIMPLE ("A Gradient Estimator for k-Subset Sampling", ICLR 2023) draws the gates z from the distribution of
:class:`~.distribution.KSubset` with θ = importance / T, and goes backward as if the gates had been their expectation
μ(θ) = E[z]: the gradient of θ is Cov(z) · ∂loss/∂z. It is exact up to a bound on its length; see
:data:`~.bound.GRADIENT_BOUND`.

A budget of several draws, as a floor makes it, is drawn one after the other: the floor's heads by this law among them,
then the rest by this law among all that are left. The gradient is that of each draw's marginals, given the draws before
it. So with a floor the law is not that of all K-subsets which hold the floor, nor the gradient that of their marginals.

At the end of the cooldown the heads are decided: from then on the gates are the hard top-K of the importance, which
learns no more, and the weights go on training with just the heads that stay.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .bound import bounded
from .budget import Budget
from .distribution import KSubset
from .selection import Selection, register_selection
from .topk import check_vector, hard_gates


@register_selection("simple")
class Simple(Selection):
    """Exact samples of subsets forward, the gradient of the exact marginals backward; the top-K when cooled."""

    anywhere = floors = True

    def decides(self, update: int) -> bool:
        return update < self.annealing.cooldown

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        if not self.decides(update):
            return hard_gates(importance, budget) + 0 * importance  # a gradient, as other processes expect, but of 0
        check_vector(importance, "importance")
        gates: Tensor = _SampleSubset.apply(importance.double(), budget, self.annealing(update), generator)
        return gates.to(importance.dtype)


class _SampleSubset(torch.autograd.Function):
    """Sample forward, covariance product backward, round by round of the budget."""

    @staticmethod
    def forward(ctx: Any, importance: Tensor, budget: Budget, temperature: float, generator: torch.Generator) -> Tensor:
        # one number more, which is no head's: rounds are filled up with it
        scores = torch.cat([importance / temperature, importance.new_full((1,), -math.inf)])
        gates = torch.zeros_like(scores)
        ctx.rounds, ctx.temperature = [], temperature
        for indices, counts in budget.rounds(scores.device):
            subset = KSubset(scores[indices], counts)
            gates.scatter_add_(0, indices.flatten(), subset.sample(generator).flatten())
            scores = scores.masked_fill(gates > 0, -math.inf)
            ctx.rounds.append((indices, subset))
        return gates[:-1] + 0 * importance  # a NaN, which no head can be chosen by, is one in the gates too

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        incoming = torch.cat([grad, grad.new_zeros(1)])
        outgoing = torch.zeros_like(incoming)
        for indices, subset in ctx.rounds:
            outgoing.scatter_add_(0, indices.flatten(), subset.covariance_product(incoming[indices]).flatten())
        return bounded(outgoing[:-1], grad, -math.log(ctx.temperature)), None, None, None
