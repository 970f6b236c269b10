"""Two processes against one on the doubled batch against accumulated batches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import inprocess
import pytest
import ranks
import support
import torch
from ranks import SAME_DATA, assert_same_model, start_two_processes, train_on_two_processes

from fairseq_dsp.cli import main

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


@pytest.mark.parametrize("kind", support.mostly_slow(KINDS, "simple"))
def test_accumulated_batches_equal_one(kind: str, tiny_data: Path, tmp_path: Path):
    flags = [*SAME_DATA, *KINDS[kind].split()]
    whole = inprocess.train(tiny_data, tmp_path / "whole", *flags, "--batch-size", 20)
    halves = inprocess.train(tiny_data, tmp_path / "halves", *flags, "--batch-size", 10, "--update-freq", 2)
    assert_same_model(whole, halves)


@pytest.mark.parametrize("kind", support.mostly_slow(["simple, cold", "gumbel"], "simple, cold"))
def test_two_processes_equal_one_and_agree_at_every_update(kind: str, tiny_data: Path, tmp_path: Path):
    flags = [*SAME_DATA, *KINDS[kind].split()]
    whole = inprocess.train(tiny_data, tmp_path / "whole", *flags, "--batch-size", 20)
    pair, records = train_on_two_processes(tiny_data, tmp_path, *flags, "--batch-size", 10)
    assert [update for update, *_ in records[0]] == list(range(20))
    assert records[0] == records[1], "gates and importance, bit for bit"
    assert records[0][-1][2] == inprocess.importance(pair["model"]).tolist()
    assert_same_model(whole, pair)


@pytest.mark.slow
def test_two_processes_agree_on_a_drawn_budget_with_dropout(tiny_data: Path, tmp_path: Path):
    budget = ["--heads-to-keep", 6, "--heads-to-keep-low", 2, "--heads-to-keep-high", 10, "--task", "translation_dsp"]
    budget += ["--cooldown-updates", 3]
    _, records = train_on_two_processes(tiny_data, tmp_path, *budget, "--cpu", "--max-update", 8, "--update-freq", 2)
    assert len(records[0]) == 8
    assert records[0] == records[1]
    first, *budgets = [round(sum(gates)) for _, gates, _ in records[0]]
    assert first == 12
    assert len(set(budgets)) > 2
    assert set(budgets) <= set(range(2, 11))


def test_two_processes_agree_on_how_heads_and_units_share_a_budget(tiny_data: Path, tmp_path: Path):
    budget = ["--parameters-to-keep", 0.4, "--ffn-unit-width", 8, "--cooldown-updates", 6, "--task", "translation_dsp"]
    pair, records = train_on_two_processes(tiny_data, tmp_path, *budget, "--cpu", "--max-update", 8, "--update-freq", 2)
    assert_agreement(records, 0, 8)
    assert len({round(sum(gates)) for _, gates, _ in records[0]}) > 1, "the split moves"
    assert records[0][-1][1] == pair["model"]["heads.kept"].tolist()


def test_the_gradient_of_the_importance_is_averaged_in_float32(tmp_path: Path):
    processes = []
    for rank in range(2):
        arguments = (rank, tmp_path / "store", tmp_path / f"out{rank}")
        processes.append(support.processes.Process(target=ranks.reduce, args=arguments))
        processes[-1].start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    first, second = (json.loads((tmp_path / f"out{rank}").read_text()) for rank in range(2))
    assert first == second
    assert first[0] == [1.5, -3]
    assert first[1] == pytest.approx([1.5e5, 4.5e-9], rel=1e-6)
    assert first[2:] == [[0.75, 0, 6], [0]]


# --- from checkpoints ---------------------------------------------------------------------------------------------


def assert_agreement(records: list[list[Any]], first: int, last: int) -> None:
    assert [update for update, *_ in records[0]] == list(range(first, last))
    assert records[0] == records[1], "gates and importance, bit for bit"


@pytest.mark.slow
def test_a_training_resumes(tiny_data: Path, tmp_path: Path):
    """Its checkpoint holds numpy arrays, an average of the model, and a configuration."""
    flags = ["--cpu", "--heads-to-keep", 6, "--cooldown-updates", 12, "--max-tokens", 200, "--eval-bleu", "--store-ema"]
    straight, _ = train_on_two_processes(tiny_data, tmp_path / "straight", *flags, "--max-update", 16)
    halves = tmp_path / "halves"
    train_on_two_processes(tiny_data, halves, *flags, "--max-update", 7)
    resumed, records = train_on_two_processes(tiny_data, halves, *flags, "--max-update", 16)
    assert "Loaded checkpoint" in (halves / "log0").read_text()
    assert_agreement(records, 7, 16)
    for name, value in straight["model"].items():
        assert torch.equal(value, resumed["model"][name]), name


@pytest.mark.slow
def test_other_words_are_refused(tiny_data: Path, tmp_path: Path):
    """A dictionary with as many words, but others: the state dict arrives with what it says of its own."""
    flags = ["--cpu", "--heads-to-keep", 6, "--cooldown-updates", 2, "--max-update", 3]
    inprocess.train(tiny_data, tmp_path / "start", *flags)
    other = tmp_path / "other"
    shutil.copytree(tiny_data, other)
    first, second, *words = (other / "dict.yy.txt").read_text().splitlines(keepends=True)
    (other / "dict.yy.txt").write_text("".join([second, first, *words]))
    start = ["--finetune-from-model", tmp_path / "start/checkpoint_last.pt"]
    for rank, process in enumerate(start_two_processes(other, tmp_path / "out", *flags, *start)):
        process.join(240)
        assert process.exitcode == 1
        assert "was trained with another target dictionary" in (tmp_path / f"out/log{rank}").read_text()


def test_pipelined_pruning_and_recovery(stock: Path, tiny_data: Path, tmp_path: Path):
    flags = ["--cpu", "--max-tokens", 200, "--max-update", 8, "--cooldown-updates", 6]
    frozen = ["--heads-to-keep", 5, "--freeze-weights", "--finetune-from-model", stock]
    pipelined, records = train_on_two_processes(tiny_data, tmp_path / "pipelined", *flags, *frozen)
    assert_agreement(records, 0, 8)
    start = torch.load(stock, weights_only=True)["model"]
    assert all(torch.equal(pipelined["model"][name], value) for name, value in start.items())
    checkpoint, heads = tmp_path / "pipelined/checkpoints/checkpoint_last.pt", tmp_path / "heads.json"
    assert main(["heads", str(checkpoint), "--format", "json", "--output", str(heads)]) == 0
    fixed = ["--head-selection", "fixed", "--kept-heads", heads, "--finetune-from-model", checkpoint]
    _, records = train_on_two_processes(tiny_data, tmp_path / "recovered", *flags, *fixed)
    assert_agreement(records, 0, 8)
    assert sum(records[0][-1][1]) == json.loads(heads.read_text())["kept"] == 5


@pytest.mark.slow
def test_a_transposed_tensor_arrives_as_it_was(stock: Path, tiny_data: Path, tmp_path: Path):
    state = torch.load(stock, weights_only=True)
    for name, value in state["model"].items():
        state["model"][name] = value.t().contiguous().t() if value.dim() == 2 else value
    torch.save(state, tmp_path / "transposed.pt")
    flags = ["--cpu", "--heads-to-keep", 5, "--freeze-weights", "--max-update", 4]
    one, _ = train_on_two_processes(tiny_data, tmp_path / "one", *flags, "--finetune-from-model", stock)
    start = ["--finetune-from-model", tmp_path / "transposed.pt"]
    other, _ = train_on_two_processes(tiny_data, tmp_path / "other", *flags, *start)
    assert torch.equal(inprocess.importance(one["model"]), inprocess.importance(other["model"]))


@pytest.mark.parametrize("fault", ["unseen", "truncated"])
def test_a_checkpoint_that_cannot_be_used_ends_both(fault: str, stock: Path, tiny_data: Path, tmp_path: Path):
    """Neither hangs: the second is on a machine with another file system, or the file is broken."""
    rank1 = ["--restore-file", tmp_path / "elsewhere.pt"] if fault == "unseen" else []
    (tmp_path / "start.pt").write_bytes(stock.read_bytes()[: None if fault == "unseen" else 1000])
    flags = ["--cpu", "--heads-to-keep", 5, "--restore-file", tmp_path / "start.pt"]
    processes = start_two_processes(tiny_data, tmp_path, *flags, rank1=rank1)
    for process in processes:
        process.join(120)
        assert process.exitcode == 1
    sentence = "error: Only 1 of 2 processes see the checkpoint" if fault == "unseen" else "it is truncated"
    assert sentence in (tmp_path / "log0").read_text()
    assert not (tmp_path / "checkpoints/checkpoint_last.pt").exists()
