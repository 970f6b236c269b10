"""The price of a budget, and whole numbers within it, against trying everything."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fairseq_dsp.subset.price import Group, find_price, numbers_at, whole_numbers


def test_at_the_price_independent_units_cost_the_budget_by_enumeration() -> None:
    draw = np.random.default_rng(1)
    group_of = np.array([0, 0, 0, 1, 1, 1, 1, 1, 2, 2])
    costs, scores = np.array([7.0, 2.0, 3.0]), draw.normal(size=10) * 2
    for budget in (1, 9, 20, 30, 36):
        price = find_price(scores, group_of, costs, [0, 0, 0], budget)
        odds, total, numbers, spent = np.exp(scores - price), 0.0, np.zeros(3), 0.0
        for z in itertools.product([0, 1], repeat=10):
            weight = np.prod(odds ** np.array(z))
            total += weight
            numbers += weight * np.bincount(group_of, z)
            spent += weight * (costs[group_of] @ np.array(z))
        np.testing.assert_allclose(spent / total, budget, rtol=1e-10)
        np.testing.assert_allclose(numbers / total, numbers_at(price, scores, group_of, [0, 0, 0]), rtol=1e-10)


_groups = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 9), st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=4
)


@settings(deadline=None, max_examples=100)
@given(groups=_groups, share=st.floats(0, 1), slack=st.integers(0, 3))
def test_whole_numbers_are_among_all_allowed_ones_and_near_the_price_s(groups: Any, share: float, slack: int) -> None:
    made, first = [], 0
    for size, unit, least, _ in groups:
        made.append(Group(0, tuple(range(first, first + size)), unit, int(least * size)))
        first += size
    order = sorted(made, key=lambda g: -g.cost)
    left_over = min(g.cost for g in made) + slack
    for i, g in enumerate(order):
        assume(sum(o.cost * (len(o.units) - o.least) for o in order[i + 1 :]) + left_over + 1 >= g.cost)
    lowest = sum(g.cost * g.least for g in made)
    budget = lowest + int(share * sum(g.cost * (len(g.units) - g.least) for g in made))
    scores = np.concatenate([np.full(len(g.units), where) for g, (*_, where) in zip(made, groups, strict=True)])
    group_of = np.repeat(np.arange(len(made)), [len(g.units) for g in made])
    costs = np.array([g.cost for g in made], dtype=float)
    least_of = [g.least for g in made]
    price = find_price(scores, group_of, costs, least_of, budget)
    numbers = numbers_at(price, scores, group_of, least_of)
    found = whole_numbers(numbers, made, budget, left_over)
    allowed = {
        counts
        for counts in itertools.product(*(range(g.least, len(g.units) + 1) for g in made))
        if budget - left_over <= costs @ counts <= budget
    }
    assert found in allowed
    distance = {counts: float(costs @ np.abs(numbers - counts)) for counts in allowed}
    assert distance[found] <= min(distance.values()) + 2 * costs.max()
