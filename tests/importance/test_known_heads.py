"""Every method finds the heads that matter; tests/long/ground_truth.py shows how often."""

from __future__ import annotations

import pytest
from known_heads import METHODS, hit_rate, margin
from support import mostly_slow

from fairseq_dsp.subset import SELECTIONS


def test_every_selection_that_learns_is_there():
    learning = {name for name, selection in SELECTIONS.items() if selection.learns}
    assert {options.get("head_selection", "gumbel") for options in METHODS.values()} == learning


def test_the_heads_that_matter_are_the_best():
    assert margin(5) > 0.1


@pytest.mark.parametrize("method", mostly_slow(sorted(set(METHODS) - {"gumbel, the paper's temperatures"}), "simple"))
def test_the_heads_that_matter_are_found(method: str):
    assert hit_rate(method, 5, updates=60) == 1
