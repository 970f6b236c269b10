"""``simple``: exact samples of the budget's subsets, and the gradient of their marginals up to its bound."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import recursion
import torch

from fairseq_dsp.subset import GRADIENT_BOUND, SELECTIONS, Annealing, Budget, Draw


@pytest.mark.parametrize("n", [36, 72, 144])
@pytest.mark.parametrize("temperature", [1e4, 1.0, 0.05, 1e-3])
def test_the_law_and_the_gradient_are_those_of_head_by_head(n: int, temperature: float):
    selection, k = SELECTIONS["simple"](Annealing(temperature, temperature, 1)), n // 3
    importance = torch.randn(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64, requires_grad=True)
    incoming = torch.randn(n, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    scores = importance.detach().numpy() / temperature
    drawn = torch.zeros(n, dtype=torch.float64)
    for seed in range(50):
        gates = selection.sample(importance, Budget.top(k, n), 0, torch.Generator().manual_seed(seed))
        assert gates.sum() == k
        drawn += gates.detach() / 50
    expected = recursion.marginals(scores, k).clip(0, 1)
    assert (np.abs(drawn.numpy() - expected) < 5 * np.sqrt(expected * (1 - expected) / 50) + 0.02).all()
    (gradient,) = torch.autograd.grad(gates, importance, incoming)
    product = recursion.covariance_product(scores, k, incoming.numpy()) / temperature
    np.testing.assert_allclose(gradient, product, rtol=0, atol=1e-11 / min(1, temperature))


def test_the_draws_of_a_budget_are_each_by_their_law_given_those_before():
    """All that two floors and the rest can draw, one after the other, with the gradient of each draw's marginals."""
    budget = Budget.grouped([range(6)], [3], [Draw((1, 3, 4), 1), Draw((0, 2), 1)])
    importance = torch.tensor([0.3, -0.2, 0.9, 0.0, -0.7, 0.4], dtype=torch.float64, requires_grad=True)
    incoming = torch.tensor([1.0, 2.0, -1.0, 0.5, 0.0, -3.0], dtype=torch.float64)
    theta = importance.detach().numpy() / 0.5
    chances: dict[tuple[float, ...], float] = {}
    gradients: dict[tuple[float, ...], list[np.ndarray]] = {}
    for drawn in itertools.product((1, 3, 4), (0, 2), range(6)):
        if len(set(drawn)) < 3:
            continue
        chance, gradient, gone = 1.0, np.zeros(6), set[int]()
        for head, among in zip(drawn, ({1, 3, 4}, {0, 2}, set(range(6))), strict=True):
            free = sorted(among - gone)
            chance *= recursion.marginals(theta[free], 1)[free.index(head)]
            gradient[free] += recursion.covariance_product(theta[free], 1, incoming.numpy()[free]) / 0.5
            gone.add(head)
        subset = tuple(float(i in gone) for i in range(6))
        chances[subset] = chances.get(subset, 0.0) + chance
        gradients.setdefault(subset, []).append(gradient)
    selection, draws = SELECTIONS["simple"](Annealing(0.5, 0.5, 1)), 3000
    counts = dict.fromkeys(chances, 0)
    generator = torch.Generator().manual_seed(1)
    for _ in range(draws):
        gates = selection.sample(importance, budget, 0, generator)
        counts[tuple(gates.tolist())] += 1
    chi_square = sum((counts[subset] - draws * p) ** 2 / (draws * p) for subset, p in chances.items())
    assert chi_square < len(chances) + 4 * math.sqrt(2 * len(chances))
    (found,) = torch.autograd.grad(gates, importance, incoming)
    assert min(np.abs(found.numpy() - gradient).max() for gradient in gradients[tuple(gates.tolist())]) < 1e-12


def test_the_gradient_is_that_of_the_marginals_at_the_temperature():
    selection = SELECTIONS["simple"](Annealing(0.5, 0.5, 1))
    importance = torch.tensor([0.3, -0.2, 0.9, 0.0, -0.7], dtype=torch.float64, requires_grad=True)
    incoming = torch.tensor([1.0, 2.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    gates = selection.sample(importance, Budget.top(2, 5), 0, torch.Generator().manual_seed(1))
    assert sorted(gates.tolist()) == [0, 0, 0, 1, 1]
    (gradient,) = torch.autograd.grad(gates, importance, incoming)
    for i in range(5):  # finite differences of v · μ(w / T)
        step = np.zeros(5)
        step[i] = 1e-6
        low, high = (
            incoming.numpy() @ recursion.marginals((importance.detach().numpy() + sign * step) / 0.5, 2)
            for sign in (-1, 1)
        )
        assert gradient[i].item() == pytest.approx((high - low) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("temperature", [1e-2, 1e-5, 1e-8, 1e-40])
def test_the_gradient_is_bounded_in_its_length_alone(temperature: float):
    selection = SELECTIONS["simple"](Annealing(temperature, temperature, 1))
    importance = torch.zeros(36, requires_grad=True)
    incoming = torch.randn(36, generator=torch.Generator().manual_seed(1))
    gates = selection.sample(importance, Budget.top(18, 36), 0, torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad(gates, importance, incoming)
    exact = recursion.covariance_product(np.zeros(36), 18, incoming.double().numpy())
    length = min(np.linalg.norm(exact) / temperature, GRADIENT_BOUND * float(incoming.norm()))
    assert gradient.double().norm() <= GRADIENT_BOUND * incoming.double().norm()
    expected = torch.from_numpy(exact * (length / np.linalg.norm(exact))).float()
    torch.testing.assert_close(gradient, expected)


def test_floors_and_groups_hold_in_every_sample():
    modules = [range(3), range(3, 6), range(6, 10)]
    budget = Budget.grouped([range(6), range(6, 10)], [4, 2], [Draw(tuple(module), 1) for module in modules])
    selection = SELECTIONS["simple"](Annealing(1.0, 0.1, 10))
    importance = torch.linspace(-3, 3, 10, requires_grad=True)
    for seed in range(50):
        gates = selection.sample(importance, budget, 3, torch.Generator().manual_seed(seed))
        assert [gates[list(group)].sum().item() for group in (range(6), range(6, 10))] == [4, 2]
        assert all(gates[list(module)].sum() >= 1 for module in modules)
    (gradient,) = torch.autograd.grad(gates, importance, torch.arange(10.0))
    assert gradient.isfinite().all()


def test_the_heads_are_decided_when_the_cooldown_ends():
    selection, budget = SELECTIONS["simple"](Annealing(1.0, 0.1, 10)), Budget.top(3, 8)
    importance = torch.zeros(8, requires_grad=True)
    drawn = {
        tuple(selection.sample(importance, budget, 9, torch.Generator().manual_seed(s)).tolist()) for s in range(9)
    }
    assert len(drawn) > 1
    assert selection.decides(9)
    assert not selection.decides(10)
    gates = selection.sample(importance, budget, 10, torch.Generator().manual_seed(1))
    assert torch.equal(gates, selection.keep(importance, budget))
    (gradient,) = torch.autograd.grad(gates, importance, torch.arange(8.0))
    assert torch.equal(gradient, torch.zeros(8)), "a gradient there is, as the other processes expect"


def test_an_importance_that_is_no_number_is_refused():
    selection = SELECTIONS["simple"](Annealing(1.0, 0.1, 10))
    with pytest.raises(ValueError, match="the importance hold a NaN or an infinity"):
        selection.sample(torch.tensor([0.0, math.nan]), Budget.top(1, 2), 0, torch.Generator())
