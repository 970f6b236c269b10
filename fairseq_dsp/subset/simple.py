"""Exactly K heads in every forward pass, with the gradient of the exact marginals (Ahmed et al. 2023).

SIMPLE ("A Gradient Estimator for k-Subset Sampling", ICLR 2023) draws the gates z from the distribution of
:class:`~.distribution.KSubset` with θ = importance / T, and goes backward as if the gates had been their expectation
μ(θ) = E[z]: the gradient of θ is Cov(z) · ∂loss/∂z. It is exact up to a bound on its length; see
:data:`~.relaxed.GRADIENT_BOUND`.

A budget of several draws, as a floor makes it, is drawn one after the other: the floor's heads by this law among them,
then the rest by this law among all that are left. The gradient is that of each draw's marginals, given the draws before
it. So with a floor the law is not that of all K-subsets which hold the floor, nor the gradient that of their marginals.

At the end of the cooldown the heads are decided: from then on the gates are the hard top-K of the importance, which
learns no more, and the weights go on training with just the heads that stay.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .budget import Budget
from .device import uniform
from .distribution import KSubset
from .relaxed import bounded
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
    """Sample forward, covariance product backward."""

    @staticmethod
    def forward(ctx: Any, importance: Tensor, budget: Budget, temperature: float, generator: torch.Generator) -> Tensor:
        scores = importance / temperature
        noise = uniform((_noise_of(budget, scores.device),), generator, scores.device)
        ctx.sampler = _sampler(budget, scores.device) if scores.device.type == "cuda" else _Sampler(budget)
        ctx.drawn = scores, noise, temperature
        return ctx.sampler.sample(scores, noise)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        scores, noise, temperature = ctx.drawn
        return ctx.sampler.gradient(grad, scores, noise, -math.log(temperature)), None, None, None


def _noise_of(budget: Budget, device: torch.device) -> int:
    return sum(KSubset.noise_of(indices.shape) for indices, _ in budget.rounds(device))


class _Sampler:
    """A sample of a budget and its gradient, round by round."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._rounds: list[tuple[Tensor, KSubset]] = []

    def sample(self, scores: Tensor, noise: Tensor) -> Tensor:
        """Return the gates. *Shape:* (N).

        :param scores: θ. *Shape:* (N), float64.
        :param noise: uniform numbers.
        """
        # one number more, which is no head's: rounds are filled up with it
        left = torch.cat([scores, scores.new_full((1,), -math.inf)])
        gates = torch.zeros_like(left)
        self._rounds = []
        for indices, counts in self._budget.rounds(scores.device):
            subset = KSubset(left[indices], counts)
            own, noise = noise.tensor_split([KSubset.noise_of(indices.shape)])
            gates.scatter_add_(0, indices.flatten(), subset.sample_with(own).flatten())
            left = left.masked_fill(gates > 0, -math.inf)
            self._rounds.append((indices, subset))
        return gates[:-1] + 0 * scores  # a NaN, which no head can be chosen by, is one in the gates too

    def gradient(self, grad: Tensor, scores: Tensor, noise: Tensor, log_scale: Tensor | float) -> Tensor:
        """Return the gradient of the importance, bounded. *Shape:* (N).

        :param grad: of the gates.
        :param scores: what the gates were sampled from.
        :param noise: likewise.
        :param log_scale: the log of the scores' derivative with respect to the importance.
        """
        incoming = torch.cat([grad, grad.new_zeros(1)])
        outgoing = torch.zeros_like(incoming)
        for indices, subset in self._rounds:
            outgoing.scatter_add_(0, indices.flatten(), subset.covariance_product(incoming[indices]).flatten())
        return bounded(outgoing[:-1], grad, log_scale)


class _GraphedSampler(_Sampler):
    """The same in two launches of a GPU, which eager operations would keep waiting for the CPU.

    They are recorded when a budget is drawn from again: one that shrinks may be drawn from once.
    """

    def __init__(self, budget: Budget) -> None:
        super().__init__(budget)
        self._graphs: tuple[_Graphed, _Graphed] | None = None
        self._drawn: Tensor | None = None

    def sample(self, scores: Tensor, noise: Tensor) -> Tensor:
        again, self._drawn = self._drawn is not None, scores
        if again and self._graphs is None:
            with torch.cuda.device(scores.device), torch.no_grad():
                self._graphs = self._record(scores.clone(), noise.clone())
        return super().sample(scores, noise) if self._graphs is None else self._graphs[0](scores, noise).clone()

    def gradient(self, grad: Tensor, scores: Tensor, noise: Tensor, log_scale: Tensor | float) -> Tensor:
        if self._drawn is not scores:  # another sample has taken its place
            self.sample(scores, noise)
        if self._graphs is None:
            return super().gradient(grad, scores, noise, log_scale)
        return self._graphs[1](grad, grad.new_full((), float(log_scale))).clone()

    def _record(self, scores: Tensor, noise: Tensor) -> tuple[_Graphed, _Graphed]:
        sample, gradient = super().sample, super().gradient
        first = _Graphed(sample, scores, noise)
        return first, _Graphed(lambda grad, scale: gradient(grad, scores, noise, scale), scores, scores.new_zeros(()))


@lru_cache(maxsize=256)
def _sampler(budget: Budget, device: torch.device) -> _GraphedSampler:
    return _GraphedSampler(budget)


class _Graphed:
    """A function of tensors of fixed shapes as a CUDA graph: one launch instead of hundreds at every update of a GPU.

    The CPU launches each operation by itself, which takes longer than the GPU needs for one on small tensors. A graph
    is recorded once and then launched whole. So what the function does must depend on the shapes of its inputs alone,
    and it may neither read a value nor bring one from the CPU, except when it is run for the first time.

    :param function: maps the inputs to a tensor.
    :param inputs: of the shapes, types and device of all inputs to come; their values do not matter but must be valid.
    """

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor) -> None:
        self._inputs = [torch.clone(tensor) for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(inputs[0].device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function(*self._inputs)  # constants are made and libraries are loaded
            # other threads, such as those that pin batches, go on meanwhile
            self._graph.capture_begin(capture_error_mode="thread_local")
            self._output = function(*self._inputs)
            self._graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the function's value, which the next call overwrites."""
        torch._foreach_copy_(self._inputs, list(inputs))
        self._graph.replay()
        return self._output
