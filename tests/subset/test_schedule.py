"""Temperature and budget as functions of the update number."""

from __future__ import annotations

import itertools
import math

import pytest

from fairseq_dsp.subset import Annealing, anneal, shrink


def test_the_papers_settings():
    assert anneal(0, 0.1, 1e-8, 15_000) == 0.1
    assert math.isclose(anneal(7_500, 0.1, 1e-8, 15_000), math.sqrt(0.1 * 1e-8))
    assert anneal(15_000, 0.1, 1e-8, 15_000) == 1e-8
    assert anneal(99_999, 0.1, 1e-8, 15_000) == 1e-8


def test_cools_by_the_same_factor_each_update():
    temperatures = [anneal(t, 1000, 1e-8, 50) for t in range(51)]
    factors = [b / a for a, b in itertools.pairwise(temperatures)]
    assert all(math.isclose(factor, factors[0], rel_tol=1e-9) for factor in factors)
    assert factors[0] < 1


def test_no_cooldown_is_the_final_temperature_at_once():
    assert anneal(0, 1.0, 0.5, 0) == 0.5


def test_equal_temperatures_stay():
    assert {anneal(t, 0.3, 0.3, 10) for t in range(20)} == {0.3}


@pytest.mark.parametrize(
    ("initial", "final", "cooldown", "words"),
    [
        (0.1, 0.2, 10, "final temperature 0.2 is above the initial temperature 0.1"),
        (0.1, 0.0, 10, "final temperature is 0.0"),
        (-1.0, 0.1, 10, "initial temperature is -1.0"),
        (math.inf, 0.1, 10, "initial temperature is inf"),
        (0.1, math.nan, 10, "final temperature is nan"),
        (0.1, 0.01, -1, "cooldown is -1"),
    ],
)
def test_impossible_schedules_are_refused(initial: float, final: float, cooldown: int, words: str):
    for make in (lambda: anneal(0, initial, final, cooldown), lambda: Annealing(initial, final, cooldown)):
        with pytest.raises(ValueError, match=words):
            make()


def test_a_negative_update_is_refused():
    with pytest.raises(ValueError, match="count from 0"):
        anneal(-1, 1, 0.1, 10)


def test_the_budget_shrinks_to_its_end_and_stays():
    budgets = [shrink(t, 12, 3, 6) for t in range(9)]
    assert budgets[0] == 12
    assert budgets[6:] == [3, 3, 3]
    assert budgets == sorted(budgets, reverse=True)
