"""Two processes against one on the doubled batch against accumulated batches."""

from __future__ import annotations

from pathlib import Path

import inprocess
import pytest
from ranks import SAME_DATA, assert_same_model, train_on_two_processes

KINDS = {
    "simple": "--heads-to-keep 6 --cooldown-updates 12",
    "simple, cold": "--heads-to-keep 6 --initial-temperature 0.1 --final-temperature 0.1 --cooldown-updates 20",
    "gumbel": "--head-selection gumbel --heads-to-keep 2 --final-temperature 0.1 --cooldown-updates 18",
    # rounding differences grow with pruning-lr / T: at this T and K, a rate of 0.2 makes 4e-2 of them
    "gumbel, cold": "--head-selection gumbel --heads-to-keep 6 --initial-temperature 0.1 --final-temperature 0.1 "
    "--pruning-lr 0.02",
    "ste": "--heads-to-keep 6 --head-selection ste",
    "hard_concrete": "--head-selection hard_concrete --l0-penalty 0.05 --criterion label_smoothed_cross_entropy_dsp",
    "hard_concrete at K": "--head-selection hard_concrete --heads-to-keep 6",
}


@pytest.mark.parametrize("kind", KINDS)
def test_accumulated_batches_equal_one(kind: str, tiny_data: Path, tmp_path: Path):
    flags = [*SAME_DATA, *KINDS[kind].split()]
    whole = inprocess.train(tiny_data, tmp_path / "whole", *flags, "--batch-size", 20)
    halves = inprocess.train(tiny_data, tmp_path / "halves", *flags, "--batch-size", 10, "--update-freq", 2)
    assert_same_model(whole, halves)


@pytest.mark.parametrize("kind", ["simple, cold", "gumbel"])
def test_two_processes_equal_one_and_agree_at_every_update(kind: str, tiny_data: Path, tmp_path: Path):
    flags = [*SAME_DATA, *KINDS[kind].split()]
    whole = inprocess.train(tiny_data, tmp_path / "whole", *flags, "--batch-size", 20)
    pair, records = train_on_two_processes(tiny_data, tmp_path, *flags, "--batch-size", 10)
    assert [update for update, *_ in records[0]] == list(range(20))
    assert records[0] == records[1], "gates and importance, bit for bit"
    assert records[0][-1][2] == inprocess.importance(pair["model"]).tolist()
    assert_same_model(whole, pair)


def test_two_processes_agree_on_a_drawn_budget_with_dropout(tiny_data: Path, tmp_path: Path):
    budget = ["--heads-to-keep", 6, "--heads-to-keep-low", 2, "--heads-to-keep-high", 10, "--task", "translation_dsp"]
    _, records = train_on_two_processes(tiny_data, tmp_path, *budget, "--cpu", "--max-update", 8, "--update-freq", 2)
    assert len(records[0]) == 8
    assert records[0] == records[1]
    budgets = {round(sum(gates)) for _, gates, _ in records[0]}
    assert len(budgets) > 2
    assert budgets <= set(range(2, 11))
