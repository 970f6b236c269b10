"""The validation loss that a report shows, from a run's log."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fairseq_dsp.study.training_log import final_valid_loss, learning_curves, training_seconds, updates_made


def log(path: Path, losses: list[str], *flags: str) -> Path:
    lines = [f"$ python -m fairseq_cli.train data --save-dir /run/checkpoints --seed 1 {' '.join(flags)}"]
    for update, loss in enumerate(losses, 1):
        lines.append(f"x | INFO | valid | {json.dumps({'valid_loss': loss, 'valid_num_updates': str(update)})}")
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize(
    ("losses", "best", "last"),
    [
        (["4.5", "4.2", "4.3"], 4.2, 4.3),
        (["nan", "4.2", "4.3"], 4.2, 4.3),
        (["4.5", "4.2", "nan"], 4.2, None),  # the last checkpoint has no loss of an earlier one
        (["nan"], None, None),
        ([], None, None),
    ],
)
def test_it_is_of_the_checkpoint(losses: list[str], best: float | None, last: float | None, tmp_path: Path) -> None:
    path = log(tmp_path / "log.txt", losses)
    assert (final_valid_loss(path, "best"), final_valid_loss(path, "last")) == (best, last)
    assert final_valid_loss(log(path, losses, "--best-checkpoint-metric", "bleu"), "best") is None


def test_it_is_of_the_checkpoint_that_was_saved(tmp_path: Path) -> None:
    """fairseq may save at other times than it validates, or judge by another metric."""
    path = log(tmp_path / "log.txt", ["4.5", "4.2", "4.3", "4.1", "4.4"], "--save-interval", "3")
    for name, update in (("best", 2), ("best", 3), ("last", 5)):
        with path.open("a") as file:
            file.write(
                f"x | Saved checkpoint /run/checkpoints/checkpoint_{name}.pt (epoch 1 @ {update} updates, score 1)\n"
            )
    assert (final_valid_loss(path, "best"), final_valid_loss(path, "last")) == (4.3, 4.4)
    path.write_text(path.read_text().replace("/run/checkpoints/checkpoint_best", "/moved/checkpoints/checkpoint_best"))
    assert final_valid_loss(path, "best") == 4.3
    with path.open("a") as file:  # this name does not say what else was saved
        file.write("x | Saved checkpoint /run/checkpoints/checkpoint_1_5.pt (epoch 1 @ 5 updates, score 1)\n")
    assert final_valid_loss(path, "best") is None


def test_updates_are_those_of_all_trainings_of_a_run(tmp_path: Path) -> None:
    path = log(tmp_path / "log.txt", ["4.5", "4.2"])
    assert updates_made(path) == 2
    path.write_text(
        path.read_text() + log(tmp_path / "more.txt", ["4"] * 3).read_text().replace("checkpoints", "recovered")
    )
    assert updates_made(path) == 5
    assert updates_made(tmp_path / "none.txt") == 0


def test_updates_count_where_nothing_was_validated(tmp_path: Path) -> None:
    """The last line of updates is that of a multiple of the interval; the end of an epoch says how many there were."""
    path = log(tmp_path / "log.txt", [])
    end = json.dumps({"epoch": 1, "train_loss": "4.1", "train_num_updates": "35"})
    path.write_text(path.read_text() + f'x | train_inner | {{"loss": "4", "num_updates": "20"}}\nx | train | {end}\n')
    assert updates_made(path) == 35
    assert learning_curves(path) == {"loss": [(20, 4.0)]}


@pytest.mark.parametrize("stored", [100.0, torch.tensor(100.0)], ids=["one process", "several"])
def test_an_interrupted_training_took_as_long_as_its_checkpoint_says(tmp_path: Path, stored: object) -> None:
    """fairseq itself counts the last part alone; several processes store the mean of theirs as a tensor."""
    folders = [tmp_path / name for name in ("checkpoints", "recovered")]
    calls = [f"$ python -m fairseq_cli.train data --save-dir {folder} --seed 1" for folder in folders]
    path, end = tmp_path / "log.txt", "| INFO | done training in 60.5 seconds"
    path.write_text("\n".join(["", calls[0], end, "", calls[1], "x", "", calls[1], end, ""]))
    assert training_seconds(path, folders[:1]) == 60.5
    assert training_seconds(path, folders) is None
    folders[1].mkdir()
    state: dict[str, Any] = dict.fromkeys(("cfg", "args", "model", "criterion", "last_optimizer_state"))
    state["optimizer_history"] = [{"num_updates": 3, "best_loss": 1.0}]
    state["extra_state"] = {"previous_training_time": stored, "train_iterator": {"epoch": 1}}
    torch.save(state, folders[1] / "checkpoint_last.pt")
    took = training_seconds(path, folders)
    assert took == 160.5
    assert isinstance(took, float)
    path.write_text("\n".join(["", calls[1], "x", ""]))  # killed between its end and the word of it
    assert training_seconds(path, folders[1:]) == 100
    assert training_seconds(path, []) == 0
    moved = calls[1].replace(str(tmp_path), "/elsewhere")  # where it began
    path.write_text("\n".join(["", moved, "x", "", calls[1], end, ""]))
    assert training_seconds(path, folders[1:]) == 100


@pytest.mark.parametrize(
    ("start", "left"),
    [
        ("No existing checkpoint found /run/checkpoints/checkpoint_last.pt", []),
        ("Loaded checkpoint base.pt (epoch 9 @ 0 updates)", []),
        ("Loaded checkpoint /run/checkpoints/checkpoint_last.pt (epoch 1 @ 2 updates)", [(1, 4.5), (2, 4.2)]),
    ],
    ids=["anew", "anew from a model", "resumed"],
)
def test_what_an_interruption_undid_is_in_no_curve(start: str, left: list[tuple[int, float]], tmp_path: Path) -> None:
    """Updates after the last checkpoint, or of a first attempt that left none and had another recipe."""
    path, again = log(tmp_path / "log.txt", ["4.5", "4.2", "4.3", "4.1"]), tmp_path / "again.txt"
    call, *_ = log(again, []).read_text().splitlines()
    line = f"x | valid | {json.dumps({'valid_loss': '4.0', 'valid_num_updates': '3'})}"
    path.write_text(path.read_text() + "\n".join(["", call, f"x | INFO | fairseq.trainer | {start}", line, ""]))
    assert learning_curves(path)["valid_loss"] == [*left, (3, 4.0)]


def test_a_training_that_started_anew_has_no_curve_yet(tmp_path: Path) -> None:
    path, again = log(tmp_path / "log.txt", ["4.5"]), log(tmp_path / "again.txt", [])
    anew = "x | INFO | fairseq.trainer | No existing checkpoint found x\n"
    path.write_text(path.read_text() + again.read_text() + anew)
    assert learning_curves(path) == {}
    assert final_valid_loss(path, "best") is None
