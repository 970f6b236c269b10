"""How many units of each of several groups stay within a budget of cost, by one price for all.

A unit of importance w stays with the chance p = sigmoid((w − λ) / T). The price λ is the one at which the units that
are expected to stay cost the budget; the numbers that it says are then made whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Group:
    """Units of one kind that cost the same.

    :param place: of their kind among the plans.
    :param units: which ones, as the kind numbers them.
    :param cost: of each.
    :param least: how many of them stay at least.
    """

    place: int
    units: tuple[int, ...]
    cost: int
    least: int = 0


def find_price(scores: Numbers, group_of: NDArray[np.intp], costs: Numbers, least: Sequence[int], budget: int) -> float:
    """Return the price λ / T at which the units that are expected to stay cost as much as the budget.

    A unit of importance w stays with the chance p = sigmoid((w − λ) / T), and of a group at least so many units as its
    floors say: Σ over the groups of cost · max(least, Σ p) = budget, in which the left side falls with λ. By bisection.

    :param scores: w / T of all units. *Shape:* (N)
    :param group_of: the group of each unit. *Shape:* (N)
    :param costs: of one unit of each group.
    :param least: the least number of units of each group.
    """
    low, high = float(scores.min()) - 60, float(scores.max()) + 60
    for _ in range(50):
        middle = (low + high) / 2
        if costs @ numbers_at(middle, scores, group_of, least) > budget:
            low = middle
        else:
            high = middle
    return high


def numbers_at(price: float, scores: Numbers, group_of: NDArray[np.intp], least: Sequence[int]) -> Numbers:
    """Return how many units of each group are expected to stay at a price; see :func:`find_price`."""
    expected = np.bincount(group_of, sigmoid(scores - price), minlength=len(least))
    return np.maximum(expected, least)


def whole_numbers(numbers: Numbers, groups: Sequence[Group], budget: int, left_over: int) -> tuple[int, ...]:
    """Return how many units of each group stay: whole numbers that cost the budget, or less by at most *left_over*.

    From the most expensive group to the cheapest, each number is rounded to the nearest that leaves the others a way to
    keep the budget; what rounding saves or costs goes to the next group. In the end, what is left buys the cheapest
    units that there are.

    :param numbers: how many the price says. *Shape:* (groups)
    """
    order = [groups.index(group) for group in in_order(groups)]
    least_left = sum(g.cost * g.least for g in groups)
    most_left = sum(g.cost * len(g.units) for g in groups)
    counts, left, carried = [0] * len(groups), budget, 0.0
    for i in order:
        group = groups[i]
        least_left -= group.cost * group.least
        most_left -= group.cost * len(group.units)
        low = max(group.least, -((most_left + left_over - left) // group.cost))
        high = min(len(group.units), (left - least_left) // group.cost)
        # rounded twice: the last bits, which processors may differ in, do not matter
        wanted = round(round(float(numbers[i]) + carried / group.cost, 6))
        counts[i] = min(max(wanted, low), high)
        carried += (float(numbers[i]) - counts[i]) * group.cost
        left -= counts[i] * group.cost
    for i in reversed(order):
        more = min(len(groups[i].units) - counts[i], left // groups[i].cost)
        counts[i] += more
        left -= more * groups[i].cost
    return tuple(counts)


def in_order(groups: Sequence[Group]) -> list[Group]:
    """Return groups from the most expensive to the cheapest."""
    return sorted(groups, key=lambda group: -group.cost)


def sigmoid(x: Numbers) -> Numbers:
    """Return 1 / (1 + exp(−x)), without overflow."""
    values: Numbers = 0.5 + 0.5 * np.tanh(0.5 * x)
    return values
