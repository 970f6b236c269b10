"""A training that is called again goes on counting, and one that is at its end trains no more."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inprocess
import pytest
import support
import torch
from fairseq import checkpoint_utils
from fairseq_cli import train as command
from quick_python import quick_python

pytestmark = pytest.mark.slow

# The learning rate is so small that no validation after the first is better.
STEADY = ["--lr", 1e-12, "--lr-scheduler", "fixed", "--max-update", 0, "--patience", 2, "--cpu"]


@pytest.fixture(params=["fairseq-train", "in this process"])
def train(request, tiny_data: Path, train_tiny) -> Callable[..., str]:
    """``train(FOLDER, *flags)`` trains the tiny model; it gives what was printed, if it was printed."""

    def run(folder: Path, *flags: object) -> str:
        if request.param == "fairseq-train":
            return train_tiny(folder, *flags).stdout
        inprocess.train(tiny_data, folder, *flags, arch="transformer")
        return ""

    return run


def epoch(folder: Path) -> int:
    """The last epoch that was trained to its end."""
    iterator = inprocess.checkpoint(folder)["extra_state"]["train_iterator"]
    assert iterator["iterations_in_epoch"] == 0
    return iterator["epoch"] - 1


def test_patience_counts_on(train: Callable[..., str], tmp_path: Path):
    train(tmp_path, *STEADY, "--max-epoch", 2)
    assert inprocess.checkpoint(tmp_path)["extra_state"]["early_stopping"]["num_runs"] == 1
    train(tmp_path, *STEADY)
    assert epoch(tmp_path) == 3, "as straight through"
    before = (tmp_path / "checkpoint_last.pt").read_bytes()
    said = train(tmp_path, *STEADY)
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == before
    assert not said or "this training is at its end already, by --patience 2: nothing is trained" in said
    train(tmp_path, *STEADY, "--patience", 3)
    assert epoch(tmp_path) == 4


def test_it_counts_on_when_python_runs_the_module(tiny_data: Path, tmp_path: Path):
    inprocess.train(tiny_data, tmp_path, *STEADY, "--max-epoch", 2)
    args = support.tiny_train_args(tiny_data, tmp_path, *STEADY, arch="transformer_dsp")
    support.run_command([quick_python(), "-m", "fairseq_cli.train", *args])
    assert epoch(tmp_path) == 3


def test_a_training_in_the_same_process_starts_anew(tiny_data: Path, tmp_path: Path):
    for name in ("first", "second"):
        inprocess.train(tiny_data, tmp_path / name, *STEADY)
        assert epoch(tmp_path / name) == 3
    better = ["--cpu", "--max-update", 10, "--lr", 0.01]
    first = inprocess.train(tiny_data, tmp_path / "better", *better)["extra_state"]["best"]
    # its scores are worse than those of the training before
    second = inprocess.train(tiny_data, tmp_path / "worse", *STEADY)["extra_state"]["best"]
    assert second > first
    assert (tmp_path / "worse/checkpoint_best.pt").exists()


def test_fine_tuning_counts_from_0(tiny_data: Path, tmp_path: Path):
    inprocess.train(tiny_data, tmp_path / "first", *STEADY)
    start = ["--finetune-from-model", tmp_path / "first/checkpoint_last.pt"]
    inprocess.train(tiny_data, tmp_path / "second", *STEADY, *start)
    assert epoch(tmp_path / "second") == 3
    first = torch.load(tmp_path / "first/checkpoint_last.pt", weights_only=True)
    first["extra_state"]["previous_training_time"] = 36_000
    torch.save(first, tmp_path / "first/checkpoint_last.pt")
    short = ["--cpu", "--max-update", 2, "--stop-time-hours", 5]
    third = inprocess.train(tiny_data, tmp_path / "third", *short, *start)
    assert updates(third) == 2
    assert third["extra_state"]["previous_training_time"] < 36_000


@pytest.mark.parametrize("flags", [["--max-update", 7], ["--stop-time-hours", 1e-9, "--max-update", 30]])
def test_a_training_at_its_end_trains_no_more(flags: list[object], tiny_data: Path, tmp_path: Path):
    inprocess.train(tiny_data, tmp_path, "--cpu", *flags)
    before = (tmp_path / "checkpoint_last.pt").read_bytes()
    inprocess.train(tiny_data, tmp_path, "--cpu", *flags)
    assert (tmp_path / "checkpoint_last.pt").read_bytes() == before
    on = ["--max-update", 9, "--stop-time-hours", 0]
    assert updates(inprocess.train(tiny_data, tmp_path, "--cpu", *on)) == 9


def updates(state: dict[str, Any]) -> int:
    return state["optimizer_history"][-1]["num_updates"]


def test_the_patience_of_the_learning_rate_counts_on(tiny_data: Path, tmp_path: Path):
    flags = [*STEADY, "--lr-scheduler", "reduce_lr_on_plateau", "--lr-patience", 2, "--lr-shrink", 0.1, "--patience", 0]
    flags += ["--warmup-updates", 0, "--lr", 1e-6, "--lr-threshold", 0.01]
    rates = []
    for end in (2, 3, 4, 5):
        state = inprocess.train(tiny_data, tmp_path, *flags, "--max-epoch", end)
        rates.append(state["last_optimizer_state"]["param_groups"][0]["lr"])
    straight = inprocess.train(tiny_data, tmp_path / "straight", *flags, "--max-epoch", 5)
    assert rates == pytest.approx([1e-6, 1e-6, 1e-6, 1e-7], abs=0)
    assert rates[-1] == straight["last_optimizer_state"]["param_groups"][0]["lr"]


def test_half_precision_raises_its_scale_at_the_same_update(tiny_data: Path, tmp_path: Path):
    flags = ["--cpu", "--memory-efficient-fp16", "--fp16-scale-window", 6, "--fp16-init-scale", 4]
    straight = inprocess.train(tiny_data, tmp_path / "straight", *flags, "--max-update", 8)
    for end in (4, 8):
        resumed = inprocess.train(tiny_data, tmp_path / "resumed", *flags, "--max-update", end)
    assert straight["last_optimizer_state"]["loss_scale"] == resumed["last_optimizer_state"]["loss_scale"] == 8


def test_the_average_is_updated_at_the_same_updates(tiny_data: Path, tmp_path: Path):
    flags = ["--cpu", "--store-ema", "--ema-update-freq", 3, "--ema-decay", 0.5, "--lr", 0.01]
    straight = inprocess.train(tiny_data, tmp_path / "straight", *flags, "--max-update", 7)
    for end in (4, 7):  # averaged after 3 and 6 updates
        resumed = inprocess.train(tiny_data, tmp_path / "resumed", *flags, "--max-update", end)
    torch.testing.assert_close(resumed["model"], straight["model"])
    torch.testing.assert_close(resumed["extra_state"]["ema"], straight["extra_state"]["ema"])


def test_the_average_is_as_far_as_the_model_it_follows(tiny_data: Path, tmp_path: Path):
    flags = ["--cpu", "--store-ema", "--heads-to-keep", 5, "--cooldown-updates", 3, "--heads-to-keep-updates", 2]
    straight = inprocess.train(tiny_data, tmp_path / "straight", *flags, "--max-update", 6)
    for end in (2, 6):
        resumed = inprocess.train(tiny_data, tmp_path / "resumed", *flags, "--max-update", end)
        phases = [state["heads.phase"] for state in (resumed["model"], resumed["extra_state"]["ema"])]
        assert phases[0] == phases[1]
    torch.testing.assert_close(resumed["extra_state"]["ema"], straight["extra_state"]["ema"], rtol=0, atol=0)


def test_checkpoints_without_a_count_load(tiny_data: Path, tmp_path: Path):
    state = inprocess.train(tiny_data, tmp_path, *STEADY, "--max-epoch", 2)
    del state["extra_state"]["early_stopping"]
    checkpoint_utils.torch_persistent_save(state, str(tmp_path / "checkpoint_last.pt"))
    inprocess.train(tiny_data, tmp_path, *STEADY, "--max-epoch", 4)
    assert epoch(tmp_path) == 4


def test_other_programs_have_no_count(monkeypatch: pytest.MonkeyPatch, tiny_data: Path, tmp_path: Path):
    """A program of somebody's own, with fairseq's trainer but without its command."""
    monkeypatch.delitem(sys.modules, "fairseq_cli.train")
    state = inprocess.train(tiny_data, tmp_path, "--cpu", "--max-update", 3)
    assert state["extra_state"]["early_stopping"] == {}
    assert command.main is inprocess.main
