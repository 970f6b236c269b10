"""Schedules: functions of the number of updates alone, so that a resumed run continues where it stopped."""

from __future__ import annotations

import math


def anneal(update: int, initial: float, final: float, cooldown: int) -> float:
    """Return the temperature at an update: cooled geometrically, then constant.

    T(t) = T0 · (Tf / T0)^(t / c) for t < c, and Tf from update c on (Li et al. 2021, section 3.3).

    :param update: number of updates already made, 0 for the first one.
    :param initial: T0, the temperature at update 0.
    :param final: Tf, 0 < Tf ≤ T0.
    :param cooldown: c, the number of updates the cooling takes; 0 means Tf from the start.
    :raises ValueError: if the temperatures are not positive, finite and ordered, or a count is negative.
    """
    check_annealing(initial, final, cooldown)
    if update < 0:
        raise ValueError(f"the update number is {update}, but updates count from 0")
    if update >= cooldown:
        return final
    return initial * (final / initial) ** (update / cooldown)


def check_annealing(initial: float, final: float, cooldown: int) -> None:
    """Raise a ``ValueError`` unless 0 < final ≤ initial < ∞ and cooldown ≥ 0."""
    for name, value in (("initial", initial), ("final", final)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"the {name} temperature is {value}, but it must be a positive, finite number")
    if final > initial:
        raise ValueError(
            f"the final temperature {final} is above the initial temperature {initial}: annealing only cools; "
            "give a final temperature that is at most the initial one"
        )
    if cooldown < 0:
        raise ValueError(f"the cooldown is {cooldown} updates, but it must be 0 or more")


def shrink(update: int, start: int, end: int, updates: int) -> int:
    """Return the budget at an update: linear from *start* heads to *end* heads over so many updates, then *end*."""
    if update >= updates:
        return end
    return start + round((end - start) * update / updates)


def between(low: int, high: int, place: float) -> int:
    """Return the budget at a place between two, 0 at *low* and 1 at *high*, on a scale of logarithms.

    With a uniform place, each of them is drawn, k in proportion to log((k + 2) / (k + 1)).
    """
    return min(high, int((low + 1) ** (1 - place) * (high + 2) ** place) - 1)
