"""Budgets: one for all heads, one for each type, floors for modules and types."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from fairseq_dsp.subset import Budget, Draw, hard_gates

TYPES = [range(4), range(4, 8), range(8, 12)]
MODULES = [range(i, i + 2) for i in range(0, 12, 2)]


def floors(least: int, cross: int = 0) -> list[Draw]:
    """A floor for every module, then one for the last type."""
    return [*(Draw(tuple(module), least) for module in MODULES), Draw(tuple(TYPES[2]), cross)]


def hard(budget: Budget, scores: np.ndarray) -> np.ndarray:
    return hard_gates(torch.from_numpy(scores), budget).numpy()


def best_total(scores: np.ndarray, groups: list[range], counts: list[int], floor: int, cross: int) -> float:
    """The largest sum of scores that any allowed set of heads reaches, by trying all sets."""
    best = -np.inf
    for kept in itertools.combinations(range(12), sum(counts)):
        chosen = set(kept)
        fits = all(len(chosen & set(g)) == c for g, c in zip(groups, counts, strict=True))
        fits = fits and len(chosen & set(TYPES[2])) >= cross
        if fits and all(len(chosen & set(m)) >= floor for m in MODULES):
            best = max(best, scores[list(kept)].sum())
    return best


@pytest.mark.parametrize(
    ("groups", "counts", "floor", "cross"),
    [
        ([range(12)], [5], 0, 0),
        ([range(12)], [8], 1, 0),
        (TYPES, [3, 0, 2], 0, 0),
        (TYPES, [2, 3, 4], 1, 0),
        ([range(12)], [12], 2, 0),
        ([range(12)], [3], 0, 1),
        ([range(12)], [3], 0, 3),
        ([range(12)], [8], 1, 3),
        ([range(12)], [7], 1, 2),
    ],
)
def test_hard_is_the_best_allowed_set(groups: list[range], counts: list[int], floor: int, cross: int):
    budget = Budget.grouped(groups, counts, floors(floor, cross))
    assert budget.total == sum(counts)
    draw = np.random.default_rng(0)
    for _ in range(5):
        scores = draw.normal(size=12)
        gates = hard(budget, scores)
        assert gates.sum() == budget.total
        assert np.isclose(gates @ scores, best_total(scores, groups, counts, floor, cross))


def test_counts_hold_in_many_draws_with_ties():
    budget = Budget.grouped(TYPES, [2, 3, 4], floors(1))
    draw = np.random.default_rng(1)
    for _ in range(2000):
        gates = hard(budget, draw.integers(-1, 2, size=12).astype(float))
        assert [gates[list(t)].sum() for t in TYPES] == [2, 3, 4]
        assert all(gates[list(m)].sum() >= 1 for m in MODULES)


def test_a_module_with_fewer_heads_than_the_floor_keeps_them_all():
    budget = Budget.grouped([range(4)], [3], [Draw((0,), 2), Draw((1, 2, 3), 2)])
    assert hard(budget, np.array([-9.0, 1.0, 2.0, 3.0])).tolist() == [1, 0, 1, 1]


def test_keeps_all():
    assert Budget.top(3, 3).keeps_all
    assert not Budget.top(2, 3).keeps_all
    assert Budget.top(0, 3).draws == ()


@pytest.mark.parametrize("count", [-1, 13])
def test_a_count_out_of_range_is_refused(count: int):
    with pytest.raises(ValueError, match="from 0 to 12"):
        Budget.top(count, 12)


def test_a_floor_that_the_budget_cannot_meet_is_refused():
    with pytest.raises(ValueError, match=r"need 6 heads in all, but only 5 are to be kept"):
        Budget.grouped([range(12)], [5], floors(1))
    with pytest.raises(ValueError, match=r"need 7 heads in all, but only 6 are to be kept"):
        Budget.grouped([range(12)], [6], floors(1, 3))


def test_draws_without_a_head_in_common_make_a_round():
    budget = Budget.grouped([range(4), range(4, 12)], [2, 5], [Draw((0, 1), 1), Draw((4, 5), 1), Draw((4, 5, 6), 2)])
    rounds = [(indices.tolist(), counts) for indices, counts in budget.rounds(torch.device("cpu"))]
    assert rounds == [
        ([[0, 1], [4, 5]], (1, 1)),
        ([[4, 5, 6, 12], [0, 1, 2, 3]], (1, 1)),
        ([list(range(4, 12))], (3,)),
    ]
