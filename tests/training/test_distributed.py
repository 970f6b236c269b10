"""Two processes against one on the doubled batch against accumulated batches."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import inprocess
import pytest
import ranks
import support
import torch

# All sentences at every update, in one batch or in two: the 20 pairs of the validation set.
SAME_DATA = ["--train-subset", "valid", "--valid-subset", "test", "--required-batch-size-multiple", 1]
SAME_DATA += ["--max-update", 20, "--dropout", 0, "--cpu"]
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


def assert_same_model(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same to 1e-5, but for key biases: their gradient is 0, and Adam amplifies what rounding makes of it."""
    for name, value in one["model"].items():
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(
                value, other["model"][name], atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )


def train_on_two_processes(data: Path, folder: Path, *flags: object) -> tuple[dict[str, Any], list[list[Any]]]:
    """Train with two gloo processes; return the checkpoint and what each recorded."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    args = support.tiny_train_args(data, folder / "checkpoints", *flags, arch="transformer_dsp")
    args += ["--distributed-world-size", "2", "--distributed-init-method", f"tcp://localhost:{port}"]
    args += ["--distributed-no-spawn", "--distributed-backend", "gloo", "--ddp-backend", "legacy_ddp"]
    processes = []
    for rank in range(2):
        own = [*args, "--distributed-rank", rank]
        record = {ranks.RECORD: str(folder / f"record{rank}")}
        log = folder / f"log{rank}"
        processes.append(support.start_fairseq("train", own, log, before=ranks.record, **record))
    for rank, process in enumerate(processes):
        process.join(240)
        ended = process.exitcode
        for other in processes if ended != 0 else ():
            other.kill()
        assert ended == 0, (folder / f"log{rank}").read_text()
    records = [[json.loads(line) for line in (folder / f"record{rank}").open()] for rank in range(2)]
    return inprocess.checkpoint(folder / "checkpoints"), records


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
