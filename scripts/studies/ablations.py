"""Ways to choose heads that were tried as the default; docs/results/history.md has their results.

FAIRSEQ_DSP_SELECTIONS=scripts/studies/ablations.py fairseq-dsp sweep scripts/studies/multi30k-ablations.yaml
"""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from fairseq_dsp.subset import (
    Annealing,
    Budget,
    Gumbel,
    HardConcrete,
    KSubset,
    Simple,
    gumbel_noise,
    hard_gates,
    register_selection,
    relaxed_gates,
)


@register_selection("gumbel_quiet")
class QuietGumbel(Gumbel):
    """``gumbel`` whose noise falls to 0, linearly over the cooldown."""

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        noise = gumbel_noise(importance.numel(), generator) * max(0.0, 1 - update / max(1, self.annealing.cooldown))
        return relaxed_gates(importance, budget, self.annealing(update), noise)


@register_selection("almost_surely")
class AlmostSurely(HardConcrete):
    """Independent gates, K of them open in expectation, that end at 0 and 1: log-odds over the temperature, then fixed.

    The idea of PASS (Ding et al. 2024).
    """

    def decides(self, update: int) -> bool:
        return update < self.annealing.cooldown

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        if not self.decides(update):
            return hard_gates(importance, budget) + 0 * importance
        return super().sample(importance / self.annealing(update), budget, update, generator)


class _SimpleAt(Simple):
    """``simple`` at a temperature that depends on the importance; the log's is the schedule's."""

    @abstractmethod
    def temperature_at(self, importance: Tensor, budget: Budget, update: int) -> float:
        """Return the temperature; the importance is in float64. *Shape:* (N)."""

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        if not self.decides(update):
            return super().sample(importance, budget, update, generator)
        t = self.temperature_at(importance.detach().double(), budget, update)
        return Simple(Annealing(t, t, self.annealing.cooldown)).sample(importance, budget, update, generator)


@register_selection("relative")
class Relative(_SimpleAt):
    """The temperature in standard deviations of the importance: the rate has no say in how long choosing lasts."""

    def temperature_at(self, importance: Tensor, budget: Budget, update: int) -> float:
        return self.annealing(update) * max(float(importance.std()), 1e-6)


@register_selection("adaptive")
class Adaptive(_SimpleAt):
    """The temperature that brings Σ_h μ_h (1 − μ_h), μ the gates' marginals, onto a line over the cooldown; 1 at most.

    The line falls from the sum's maximum, with the same chance for every head, to 2% of it.
    """

    def temperature_at(self, importance: Tensor, budget: Budget, update: int) -> float:
        chance = budget.total / budget.heads
        goal = budget.total * (1 - chance) * max(0.02, 1 - update / self.annealing.cooldown)
        low, high = -7.0, 3.0  # of the temperature's logarithm
        for _ in range(25):
            middle = (low + high) / 2
            marginals = KSubset(importance / math.exp(middle), budget.total).marginals
            if float((marginals * (1 - marginals)).sum()) < goal:
                low = middle
            else:
                high = middle
        return min(1.0, math.exp((low + high) / 2))


@register_selection("conditioned")
class Conditioned(Simple):
    """Subsets by ``simple``'s law, given that they hold the floor (``--min-cross-heads 1``), and its marginals.

    ``simple`` itself draws the heads of a floor first and then the rest.
    """

    floors = False  # this law is of one floor: the one that is asked for

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        if not self.decides(update) or len(budget.draws) == 1:
            return super().sample(importance, budget, update, generator)
        floor, rest = budget.draws
        inside = list(floor.indices)
        outside = sorted(set(rest.indices) - set(inside))
        theta = importance.double() / self.annealing(update)
        if not theta.requires_grad:
            theta.requires_grad_()
        total = budget.total
        least, most = max(floor.count, total - len(outside)), min(len(inside), total)
        # log of the weight of all subsets with c heads of the floor's, for each c
        logs = _log_sums(theta[inside], most)[least:]
        logs = logs + _log_sums(theta[outside], total - least)[total - most :].flip(0)
        (marginals,) = torch.autograd.grad(torch.logsumexp(logs, 0), theta, create_graph=True)
        count = least + int(torch.multinomial(logs.detach().softmax(0), 1, generator=generator))
        gates = torch.zeros_like(theta)
        for part, k in ((inside, count), (outside, total - count)):
            gates[part] = KSubset(theta[part].detach(), k).sample(generator)
        return (gates.detach() + marginals - marginals.detach()).to(importance)


def _log_sums(theta: Tensor, k: int) -> Tensor:
    """Return the logs of the elementary symmetric polynomials of degree 0 … k ≤ N in exp(θ). *Shape:* (k + 1)."""
    logs = theta.new_zeros(1)
    for t in theta:
        logs = torch.cat([logs[:1], torch.logaddexp(logs[1:], logs[:-1] + t), logs[-1:] + t])[: k + 1]
    return logs


@register_selection("common_scale")
class CommonScale(Simple):
    """The importance of each attention type over its root mean square, times that of all.

    For models in which the types have as many heads each.
    """

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        return super().sample(_scaled(importance), budget, update, generator)

    def keep(self, importance: Tensor, budget: Budget) -> Tensor:
        return super().keep(_scaled(importance), budget)


def _scaled(importance: Tensor) -> Tensor:
    size = _rms(importance)
    return torch.cat([part * (size / _rms(part)) for part in importance.chunk(3)])


def _rms(importance: Tensor) -> Tensor:
    return importance.detach().pow(2).mean().sqrt() + 1e-3  # the importance starts at 0
