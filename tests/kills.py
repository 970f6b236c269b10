"""Training that is killed again and again, and what it leaves."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import support
import torch

SLOW_WRITES = Path(__file__).with_name("slow_writes.py")


def kill_in_write(train_args: Sequence[str], what: str, folder: Path, *, timeout: float = 120) -> str:
    """Train, and kill the training when it has written half of a file.

    Args:
        what: the end of the name of that file: ``checkpoint_last.pt`` for the copy that resume reads, say; the name it
            is written under may go on, as in ``checkpoint_last.pt.tmp``.
        folder: where a marker file may be put.

    Returns:
        The name under which the half-written file lies.
    """
    marker = folder / "half-written"
    marker.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, str(SLOW_WRITES), str(marker), what, *train_args],
        cwd=support.REPOSITORY,
        env=support.environment(),
        stdout=(folder / "killed.log").open("w"),
        stderr=subprocess.STDOUT,
    )
    _wait_for(marker, process, timeout)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return marker.read_text()


def kill_after(train_args: Sequence[str], seconds: float, folder: Path, *, timeout: float = 120) -> bool:
    """Train, and kill the training *seconds* after its first update has begun; whether it was still running then."""
    log = folder / "killed.log"
    with log.open("w") as out:
        process = subprocess.Popen(
            support.fairseq_command("train", *train_args),
            cwd=support.REPOSITORY,
            env={**support.environment(), "PYTHONUNBUFFERED": "1"},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    end = time.monotonic() + timeout
    while process.poll() is None and "Start iterating over samples" not in log.read_text():
        if time.monotonic() > end:
            process.kill()
            raise AssertionError(f"training has not begun after {timeout} s:\n{log.read_text()}")
        time.sleep(0.02)
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    status = process.wait()
    assert status in (0, -signal.SIGKILL), log.read_text()
    return status != 0


def assert_same_training(one: Path, other: Path) -> None:
    """Both checkpoints hold the same model, optimiser state and number of updates, bit for bit."""
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    assert a["optimizer_history"][-1]["num_updates"] == b["optimizer_history"][-1]["num_updates"]
    assert a["model"].keys() == b["model"].keys()
    for name, tensor in a["model"].items():
        assert torch.equal(tensor, b["model"][name]), f"{name} differs"
    _assert_equal(a["last_optimizer_state"], b["last_optimizer_state"], "last_optimizer_state")


def whole_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in *folder*, each of which has been read to its end.

    Raises:
        Exception: torch's, if one is truncated.
    """
    paths = sorted(folder.glob("*.pt"))
    for path in paths:
        torch.load(path, weights_only=True)
    return paths


def random_delays(count: int, longest: float, seed: int) -> list[float]:
    """*count* moments to kill at, in seconds after the first update, always the same for a *seed*."""
    draw = random.Random(seed)
    return [draw.uniform(0, longest) for _ in range(count)]


def _wait_for(marker: Path, process: subprocess.Popen[bytes], timeout: float) -> None:
    end = time.monotonic() + timeout
    while not marker.exists():
        assert process.poll() is None, f"training ended ({process.returncode}) before it wrote that file"
        if time.monotonic() > end:
            process.kill()
            raise AssertionError(f"that file was not written in {timeout} s")
        time.sleep(0.02)


def _assert_equal(a: object, b: object, name: str) -> None:
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), name
        for key in a:
            _assert_equal(a[key], b[key], f"{name}.{key}")
    elif isinstance(a, list) and isinstance(b, list):
        assert len(a) == len(b), name
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            _assert_equal(left, right, f"{name}[{index}]")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        assert torch.equal(a, b), f"{name} differs"
    else:
        assert a == b, name
