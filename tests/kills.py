"""Training that is killed again and again, and what it leaves."""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import faults
import support
import torch

from fairseq_dsp.compat import apply_all

apply_all()  # the checkpoints are read here too


def kill_in_write(train_args: Sequence[object], what: str, folder: Path, *, timeout: float = 120) -> str:
    """Train, and kill the training when it has written half of a file.

    :param what: the name of that file: ``checkpoint_last.pt`` for the copy that resume reads, say; the name that it is
        written under may go on, as in ``checkpoint_last.pt.tmp``.
    :param folder: where a marker file and the log may be put.
    :return: the name under which the half-written file lies.
    """
    marker, log = folder / "half-written", folder / "killed.log"
    marker.unlink(missing_ok=True)
    slowly = functools.partial(faults.slow_down_writing, what, marker)
    process = support.start_fairseq("train", train_args, log, before=slowly)
    _wait(marker.exists, process, log, timeout)
    process.kill()
    process.join()
    return marker.read_text()


def kill_at(train_args: Sequence[object], update: int, seconds: float, folder: Path, *, timeout: float = 300) -> None:
    """Train, and kill the training *seconds* after it has logged an update, *update* or a later one.

    :param train_args: must have fairseq log each update.
    :param folder: where the log may be put.
    """
    log = folder / "killed.log"
    process = support.start_fairseq("train", train_args, log)

    def arrived() -> bool:
        logged = re.findall(r"num_updates=(\d+)", log.read_text()) if log.exists() else ()
        return any(int(number) >= update for number in logged)

    _wait(arrived, process, log, timeout)
    process.join(seconds)
    process.kill()
    process.join()


def whole_checkpoints(folder: Path) -> list[str]:
    """The names of the checkpoints in *folder*, each of which has been read to its end.

    :raises Exception: torch's, if one is truncated.
    """
    paths = sorted(folder.glob("*.pt"))
    for path in paths:
        torch.load(path, weights_only=True)
    return [path.name for path in paths]


def assert_same_training(one: Path, other: Path) -> None:
    """Both checkpoints hold the same model, optimiser state, number of updates and place in the data, bit for bit."""
    a, b = (torch.load(path, weights_only=True) for path in (one, other))
    assert a["optimizer_history"][-1]["num_updates"] == b["optimizer_history"][-1]["num_updates"]
    assert a["extra_state"]["train_iterator"] == b["extra_state"]["train_iterator"]
    _assert_equal(a["model"], b["model"], "model")
    _assert_equal(a["last_optimizer_state"], b["last_optimizer_state"], "last_optimizer_state")


def _assert_equal(a: object, b: object, name: str) -> None:
    if isinstance(a, dict) and isinstance(b, dict):
        assert a.keys() == b.keys(), f"{name}: other keys"
        for key in a:
            _assert_equal(a[key], b[key], f"{name}.{key}")
    elif isinstance(a, list) and isinstance(b, list):
        assert len(a) == len(b), f"{name}: other length"
        for index, (left, right) in enumerate(zip(a, b, strict=True)):
            _assert_equal(left, right, f"{name}[{index}]")
    elif isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        assert torch.equal(a, b), f"{name} differs"
    else:
        assert a == b, f"{name} differs: {a} and {b}"


def _wait(ready: Callable[[], bool], process: support.ForkServerProcess, log: Path, timeout: float) -> None:
    end = time.monotonic() + timeout
    while not ready():
        if process.exitcode is not None or time.monotonic() > end:
            process.kill()
            raise AssertionError(f"the training did not come to where it is to be killed\n{log.read_text()}")
        time.sleep(0.01)
