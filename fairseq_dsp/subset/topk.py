"""The relaxed and the hard top-K: which K of N heads stay.

The relaxed sample is the recurrence of Xie & Ermon (2019, "Reparameterizable Subset Sampling via Continuous
Relaxations", equations 4–6), as used by Li et al. (2021, equations 8–10): with r = scores + Gumbel noise,

    p_j = softmax(r_j / T),   r_{j+1} = r_j + log(1 − p_j),   g = Σ_{j=1..K} p_j.

It is K sequential steps on N numbers, far too small for a GPU or for autograd's bookkeeping: it runs on the CPU in
float64 with NumPy, forward and backward, whatever the device and precision of the scores.
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

GRADIENT_BOUND = 1e4
"""The gradient of the scores is at most this many times as long as the gradient of the gates (l2 norms).

At low temperatures the exact gradient of a sample grows without limit (a factor 1/T, of the relaxed top-K one for each
of its K steps), up to overflow. Where it exceeds the bound it is scaled down to it: its direction stays, and so do the
forward values. Adam's step depends on the direction far more than on the length.
"""

_REMOVED = -1e200
"""The least value a perturbed score may fall to: finite in float64 even divided by the smallest temperatures."""


@dataclass
class _Step:
    """One softmax of the recurrence, with what its Jacobian needs, computed without cancellation."""

    indices: np.ndarray  # the heads it draws from
    p: np.ndarray  # softmax(r / T)
    top: int  # position of the largest p, the only one that can be close to 1
    odds: np.ndarray  # p / (1 − p), but 0 at `top`
    others: np.ndarray  # softmax over all but `top`: p_k / (1 − p_top)


def hard_top_k(scores: Tensor, k: int) -> Tensor:
    """Return 0/1 gates with exactly *k* ones, at the largest scores; ties go to the lower index.

    :param scores: importance of each head. *Shape:* (N).
    :param k: number of heads to keep, 0 ≤ k ≤ N.
    :return: *Shape:* (N), of the scores' dtype and device, without gradient.
    :raises ValueError: if *scores* is not a vector of finite numbers or *k* is not within 0 … N.
    """
    return hard_gates(scores, Budget.top(_checked_k(scores, k), scores.numel()))


def relaxed_top_k(scores: Tensor, k: int, temperature: float, noise: Tensor | None = None) -> Tensor:
    """Return the soft gates of a relaxed sample of a K-subset; they sum to *k*.

    Single gates may exceed 1 at temperatures where two steps of the recurrence share a head: these are the published
    values. The gradient is exact up to :data:`GRADIENT_BOUND`.

    :param scores: importance of each head. *Shape:* (N).
    :param k: number of heads to draw, 0 ≤ k ≤ N.
    :param temperature: T > 0.
    :param noise: the Gumbel(0, 1) sample to add to the scores, drawn from torch's global generator when None.
        *Shape:* (N).
    :return: *Shape:* (N), of the scores' dtype and device, differentiable with respect to *scores* and *noise*.
    :raises ValueError: if an argument is not finite or out of range.
    """
    return relaxed_gates(scores, Budget.top(_checked_k(scores, k), scores.numel()), temperature, noise)


def gumbel_noise(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Return *n* independent standard Gumbel numbers: −log(−log u). *Shape:* (n), float64, on the CPU."""
    # 1 − u lies in (0, 1]; the smallest normal number keeps the outer logarithm finite
    uniform = 1 - torch.rand(n, generator=generator, dtype=torch.float64)
    exponential = -uniform.log()
    return -exponential.clamp_min(torch.finfo(torch.float64).tiny).log()


def hard_gates(scores: Tensor, budget: Budget) -> Tensor:
    """Return the 0/1 gates that *budget* keeps; see :func:`hard_top_k`."""
    _check_vector(scores, "scores")
    gates = budget.hard(scores.detach().double().cpu().numpy())
    return torch.from_numpy(gates).to(scores)


def relaxed_gates(
    scores: Tensor,
    budget: Budget,
    temperature: float,
    noise: Tensor | None = None,
) -> Tensor:
    """Return the soft gates of a relaxed sample under *budget*; see :func:`relaxed_top_k`."""
    _check_vector(scores, "scores")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"the temperature is {temperature}, but it must be a positive, finite number")
    if noise is None:
        noise = gumbel_noise(scores.numel())
    elif noise.shape != scores.shape:
        raise ValueError(f"the noise has shape {tuple(noise.shape)}, but the scores have shape {tuple(scores.shape)}")
    _check_vector(noise, "noise")
    perturbed = scores.double() + noise.to(scores.device, torch.float64)
    gates: Tensor = _RelaxedTopK.apply(perturbed, budget, temperature)
    return gates.to(scores.dtype)


def _check_vector(values: Tensor, name: str) -> None:
    if values.dim() != 1:
        raise ValueError(f"the {name} have shape {tuple(values.shape)}, but a vector of one number a head is needed")
    if not torch.isfinite(values).all():
        raise ValueError(f"the {name} hold a NaN or an infinity: every head needs a finite number")


def _checked_k(scores: Tensor, k: int) -> int:
    if scores.dim() == 1 and not 0 <= k <= scores.numel():
        raise ValueError(f"k is {k}, but of {scores.numel()} heads 0 to {scores.numel()} can be kept")
    return k


class _RelaxedTopK(torch.autograd.Function):
    """The recurrence and its exact vector–Jacobian product; perturbed scores in, gates out, both float64."""

    @staticmethod
    def forward(ctx: Any, perturbed: Tensor, budget: Budget, temperature: float) -> Tensor:
        gates, steps = _recurrence(perturbed.detach().cpu().numpy(), budget, temperature)
        # kept on ctx rather than saved for backward: activation checkpointing goes backward through this node twice
        ctx.steps, ctx.temperature = steps, temperature
        return torch.from_numpy(gates).to(perturbed.device)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        incoming = grad.cpu().numpy()
        outgoing = bounded(*_backward(ctx.steps, incoming, ctx.temperature), incoming)
        return torch.from_numpy(outgoing).to(grad.device), None, None


def _recurrence(perturbed: np.ndarray, budget: Budget, temperature: float) -> tuple[np.ndarray, list[_Step]]:
    """Run the recurrence; return the gates and every step."""
    gates = np.zeros_like(perturbed)
    scores = perturbed.copy()
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
    return gates, steps


def _backward(steps: list[_Step], grad: np.ndarray, temperature: float) -> tuple[np.ndarray, float]:
    """Return (v, s): the vector–Jacobian product is v · e^s; the exponent keeps v finite where the product is not.

    With L_i = log(1 − p_i): ∂L_i/∂a_k = p_k p_i / (1 − p_i) for k ≠ i and −p_i for k = i, where a = r / T.
    """
    adjoint = np.zeros_like(grad)
    log_scale = 0.0
    for step in reversed(steps):
        p, top, incoming = step.p, step.top, grad[step.indices]
        r = adjoint[step.indices]
        weighted = step.odds * r
        from_log = p * (weighted.sum() - weighted - r) + step.others * (p[top] * r[top])
        from_gate = p * (incoming - p @ incoming) * math.exp(-log_scale)
        adjoint[step.indices] = r + (from_log + from_gate) / temperature
        largest = float(np.abs(adjoint).max(initial=0.0))
        if largest > 1e100:
            adjoint /= largest
            log_scale += math.log(largest)
    return adjoint, log_scale


def bounded(vector: np.ndarray, log_scale: float, incoming: np.ndarray) -> np.ndarray:
    """Return vector · e^log_scale, shortened to GRADIENT_BOUND · ‖incoming‖ where it is longer."""
    norm = float(np.linalg.norm(vector))
    # a hair below, so that rounding the result to float32 does not pass the bound
    limit = (1 - 1e-6) * GRADIENT_BOUND * float(np.linalg.norm(incoming))
    if norm == 0 or limit == 0:
        return np.zeros_like(vector)
    if math.log(norm) + log_scale <= math.log(limit):
        return vector * math.exp(log_scale)
    return vector * (limit / norm)
