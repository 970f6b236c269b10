"""A kill or a full disk never costs a checkpoint that was whole, and resume goes on as if nothing had happened."""

from pathlib import Path

import faults
import kills
import pytest
import support

from fairseq_dsp.compat import apply_all, atomic_checkpoints
from fairseq_dsp.errors import UserError

apply_all()

SAVES = ("--save-interval-updates", 4, "--keep-interval-updates", 2, "--log-interval", 1)


@pytest.fixture(scope="module")
def straight(tmp_path_factory, train_tiny) -> Path:
    """The last checkpoint of a training that nobody interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    train_tiny(folder, *SAVES)
    return folder / "checkpoint_last.pt"


def test_killed_training_resumes_to_the_same_bits(straight, tiny_data, train_tiny, tmp_path):
    """Killed before there is any checkpoint, in the copy that resume reads, in a save, and at some other moment."""
    folder = tmp_path / "run"
    args = support.tiny_train_args(tiny_data, folder, *SAVES)

    kills.kill_in_write(args, "checkpoint_1_4.pt", tmp_path)
    assert kills.whole_checkpoints(folder) == []  # resume starts anew

    half_written = kills.kill_in_write(args, "checkpoint_last.pt", tmp_path)
    assert half_written == "checkpoint_last.pt.tmp"
    assert kills.whole_checkpoints(folder) == ["checkpoint_1_4.pt", "checkpoint_best.pt"]

    kills.kill_in_write(args, "checkpoint_3_12.pt", tmp_path)
    assert "checkpoint_last.pt" in kills.whole_checkpoints(folder)
    assert (folder / "checkpoint_3_12.pt.tmp").exists()

    kills.kill_at(args, 14, 0.02, tmp_path)
    kills.whole_checkpoints(folder)

    train_tiny(folder, *SAVES)
    assert not list(folder.glob("*.tmp"))
    kills.assert_same_training(folder / "checkpoint_last.pt", straight)


def test_stock_fairseq_truncates_in_the_same_place(tiny_data, tmp_path):
    """The control: without the plugin, the kill of the test above does leave a truncated ``checkpoint_last.pt``."""
    args = support.tiny_train_args(tiny_data, tmp_path / "run", *SAVES)
    where = args.index("--user-dir")
    assert kills.kill_in_write(args[:where] + args[where + 2 :], "checkpoint_last.pt", tmp_path) == "checkpoint_last.pt"
    with pytest.raises(RuntimeError, match="central directory"):
        kills.whole_checkpoints(tmp_path / "run")


def test_a_full_disk_is_loud_and_costs_no_checkpoint(train_tiny, tmp_path):
    train_tiny(tmp_path, *SAVES, "--max-update", 10)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    done = train_tiny(tmp_path, *SAVES, check=False, before=faults.limit_file_size)
    assert done.returncode == 1
    sentence = done.stdout.rstrip().splitlines()[-1]
    assert "could not be written (File too large), so training stops" in sentence
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    train_tiny(tmp_path, *SAVES)  # and with room again, the same command continues


def test_a_passing_fault_is_tried_again_from_the_start(tmp_path, monkeypatch):
    from fairseq import checkpoint_utils

    monkeypatch.setattr(atomic_checkpoints, "PAUSE", 0)
    stock_save, failures = atomic_checkpoints.torch.save, [5, 5]

    def failing_save(obj, file):
        if failures:
            file.write(b"rubbish")
            raise OSError(failures.pop(), "Input/output error")
        stock_save(obj, file)

    monkeypatch.setattr(atomic_checkpoints.torch, "save", failing_save)
    checkpoint_utils.torch_persistent_save({"a": 1}, str(tmp_path / "checkpoint1.pt"))
    assert atomic_checkpoints.torch.load(tmp_path / "checkpoint1.pt", weights_only=True) == {"a": 1}

    failures += [5, 5, 5]
    with pytest.raises(UserError, match=r"checkpoint1.pt could not be written \(Input/output error\)"):
        checkpoint_utils.torch_persistent_save({"a": 2}, str(tmp_path / "checkpoint1.pt"))
    assert atomic_checkpoints.torch.load(tmp_path / "checkpoint1.pt", weights_only=True) == {"a": 1}


def test_only_leftovers_of_this_rank_are_removed(tmp_path):
    names = ["checkpoint_last.pt", "checkpoint_last.pt.tmp", "checkpoint_1_4.pt.tmp", "checkpoint_last-shard1.pt.tmp"]
    names += ["checkpoint_last-shard11.pt.tmp", "notes.tmp"]
    for name in names:
        (tmp_path / name).touch()
    atomic_checkpoints.remove_leftovers(str(tmp_path), "-shard1")
    assert {path.name for path in tmp_path.iterdir()} == set(names) - {"checkpoint_last-shard1.pt.tmp"}
    atomic_checkpoints.remove_leftovers(str(tmp_path / "not there yet"), "")
