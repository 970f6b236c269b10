"""Exact samples of a K-subset and the gradient of their marginals, against all subsets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_dsp.subset import GRADIENT_BOUND, SELECTIONS, Annealing, Budget, Draw
from fairseq_dsp.subset.simple import covariance_product, sample_subset, subset_marginals


def enumerate_subsets(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Every K-subset as 0/1, and its probability."""
    subsets = np.array([z for z in itertools.product((0, 1), repeat=len(scores)) if sum(z) == k], float)
    logs = subsets @ scores
    weights = np.exp(logs - logs.max())
    return subsets, weights / weights.sum()


@pytest.mark.parametrize("scale", [0.0, 0.1, 1.0, 10.0, 1e3, 1e8])
@pytest.mark.parametrize("n", [1, 2, 5, 9, 12])
def test_marginals_and_covariance_are_those_of_all_subsets(n: int, scale: float):
    draw = np.random.default_rng(n)
    for k in range(n + 1):
        scores, vector = scale * draw.normal(size=n), draw.normal(size=n)
        subsets, p = enumerate_subsets(scores, k)
        marginals = p @ subsets
        covariance = (subsets * p[:, None]).T @ subsets - np.outer(marginals, marginals)
        np.testing.assert_allclose(subset_marginals(scores, k), marginals, rtol=0, atol=1e-12)
        np.testing.assert_allclose(covariance_product(scores, k, vector), covariance @ vector, rtol=0, atol=1e-12)


def test_samples_are_as_frequent_as_they_should_be():
    draw = np.random.default_rng(1)
    scores = np.array([1.5, -0.5, 0.0, 0.7, -1.0])
    subsets, p = enumerate_subsets(scores, 2)
    count = 20_000
    found = np.array([sample_subset(scores, 2, draw.random(5)) for _ in range(count)])
    frequencies = np.array([(found == z).all(1).mean() for z in subsets])
    np.testing.assert_allclose(frequencies, p, rtol=0, atol=5 * np.sqrt(0.25 / count))


@settings(deadline=None)
@given(st.integers(1, 80), st.data())
def test_any_size_and_any_scores(n: int, data: st.DataObject):
    k = data.draw(st.integers(0, n))
    scores = np.array(data.draw(st.lists(st.floats(-1e9, 1e9), min_size=n, max_size=n)))
    uniform = np.random.default_rng(n).random(n)
    assert sample_subset(scores, k, uniform).sum() == k
    marginals = subset_marginals(scores, k)
    assert (marginals >= 0).all()
    assert (marginals <= 1 + 1e-9).all()
    assert marginals.sum() == pytest.approx(k, abs=1e-6)
    product = covariance_product(scores, k, np.linspace(-1, 1, n))
    assert np.isfinite(product).all()
    assert abs(product.sum()) < 1e-6, "the number of heads does not vary"


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
            incoming.numpy() @ subset_marginals((importance.detach().numpy() + sign * step) / 0.5, 2)
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
    exact = covariance_product(np.zeros(36), 18, incoming.double().numpy())
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
