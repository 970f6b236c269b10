"""The recurrence of the relaxed top-K, and the vector–Jacobian product that its gradient is.

It is K sequential steps on N numbers, far too small for autograd's bookkeeping. On the CPU NumPy runs them, without
torch's cost for each operation; on other devices torch does, in few operations and without waiting for any. Both are
in float64, whatever the precision of the scores.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .budget import Budget
from .device import constant

GRADIENT_BOUND = 1e4
"""The gradient of the scores is at most this many times as long as the gradient of the gates (l2 norms).

At low temperatures the exact gradient of a sample grows without limit (a factor 1/T, of the relaxed top-K one for each
of its K steps), up to overflow. Where it exceeds the bound it is scaled down to it: its direction stays, and so do the
forward values. Adam's step depends on the direction far more than on the length.
"""

_LIMIT = (1 - 1e-6) * GRADIENT_BOUND
"""A hair below the bound, so that rounding the gradient to float32 does not pass it."""

_REMOVED = -1e200
"""The least value a perturbed score may fall to: finite in float64 even divided by the smallest temperatures."""


def bounded(vector: Tensor, incoming: Tensor, log_scale: Tensor | float = 0.0) -> Tensor:
    """Return vector · e^log_scale, shortened to :data:`_LIMIT` · ‖incoming‖ where it is longer. *Shape:* (N)."""
    norm = torch.linalg.vector_norm(vector).clamp_min(torch.finfo(vector.dtype).tiny)
    ratio = _LIMIT * torch.linalg.vector_norm(incoming) / norm
    return vector * ratio.log().clamp_max(log_scale).exp()


class RelaxedTopK(torch.autograd.Function):
    """The gates of a relaxed sample from perturbed scores in float64. *Shape:* (N), both."""

    @staticmethod
    def forward(ctx: Any, perturbed: Tensor, budget: Budget, temperature: float) -> Tensor:
        numpy = perturbed.device.type == "cpu"
        ctx.temperature, ctx.backward_of = temperature, _numpy_backward if numpy else torch_backward
        # kept on ctx rather than saved for backward: activation checkpointing goes backward through this node twice
        gates, ctx.steps = (_numpy_forward if numpy else torch_forward)(perturbed.detach(), budget, temperature)
        return gates

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.backward_of(ctx.steps, grad, ctx.temperature), None, None


# --- on the CPU ---------------------------------------------------------------------------------------------------


@dataclass
class _Step:
    """One softmax of the recurrence, with what its Jacobian needs, computed without cancellation."""

    indices: np.ndarray  # the heads it draws from
    p: np.ndarray  # softmax(r / T)
    top: int  # position of the largest p, the only one that can be close to 1
    odds: np.ndarray  # p / (1 − p), but 0 at `top`
    others: np.ndarray  # softmax over all but `top`: p_k / (1 − p_top)


def _numpy_forward(perturbed: Tensor, budget: Budget, temperature: float) -> tuple[Tensor, list[_Step]]:
    """Run the recurrence; return the gates and every step."""
    scores = perturbed.numpy().copy()
    gates = np.zeros_like(scores)
    steps: list[_Step] = []
    for draw in budget.draws:
        indices = np.array(draw.indices, dtype=np.intp)
        r = scores[indices]
        drawn = np.zeros_like(r)
        for _ in range(draw.count):
            a = r / temperature
            top = int(a.argmax())
            a -= a[top]
            b = a.copy()
            b[top] = -math.inf
            # log Σ_{k ≠ top} e^{a_k}, finite however far the others lie below, and even where there are none
            below = max(float(b.max()), _REMOVED)
            others = np.exp(b - below)
            total = float(others.sum())
            log_rest = below + math.log(total) if total else below
            log_all = math.log1p(math.exp(log_rest))
            p = np.exp(a - log_all)
            # only the top's p can be close to 1: for the others nothing cancels in 1 − p
            small = p.copy()
            small[top] = 0.0
            log_not_p = np.log1p(-small)
            log_not_p[top] = log_rest - log_all
            steps.append(_Step(indices, p, top, small / (1 - small), others / (total or 1.0)))
            drawn += p
            r = np.maximum(r + log_not_p, _REMOVED)
        scores[indices] = r
        gates[indices] += drawn
    return torch.from_numpy(gates), steps


def _numpy_backward(steps: list[_Step], grad: Tensor, temperature: float) -> Tensor:
    """Return the gradient of the perturbed scores.

    With L_i = log(1 − p_i): ∂L_i/∂a_k = p_k p_i / (1 − p_i) for k ≠ i and −p_i for k = i, where a = r / T.
    """
    gradient = grad.numpy()
    adjoint = np.zeros_like(gradient)
    log_scale = 0.0  # the gradient is adjoint · e^log_scale: its exponent alone may overflow
    for step in reversed(steps):
        p, top, incoming = step.p, step.top, gradient[step.indices]
        r = adjoint[step.indices]
        weighted = step.odds * r
        from_log = p * (weighted.sum() - weighted - r) + step.others * (p[top] * r[top])
        from_gate = p * (incoming - p @ incoming) * math.exp(-log_scale)
        adjoint[step.indices] = r + (from_log + from_gate) / temperature
        largest = float(np.abs(adjoint).max(initial=0.0))
        if largest > 1e100:
            adjoint /= largest
            log_scale += math.log(largest)
    norm, limit = float(np.linalg.norm(adjoint)), _LIMIT * float(np.linalg.norm(gradient))
    if norm == 0 or limit == 0:
        return torch.zeros_like(grad)
    within = math.log(norm) + log_scale <= math.log(limit)
    return torch.from_numpy(adjoint * (math.exp(log_scale) if within else limit / norm))


# --- on other devices ---------------------------------------------------------------------------------------------


def torch_forward(perturbed: Tensor, budget: Budget, temperature: float) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Run the recurrence; return the gates, and for each draw its heads and r / T before each of its steps."""
    gates, scores = torch.zeros_like(perturbed), perturbed / temperature
    draws = []
    for draw in filter(lambda draw: draw.count, budget.draws):
        indices = constant(draw.indices, perturbed.device)
        a, drawn, steps = scores[indices], [], []
        without = _without(len(a), temperature, a)
        for _ in range(draw.count):
            steps.append(a)
            terms = a + without
            softmaxes = terms.softmax(1)
            drawn.append(softmaxes[-1])
            # log(1 − p) as the difference of two log-sum-exps, without a head and with all: what both have in common,
            # as a rule the largest term, is taken from both first, so that no digit cancels
            largest, share = terms.amax(1), softmaxes.amax(1)
            log_not_p = (largest[:-1] - largest[-1]) - (share[:-1] / share[-1]).log()
            a = torch.add(a, log_not_p, alpha=1 / temperature).clamp_min_(_removed(temperature))
        scores = scores.index_copy(0, indices, a)
        gates = gates.index_add(0, indices, torch.stack(drawn).sum(0))
        draws.append((indices, torch.stack(steps)))
    return gates, draws


def torch_backward(draws: list[tuple[Tensor, Tensor]], grad: Tensor, temperature: float) -> Tensor:
    """Return the gradient of the perturbed scores; see :func:`_numpy_backward`.

    One step is adjoint ← adjoint @ J + ∂gates, and the matrices J of many steps are made at once.
    """
    adjoint, incoming, log_scale = torch.zeros_like(grad), grad, torch.zeros_like(grad[0])
    for indices, every in reversed(draws):
        n = len(indices)
        without, r = _without(n, temperature, grad), adjoint[indices]
        # a step makes numbers larger by this factor at most: so often they are scaled down before they overflow
        often = max(1, int(350 / math.log(2 + (n + 1) / temperature)))
        for steps in reversed(every.split(max(1, 2**24 // n**2))):
            softmaxes = (steps[:, None] + without).softmax(2)
            p = softmaxes[:, -1]
            from_gates = p * (incoming[indices] - p @ incoming[indices][:, None]) / temperature
            p = p / temperature
            jacobians = softmaxes[:, :-1] * p[:, :, None]  # 0 on the diagonal
            jacobians.diagonal(dim1=1, dim2=2).add_(1 - p)
            for i in reversed(range(len(steps))):
                r = torch.addmv(from_gates[i], jacobians[i].T, r)
                if i % often == 0:
                    largest = torch.linalg.vector_norm(r, math.inf).clamp_min(1.0)
                    r, from_gates, incoming = r / largest, from_gates / largest, incoming / largest
                    adjoint, log_scale = adjoint / largest, log_scale + largest.log()
        adjoint = adjoint.index_copy(0, indices, r)
    return bounded(adjoint, grad, log_scale)


def _without(heads: int, temperature: float, like: Tensor) -> Tensor:
    """Return what, added to r / T, leaves out head i in row i, and none in the last. *Shape:* (heads + 1, heads)."""
    return like.new_zeros(heads + 1, heads).fill_diagonal_(_removed(temperature))


def _removed(temperature: float) -> float:
    return max(_REMOVED / temperature, -1e300)
