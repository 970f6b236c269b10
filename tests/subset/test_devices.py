"""On a device other than the CPU nothing waits, and the gates and gradients are those of the CPU."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from waiting import NothingWaits

from fairseq_dsp.subset import (
    GRADIENT_BOUND,
    SELECTIONS,
    Annealing,
    Budget,
    Draw,
    KSubset,
    hard_gates,
    relaxed_gates,
    simple,
)
from fairseq_dsp.subset.device import constant
from fairseq_dsp.subset.distribution import _subsets
from fairseq_dsp.subset.hard_concrete import hold, open_probability, shift
from fairseq_dsp.subset.relaxed import torch_backward, torch_forward

N = 24
BUDGETS = {
    "all": Budget.top(N, N),
    "none": Budget.top(0, N),
    "top": Budget.top(9, N),
    "floors": Budget.grouped([range(N)], [9], [Draw(tuple(range(16, 24)), 1), Draw(tuple(range(8)), 2)]),
    "types": Budget.grouped([range(8), range(8, 16), range(16, 24)], [3, 8, 0], [Draw((0, 1), 1), Draw((2, 3), 1)]),
}
CASES = [*itertools.product([*SELECTIONS, "penalised"], BUDGETS, (3, 100))]


def make(name: str) -> Any:
    penalised, kept = name == "penalised", None
    if name == "fixed":
        kept = torch.zeros(N)
        kept[:9] = 1
    return SELECTIONS["hard_concrete" if penalised else name](Annealing(1.0, 0.05, 50), kept, penalised=penalised)


@pytest.mark.parametrize(("name", "budget", "update"), CASES)
def test_nothing_waits_in_sample_gradient_and_keep(name: str, budget: str, update: int):
    selection = make(name)
    importance = torch.zeros(N, device="meta", requires_grad=True)
    with NothingWaits():
        gates = selection.sample(importance, BUDGETS[budget], update, torch.Generator().manual_seed(1))
        kept = selection.keep(importance, BUDGETS[budget])
        for result in (gates, kept, hard_gates(importance, BUDGETS[budget])):
            assert (result.shape, result.dtype, result.device.type) == ((N,), torch.float32, "meta")
        if selection.learns:
            gates.backward(torch.ones_like(gates))
            assert importance.grad is not None
            assert importance.grad.device.type == "meta"


def test_nothing_waits_for_what_the_distribution_tells():
    scores = torch.zeros(3, 20, device="meta", requires_grad=True)
    with NothingWaits():
        found = KSubset(scores, (3, 4, 5))
        (found.sample() + found.marginals).sum().backward()
        found.covariance_product(scores)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.cpu(),
        lambda x: x.tolist(),
        lambda x: x[x > 0],
        lambda x: x.nonzero(),
        lambda x: bool(x.isfinite().all()),
        lambda x: x.numpy(),
        lambda x: torch.ones(5).to(x.device),
        lambda x: x.copy_(torch.ones(5)),
    ],
)
def test_what_waits_is_noticed(wait: Callable[[Tensor], Any]):
    with NothingWaits(), pytest.raises((RuntimeError, NotImplementedError, TypeError, AssertionError)):
        wait(torch.zeros(5, device="meta"))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("name", "budget", "update"), CASES)
def test_a_gpu_draws_what_the_cpu_draws_and_does_not_wait(name: str, budget: str, update: int):
    found = []
    for device in ("cpu", "cuda"):
        selection, generator = make(name), torch.Generator().manual_seed(1)
        importance = torch.randn(N, generator=generator).to(device).requires_grad_()
        incoming = torch.randn(N, generator=generator).to(device)
        torch.cuda.set_sync_debug_mode("error")
        try:
            gates = selection.sample(importance, BUDGETS[budget], update, generator)
            kept = selection.keep(importance, BUDGETS[budget])
            if selection.learns:
                gates.backward(incoming)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        found.append([gates.detach().cpu(), kept.cpu(), incoming.cpu() if importance.grad is None else importance.grad])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-5)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_sample_goes_backward_after_others_of_its_budget_were_drawn():
    found = []
    for device in ("cpu", "cuda"):
        selection, gradients = make("simple"), []
        importances = [torch.linspace(-1, i, N).to(device).requires_grad_() for i in range(3)]
        incoming = torch.arange(float(N)).to(device)
        samples = [
            selection.sample(importance, BUDGETS[name], 3, torch.Generator().manual_seed(seed))
            for importance, name, seed in zip(importances, ("floors", "top", "floors"), (1, 2, 3), strict=True)
        ]
        kept = [sample.detach().clone() for sample in samples]
        for sample, importance in zip(samples, importances, strict=True):
            sample.backward(incoming)
            gradients.append(importance.grad)
        assert all(map(torch.equal, samples, kept))
        found.append([tensor.detach().cpu() for tensor in [*samples, *gradients]])
    for here, there in zip(*found, strict=True):
        torch.testing.assert_close(there, here, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("temperature", [1e3, 1.0, 0.1, 1e-2, 1e-4, 1e-8])
@pytest.mark.parametrize("budget", [*BUDGETS, "one", "nearly all"])
def test_the_relaxed_top_k_of_a_device_is_that_of_the_cpu(budget: str, temperature: float):
    k_of_n = {"one": Budget.top(1, N), "nearly all": Budget.top(22, N), **BUDGETS}[budget]
    for seed in range(5):
        generator = torch.Generator().manual_seed(seed)
        scores = torch.randn(N, generator=generator, dtype=torch.float64).requires_grad_()
        incoming = torch.randn(N, generator=generator, dtype=torch.float64)
        gates = relaxed_gates(scores, k_of_n, temperature, torch.zeros(N))
        found, steps = torch_forward(scores.detach(), k_of_n, temperature)
        (gradient,) = torch.autograd.grad(gates, scores, incoming)
        # where it explodes, the last bits of the scores are seen in the gates and in its direction
        exploded = gradient.norm() > 0.99 * GRADIENT_BOUND * incoming.norm()
        torch.testing.assert_close(found, gates.detach(), rtol=0, atol=1e-4 if exploded else 1e-9)
        difference = (torch_backward(steps, incoming, temperature) - gradient).norm()
        assert difference <= (0.01 if exploded else 1e-6) * gradient.norm() + 1e-9


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 1000.0])
def test_the_expectation_is_held(spread: float):
    importance = (spread * torch.randn(N, generator=torch.Generator().manual_seed(1)) + 50).requires_grad_()
    for budget in (*BUDGETS.values(), *(Budget.top(k, N) for k in range(N))):
        opened = open_probability(hold(importance, budget))
        for group in budget.groups:
            assert opened[list(group.indices)].sum().item() == pytest.approx(group.count, abs=1e-4)
        if opened.requires_grad:  # unless all heads stay, or none
            (gradient,) = torch.autograd.grad(opened.square().sum(), importance)
            assert gradient.isfinite().all()
            assert abs(gradient.sum()) < 1e-4
    log_odds = torch.tensor([[0.3, -2.0, 5.0, -math.inf], [1e5, 3.0, -1e5, 7.0]], dtype=torch.float64)
    sums = torch.sigmoid(log_odds + shift(log_odds, (1, 3))).sum(1)
    torch.testing.assert_close(sums, torch.tensor([1.0, 3.0]).double(), rtol=1e-9, atol=0)


def test_what_generation_makes_serves_training():
    """Tensors kept for later are made outside of inference mode."""
    constant.cache_clear()
    _subsets.cache_clear()
    importance, budget = torch.zeros(N, requires_grad=True), BUDGETS["floors"]
    with torch.inference_mode():
        for name in ("simple", "hard_concrete", "gumbel"):
            make(name).sample(importance.detach(), budget, 0, torch.Generator())
            make(name).keep(importance, budget)
    for name in ("simple", "hard_concrete", "gumbel"):
        make(name).sample(importance, budget, 0, torch.Generator()).sum().backward()


def test_graphs_are_recorded_when_a_budget_is_drawn_from_again(monkeypatch: pytest.MonkeyPatch):
    recorded = []

    class Recorded:
        def __init__(self, function: Callable[..., Tensor], *inputs: Tensor) -> None:
            recorded.append(self)
            self.function, _ = function, function(*inputs)

        def __call__(self, *inputs: Tensor) -> Tensor:
            return self.function(*inputs)

    monkeypatch.setattr(simple, "_Graphed", Recorded)
    monkeypatch.setattr(torch.cuda, "device", lambda _: contextlib.nullcontext())
    budget, draw = BUDGETS["floors"], torch.Generator().manual_seed(1)
    graphed, numbers = simple._GraphedSampler(budget), []
    for _ in range(3):
        scores, grad = torch.randn(2, N, generator=draw, dtype=torch.float64)
        noise = torch.rand(simple._noise_of(budget, scores.device), generator=draw, dtype=torch.float64)
        eager = simple._Sampler(budget)
        assert torch.equal(graphed.sample(scores, noise), eager.sample(scores, noise))
        numbers.append(len(recorded))
        assert torch.equal(graphed.gradient(grad, scores, noise, 0.5), eager.gradient(grad, scores, noise, 0.5))
    assert numbers == [0, 2, 2]
