"""The K-subset distribution against all subsets, against the recursion, and where numbers are extreme."""

from __future__ import annotations

import itertools

import mpmath
import numpy as np
import pytest
import recursion
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fairseq_dsp.subset import KSubset


def subsets_of(n: int, k: int) -> Tensor:
    """Every K-subset as 0/1. *Shape:* (number, N)."""
    rows = [[float(i in chosen) for i in range(n)] for chosen in itertools.combinations(range(n), k)]
    return torch.tensor(rows, dtype=torch.float64).reshape(-1, n)


def random(n: int, seed: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.0, 1e-5, 0.1, 1.0, 10.0, 1e3, 1e8, 1e12])
@pytest.mark.parametrize("n", [1, 2, 5, 6, 7, 9, 13])
def test_everything_is_that_of_all_subsets(n: int, scale: float):
    for k in range(n + 1):
        scores, vector, subsets = random(n, seed=k, scale=scale), random(n, seed=k + 50), subsets_of(n, k)
        totals = subsets @ scores
        p = totals.softmax(0)
        mean = p @ subsets
        covariance = (subsets - mean).T @ (p[:, None] * (subsets - mean))
        found = KSubset(scores, k)
        torch.testing.assert_close(found.marginals, mean, rtol=0, atol=1e-12)
        torch.testing.assert_close(found.covariance_product(vector), covariance @ vector, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("n", "k"), [(5, 2), (7, 3), (9, 7)])
def test_samples_are_as_frequent_as_they_should_be(n: int, k: int):
    scores, subsets, count = random(n, seed=1), subsets_of(n, k), 20_000
    rows = KSubset(scores.expand(count, n), k)
    found = rows.sample(torch.Generator().manual_seed(1))
    frequencies = torch.stack([(found == subset).all(1).double().mean() for subset in subsets])
    p = (subsets @ scores).softmax(0)
    assert frequencies.sum() == 1
    assert float((count * (frequencies - p) ** 2 / p).sum()) < len(p) + 4 * (2 * len(p)) ** 0.5  # χ²


@pytest.mark.parametrize(("n", "k"), [(36, 18), (72, 6), (144, 72), (144, 136)])
@pytest.mark.parametrize("scale", [0.0, 1.0, 30.0])
def test_as_head_by_head(n: int, k: int, scale: float):
    scores, vector = random(n, seed=k, scale=scale), random(n, seed=1)
    found = KSubset(scores, k)
    slow = recursion.marginals(scores.numpy(), k), recursion.covariance_product(scores.numpy(), k, vector.numpy())
    np.testing.assert_allclose(found.marginals, slow[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.covariance_product(vector), slow[1], rtol=0, atol=1e-11)


def test_no_digit_is_lost_beside_scores_that_differ_much():
    """The recursion adds large scores up, and their rounding with them; here only the middle ten are in doubt."""
    middle = random(10, seed=3)
    scores = torch.cat([middle, torch.full((30,), 1e12).double(), torch.full((20,), -1e14).double()])
    torch.testing.assert_close(KSubset(scores, 34).marginals[:10], KSubset(middle, 4).marginals, rtol=1e-13, atol=0)
    slow = recursion.marginals(scores.numpy(), 34)[:10]
    assert np.abs(slow - KSubset(middle, 4).marginals.numpy()).max() > 1e-5


def test_small_chances_are_exact_in_all_their_digits():
    scores = random(40, seed=5, scale=20.0)
    with mpmath.workdps(60):
        weights = [mpmath.exp(mpmath.mpf(float(score))) for score in scores]
        expected = []
        for skipped in range(40):
            sums = [mpmath.mpf(1)] + [mpmath.mpf(0)] * 12
            for weight in weights[:skipped] + weights[skipped + 1 :]:
                sums = [sums[0]] + [sums[c] + weight * sums[c - 1] for c in range(1, 13)]
            expected.append(float(weights[skipped] * sums[11] / (sums[12] + weights[skipped] * sums[11])))
    assert min(expected) < 1e-20
    np.testing.assert_allclose(KSubset(scores, 12).marginals, expected, rtol=1e-12, atol=0)


def test_heads_that_are_never_chosen_change_nothing():
    scores, gone = random(20, seed=2), torch.zeros(20, dtype=torch.bool)
    gone[[0, 3, 4, 11, 19]] = True
    masked = KSubset(scores.masked_fill(gone, -torch.inf), 15)
    assert masked.sample().tolist() == (~gone).double().tolist(), "all that are left"
    masked, rest = KSubset(scores.masked_fill(gone, -torch.inf), 7), KSubset(scores[~gone], 7)
    torch.testing.assert_close(masked.marginals[~gone], rest.marginals, rtol=0, atol=1e-14)
    vector = random(20, seed=3)
    product = masked.covariance_product(vector)
    torch.testing.assert_close(product[~gone], rest.covariance_product(vector[~gone]), rtol=0, atol=1e-13)
    assert not product[gone].any()


def test_several_at_once_are_each_as_if_alone():
    scores, vector = random(44, seed=7).reshape(4, 11), random(44, seed=8).reshape(4, 11)
    counts = (3, 0, 11, 5)
    together = KSubset(scores, counts)
    assert together.sample().sum(1).tolist() == list(counts)
    for i, count in enumerate(counts):
        alone = KSubset(scores[i], count)
        for ours, theirs in (
            (together.marginals[i], alone.marginals),
            (together.covariance_product(vector)[i], alone.covariance_product(vector[i])),
        ):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("n", "k"), [(4, 2), (8, 3), (13, 12)])
def test_gradients(n: int, k: int):
    assert torch.autograd.gradcheck(lambda w: KSubset(w, k).marginals, random(n, seed=1).requires_grad_())


@settings(deadline=None)
@given(st.integers(1, 80), st.data())
def test_any_size_and_any_scores(n: int, data: st.DataObject):
    k = data.draw(st.integers(0, n))
    scores = data.draw(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=n, max_size=n))
    found = KSubset(torch.tensor(scores, dtype=torch.float64), k)
    gates = found.sample(torch.Generator().manual_seed(n))
    assert gates.sum() == k
    assert ((gates == 0) | (gates == 1)).all()
    marginals = found.marginals
    assert (marginals >= 0).all()
    assert (marginals <= 1 + 1e-9).all()
    assert marginals.sum().item() == pytest.approx(k, abs=1e-6)
    assert (marginals[gates == 1] > 0).all()
    product = found.covariance_product(torch.linspace(-1, 1, n))
    assert product.isfinite().all()
    assert abs(product.sum()) < 1e-6, "the number of heads does not vary"


def test_noise_is_the_generators():
    scores, state = random(30, seed=1), torch.get_rng_state()
    first = KSubset(scores, 11).sample(torch.Generator().manual_seed(4))
    assert torch.equal(first, KSubset(scores, 11).sample(torch.Generator().manual_seed(4)))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("k", [-1, 4])
def test_k_out_of_range_is_refused(k: int):
    with pytest.raises(ValueError, match=f"k is {k}, but of 3 heads 0 to 3 can be chosen"):
        KSubset(torch.zeros(3), k)
