"""The relaxed and the hard top-K against brute force, high precision and the published recurrence."""

from __future__ import annotations

import itertools
import math

import mpmath
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairseq_dsp.subset import GRADIENT_BOUND, Budget, Draw, hard_gates, hard_top_k, relaxed_gates, relaxed_top_k
from fairseq_dsp.subset.topk import gumbel_noise

TEMPERATURES = [10.0**e for e in range(3, -9, -1)]


def published(r: Tensor, k: int, temperature: float) -> Tensor:
    """Xie & Ermon's recurrence as printed, without care for cancellation."""
    gates = torch.zeros_like(r)
    for _ in range(k):
        p = torch.softmax(r / temperature, 0)
        gates = gates + p
        r = r + torch.log(1 - p)
    return gates


def published_exactly(r: list[float], k: int, temperature: float) -> list[float]:
    """The same in numbers of 60 digits."""
    with mpmath.workdps(60):
        values = [mpmath.mpf(x) for x in r]
        gates = [mpmath.mpf(0)] * len(values)
        for _ in range(k):
            weights = [mpmath.exp((x - max(values)) / mpmath.mpf(temperature)) for x in values]
            total = mpmath.fsum(weights)
            for i, weight in enumerate(weights):
                gates[i] += weight / total
                rest = mpmath.fsum(w for j, w in enumerate(weights) if j != i)
                values[i] += mpmath.log(rest / total)
        return [float(g) for g in gates]


def scores_and_noise(n: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=generator, dtype=dtype), gumbel_noise(n, generator).to(dtype)


# --- hard_top_k ---------------------------------------------------------------------------------------------------


def best(scores: list[float], k: int) -> list[float]:
    order = sorted(range(len(scores)), key=lambda i: (-scores[i], i))
    return [float(i in order[:k]) for i in range(len(scores))]


def test_hard_top_k_keeps_exactly_k_in_many_thousand_draws():
    generator = torch.Generator().manual_seed(1)
    for draw in range(5_000):
        n = draw % 73
        scores = torch.randn(n, generator=generator)
        if draw % 2:  # few distinct values: mostly ties
            scores = scores.round()
        k = int(torch.randint(n + 1, (), generator=generator))
        gates = hard_top_k(scores, k)
        assert gates.tolist() == best(scores.tolist(), k)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), max_size=9), st.data())
def test_hard_top_k_takes_the_largest_and_the_lower_index_of_equals(scores: list[float], data: st.DataObject):
    k = data.draw(st.integers(0, len(scores)))
    assert hard_top_k(torch.tensor(scores, dtype=torch.float32), k).tolist() == best(scores, k)


def test_hard_top_k_with_all_scores_tied():
    for k in range(8):
        assert hard_top_k(torch.zeros(7), k).tolist() == [1.0] * k + [0.0] * (7 - k)


def test_hard_top_k_tells_half_precision_numbers_apart():
    scores = torch.tensor([1.0, 1.0009765625, 1.0], dtype=torch.float16)
    gates = hard_top_k(scores, 1)
    assert gates.dtype == torch.float16
    assert gates.tolist() == [0, 1, 0]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(bad: float):
    scores = torch.tensor([0.0, bad])
    for choose in (lambda: hard_top_k(scores, 1), lambda: relaxed_top_k(scores, 1, 0.1)):
        with pytest.raises(ValueError, match="NaN or an infinity"):
            choose()
    with pytest.raises(ValueError, match="the noise hold"):
        relaxed_top_k(torch.zeros(2), 1, 0.1, scores)


@pytest.mark.parametrize("k", [-1, 4])
def test_k_out_of_range_is_refused(k: int):
    for choose in (lambda: hard_top_k(torch.zeros(3), k), lambda: relaxed_top_k(torch.zeros(3), k, 0.1)):
        with pytest.raises(ValueError, match=f"{k} heads are to be kept of 3: give a number from 0 to 3"):
            choose()


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_that_is_not_positive_is_refused(temperature: float):
    with pytest.raises(ValueError, match="temperature"):
        relaxed_top_k(torch.zeros(3), 1, temperature)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="vector"):
        hard_top_k(torch.zeros(2, 3), 1)
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        relaxed_top_k(torch.zeros(3), 1, 0.1, torch.zeros(2))


# --- relaxed_top_k: values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1000.0, 10.0, 1.0])
def test_equals_the_published_recurrence(temperature: float):
    for n, k in [(1, 0), (2, 1), (12, 4), (72, 4), (72, 36), (72, 68)]:
        scores, noise = scores_and_noise(n, seed=n + k)
        expected = published(scores + noise, k, temperature)
        torch.testing.assert_close(relaxed_top_k(scores, k, temperature, noise), expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.01, 1e-4])
def test_equals_the_published_recurrence_where_float64_cancels(temperature: float):
    for n, k in [(3, 3), (8, 5), (24, 12), (36, 34)]:
        scores, noise = scores_and_noise(n, seed=n + k)
        expected = published_exactly((scores + noise).tolist(), k, temperature)
        gates = relaxed_top_k(scores, k, temperature, noise)
        torch.testing.assert_close(gates, torch.tensor(expected, dtype=torch.float64), atol=1e-10, rtol=0)


@pytest.mark.parametrize("n", [1, 2, 13, 72])
def test_finite_for_every_k_and_temperature(n: int):
    incoming = torch.randn(n, generator=torch.Generator().manual_seed(n))
    incoming /= incoming.norm()
    for temperature in TEMPERATURES:
        for k in range(n + 1):
            scores, noise = scores_and_noise(n, seed=97 * n + k, dtype=torch.float32)
            scores.requires_grad_()
            gates = relaxed_top_k(scores, k, temperature, noise)
            assert gates.dtype == torch.float32
            assert gates.isfinite().all()
            assert abs(gates.double().sum().item() - k) <= 1e-6 * max(k, 1)
            (gradient,) = torch.autograd.grad(gates, scores, incoming)
            assert gradient.isfinite().all()
            assert gradient.double().norm() <= GRADIENT_BOUND


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=12),
    st.floats(1e-8, 1e3),
    st.data(),
)
def test_finite_for_wild_scores(scores: list[float], temperature: float, data: st.DataObject):
    k = data.draw(st.integers(0, len(scores)))
    w = torch.tensor(scores, requires_grad=True)
    gates = relaxed_top_k(w, k, temperature, torch.zeros(len(scores)))
    (gradient,) = torch.autograd.grad(gates, w, torch.ones(len(scores)).cumsum(0))
    assert gates.isfinite().all()
    assert gates.min() >= 0
    assert abs(gates.double().sum().item() - k) <= 1e-6 * max(k, 1)
    assert gradient.isfinite().all()


def test_k_of_nothing_and_nothing_of_n():
    assert relaxed_top_k(torch.zeros(0), 0, 1.0).shape == (0,)
    assert relaxed_top_k(torch.ones(3), 0, 1.0).tolist() == [0, 0, 0]
    torch.testing.assert_close(relaxed_top_k(torch.ones(1), 1, 1e-8), torch.ones(1))


def test_noise_is_drawn_when_none_is_given():
    torch.manual_seed(3)
    one = relaxed_top_k(torch.zeros(9), 4, 0.5)
    assert not torch.equal(one, relaxed_top_k(torch.zeros(9), 4, 0.5))
    torch.manual_seed(3)
    assert torch.equal(one, relaxed_top_k(torch.zeros(9), 4, 0.5))


def test_gumbel_noise_is_gumbel_noise():
    noise = gumbel_noise(200_000, torch.Generator().manual_seed(5))
    assert noise.dtype == torch.float64
    assert noise.isfinite().all()
    assert abs(noise.mean() - 0.5772156649) < 0.01  # Euler's constant
    assert abs(noise.var() - math.pi**2 / 6) < 0.03


# --- relaxed_top_k: gradients -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "k", "temperature"), [(6, 3, 1.0), (6, 6, 0.7), (5, 1, 0.3), (8, 6, 2.0), (1, 1, 1.0)])
def test_gradcheck(n: int, k: int, temperature: float):
    scores, noise = scores_and_noise(n, seed=k)
    scores.requires_grad_()
    noise.requires_grad_()
    assert torch.autograd.gradcheck(lambda w, g: relaxed_top_k(w, k, temperature, g), (scores, noise))


def test_gradcheck_under_a_floor():
    budget = Budget.grouped(
        [range(4), range(4, 9)], [2, 3], [Draw((0, 1), 1), Draw((2, 3), 1), Draw(tuple(range(4, 9)), 1)]
    )
    scores, noise = scores_and_noise(9, seed=2)
    scores.requires_grad_()
    assert torch.autograd.gradcheck(lambda w: relaxed_gates(w, budget, 0.6, noise), scores)


def test_gradient_equals_autograd_through_the_published_recurrence():
    for k in (1, 18, 36, 60):
        scores, noise = scores_and_noise(72, seed=k)
        scores.requires_grad_()
        incoming = torch.randn(72, dtype=torch.float64, generator=torch.Generator().manual_seed(k))
        (ours,) = torch.autograd.grad(relaxed_top_k(scores, k, 1.0, noise), scores, incoming)
        (theirs,) = torch.autograd.grad(published(scores + noise, k, 1.0), scores, incoming)
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=1e-10)


def test_the_bound_is_reached_and_linear():
    scores, noise = scores_and_noise(72, seed=11)
    scores.requires_grad_()
    incoming = torch.randn(72, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    gates = relaxed_top_k(scores, 68, 0.01, noise)
    (gradient,) = torch.autograd.grad(gates, scores, incoming)
    assert gradient.norm() <= GRADIENT_BOUND * incoming.norm()
    assert gradient.norm() > 0.999 * GRADIENT_BOUND * incoming.norm()
    # linear in the incoming gradient, so a rescaled loss changes no direction
    gates = relaxed_top_k(scores, 68, 0.01, noise)
    (scaled,) = torch.autograd.grad(gates, scores, incoming * 128)
    torch.testing.assert_close(scaled, gradient * 128)


def test_no_gradient_for_a_gradient_of_zero():
    scores, noise = scores_and_noise(12, seed=1)
    scores.requires_grad_()
    (gradient,) = torch.autograd.grad(relaxed_top_k(scores, 6, 1e-3, noise), scores, torch.zeros(12).double())
    assert torch.equal(gradient, torch.zeros(12).double())


# --- the limit T → 0 ----------------------------------------------------------------------------------------------


def plackett_luce(weights: list[float], k: int) -> dict[frozenset[int], float]:
    """The probability of each k-subset when items are drawn one by one in proportion to their weights."""
    chances: dict[frozenset[int], float] = {}
    for order in itertools.permutations(range(len(weights)), k):
        left, chance = sum(weights), 1.0
        for item in order:
            chance *= weights[item] / left
            left -= weights[item]
        chances[frozenset(order)] = chances.get(frozenset(order), 0.0) + chance
    return chances


@pytest.mark.parametrize("k", [1, 2, 4])
def test_at_low_temperature_samples_follow_plackett_luce(k: int):
    scores = torch.tensor([0.0, 0.5, -1.0, 1.0, 0.2], dtype=torch.float64)
    expected = plackett_luce(scores.exp().tolist(), k)
    assert math.isclose(sum(expected.values()), 1)
    generator, draws = torch.Generator().manual_seed(k), 2500
    counts = dict.fromkeys(expected, 0)
    for _ in range(draws):
        gates = relaxed_top_k(scores, k, 1e-7, gumbel_noise(5, generator))
        counts[frozenset(gates.round().nonzero().flatten().tolist())] += 1
    chi_square = sum((counts[s] - draws * p) ** 2 / (draws * p) for s, p in expected.items())
    freedom = len(expected) - 1
    assert chi_square < freedom + 4 * math.sqrt(2 * freedom) + 4  # about 1 in 10,000


def test_at_low_temperature_the_relaxed_gates_are_the_hard_ones():
    budget = Budget.grouped([range(4), range(4, 12)], [2, 5], [Draw((i, i + 1), 1) for i in range(0, 12, 2)])
    for seed in range(200):
        scores, noise = scores_and_noise(12, seed)
        gates = relaxed_gates(scores, budget, 1e-8, noise)
        torch.testing.assert_close(gates, hard_gates(scores + noise, budget), atol=1e-4, rtol=0)
