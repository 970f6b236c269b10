"""The relaxed and the hard top-K: which K of N heads stay.

The relaxed sample is the recurrence of Xie & Ermon (2019, "Reparameterizable Subset Sampling via Continuous
Relaxations", equations 4–6), as used by Li et al. (2021, equations 8–10): with r = scores + Gumbel noise,

    p_j = softmax(r_j / T),   r_{j+1} = r_j + log(1 − p_j),   g = Σ_{j=1..K} p_j.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .budget import Budget
from .device import beside, constant
from .relaxed import RelaxedTopK


def hard_top_k(scores: Tensor, k: int) -> Tensor:
    """Return 0/1 gates with exactly *k* ones, at the largest scores; ties go to the lower index.

    :param scores: importance of each head. *Shape:* (N).
    :param k: number of heads to keep, 0 ≤ k ≤ N.
    :return: *Shape:* (N), of the scores' dtype and device, without gradient.
    :raises ValueError: if *scores* is not a vector of finite numbers or *k* is not within 0 … N.
    """
    check_vector(scores, "scores", wait=True)
    return hard_gates(scores, Budget.top(k, scores.numel()))


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
    check_vector(scores, "scores", wait=True)
    if noise is not None:
        check_vector(noise, "noise", wait=True)
    return relaxed_gates(scores, Budget.top(k, scores.numel()), temperature, noise)


def gumbel_noise(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Return *n* independent standard Gumbel numbers: −log(−log u). *Shape:* (n), float64, on the CPU."""
    # 1 − u lies in (0, 1]; the smallest normal number keeps the outer logarithm finite
    uniform = 1 - torch.rand(n, generator=generator, dtype=torch.float64)
    exponential = -uniform.log()
    return -exponential.clamp_min(torch.finfo(torch.float64).tiny).log()


def hard_gates(scores: Tensor, budget: Budget) -> Tensor:
    """Return the 0/1 gates that *budget* keeps; see :func:`hard_top_k`.

    Nothing waits for a GPU: scores on one are not checked.
    """
    check_vector(scores, "scores")
    # one number more, which is no head's: rounds are filled up with it. And adding 0 makes −0 equal to 0
    left = torch.cat([scores.detach().double() + 0.0, scores.new_full((1,), -math.inf, dtype=torch.float64)])
    gates = torch.zeros_like(left)
    for indices, counts in budget.rounds(left.device):
        among = left[indices]
        order = among.sort(dim=1, descending=True, stable=True).indices
        places = torch.arange(among.shape[1], device=left.device)
        best = (places < constant(counts, left.device)[:, None]).double()
        gates.scatter_add_(0, indices.flatten(), torch.zeros_like(among).scatter_(1, order, best).flatten())
        left = left.masked_fill(gates > 0, -math.inf)
    return gates[:-1].to(scores.dtype)


def relaxed_gates(
    scores: Tensor,
    budget: Budget,
    temperature: float,
    noise: Tensor | None = None,
) -> Tensor:
    """Return the soft gates of a relaxed sample under *budget*; see :func:`relaxed_top_k`.

    Nothing waits for a GPU: scores on one are not checked.
    """
    check_vector(scores, "scores")
    if not (math.isfinite(temperature) and temperature > 0):
        raise ValueError(f"the temperature is {temperature}, but it must be a positive, finite number")
    if noise is None:
        noise = gumbel_noise(scores.numel())
    elif noise.shape != scores.shape:
        raise ValueError(f"the noise has shape {tuple(noise.shape)}, but the scores have shape {tuple(scores.shape)}")
    noise = beside(noise, scores.device).double()
    check_vector(noise, "noise")
    gates: Tensor = RelaxedTopK.apply(scores.double() + noise, budget, temperature)
    return gates.to(scores.dtype)


def check_vector(values: Tensor, name: str, wait: bool = False) -> None:
    """Refuse what is no vector of finite numbers; on a GPU, whose numbers come late, only if asked to wait for them."""
    if values.dim() != 1:
        raise ValueError(f"the {name} have shape {tuple(values.shape)}, but a vector of one number a head is needed")
    if (wait or values.device.type == "cpu") and not torch.isfinite(values).all():
        raise ValueError(f"the {name} hold a NaN or an infinity: every head needs a finite number")
