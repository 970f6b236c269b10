"""The lock of a sweep and of each run, between real processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fairseq_dsp.errors import UserError
from fairseq_dsp.study import lock
from fairseq_dsp.study.lock import LockedError, locked

fork = multiprocessing.get_context("fork")


def hold(path: Path, held: Any, child: bool) -> None:
    """Take the lock, perhaps give it to a child process, say so, and wait to be killed."""
    with locked(path) as file:
        sleeper = subprocess.Popen(["sleep", "600"], pass_fds=[file] if child else [])
        held.send(sleeper.pid)
        time.sleep(600)


@pytest.fixture(params=[False, True], ids=["alone", "with-child"])
def holder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Any, int, bool]]:
    """A process that holds the lock, the id of its child, and whether the child was given the lock."""
    here, there = fork.Pipe()
    process = fork.Process(target=hold, args=(tmp_path / "lock", there, request.param))
    process.start()
    child = here.recv()
    yield process, child, request.param
    process.kill()
    process.join()
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)


def test_a_killed_process_leaves_no_lock_but_its_child_keeps_it(holder: tuple[Any, int, bool], tmp_path: Path) -> None:
    process, child, keeps = holder
    path = tmp_path / "lock"
    with pytest.raises(LockedError, match=f"process {process.pid} on {os.uname().nodename}"), locked(path):
        pass
    process.kill()
    process.join()
    if keeps:
        with pytest.raises(LockedError, match=f"process {process.pid} on"), locked(path):
            pass
        os.kill(child, signal.SIGKILL)
        while link_to(path, child):  # it takes a moment
            time.sleep(0.02)
    with locked(path):
        assert path.read_text() == f"process {os.getpid()} on {os.uname().nodename}"
        with pytest.raises(LockedError), locked(path):  # in the same process too
            pass
    assert path.read_text() == ""


def link_to(path: Path, process: int) -> bool:
    """Whether a process has a file open."""
    with contextlib.suppress(OSError):
        return any(os.readlink(link) == str(path) for link in Path(f"/proc/{process}/fd").iterdir())
    return False


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signs of life in quick succession."""
    monkeypatch.setattr(lock, "BEAT", 0.05)
    monkeypatch.setattr(lock, "LOST", 1.0)


@pytest.fixture(params=[True, False], ids=["own-locks", "no-locks"])
def shared(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, fast: None) -> None:
    """A file system whose locks other machines do not see, or that has none."""

    def refuse(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if not request.param:
        monkeypatch.setattr(fcntl, "flock", refuse)


def test_a_holder_on_another_machine_counts_while_it_lives(shared: None, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text("process 1 on elsewhere, SLURM job 7_0")
    over = threading.Event()

    def touch() -> None:
        while not over.wait(0.05):
            os.utime(path)

    alive = threading.Thread(target=touch)
    alive.start()
    said: list[str] = []
    try:
        with pytest.raises(LockedError, match="process 1 on elsewhere, SLURM job 7_0"), locked(path, said.append):
            pass
    finally:
        over.set()
        alive.join()
    assert said == [
        f"{path} belongs to process 1 on elsewhere, SLURM job 7_0: waiting up to 1 s to see whether it is still running"
    ]
    with locked(path):  # it is dead now
        first = path.stat().st_mtime_ns
        while path.stat().st_mtime_ns == first:  # and this one gives signs of life
            time.sleep(0.02)


def test_without_locks_of_the_system_the_first_of_two_gives_way(
    monkeypatch: pytest.MonkeyPatch, fast: None, tmp_path: Path
) -> None:
    def refuse(file: int, operation: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = tmp_path / "lock"
    pause = time.sleep

    def other_comes(seconds: float) -> None:
        path.write_text("process 2 on elsewhere")
        pause(seconds)

    monkeypatch.setattr(time, "sleep", other_comes)
    with pytest.raises(LockedError, match="process 2 on elsewhere"), locked(path):
        pass


def test_the_name_has_the_job(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "12")
    with locked(tmp_path / "lock"):
        assert (tmp_path / "lock").read_text().endswith(", SLURM job 12")


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file cannot be written \("), locked(tmp_path / "file/lock"):
        pass
