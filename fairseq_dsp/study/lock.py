"""One process at a time: a lock that goes with its holder, on one machine and where several share a file system."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from ..files import told

BEAT = 10.0  # seconds between two signs of life of a holder
LOST = 45.0  # seconds without one after which a holder on another machine is gone

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # some shared file systems have none


class LockedError(Exception):
    """Another process holds the lock; the text names it."""


@contextlib.contextmanager
def locked(path: Path, say: Callable[[str], None] = lambda text: None) -> Iterator[int]:
    """Hold the lock *path*, a file that stays; it is free again however its holder ends, killed or not.

    The system's lock of the file decides between the processes of one machine and, on most shared file systems, of
    several. Some keep it to each machine, or have none. Therefore a holder also writes its name into the file and
    touches the file every :data:`BEAT` seconds: one on another machine that stops doing so is gone.

    :param say: called when that takes a while to find out.
    :return: the descriptor of the file; a child that is given it keeps the lock, even if this process is killed.
    :raises LockedError: if another process holds it.
    :raises UserError: if the file cannot be made.
    """
    with told(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        system = _lock(file, path)
        there = _content(path)
        if there and not (system and _host(there) == os.uname().nodename) and _lives(path, there, say):
            raise LockedError(there)
        ours = _name()
        with contextlib.suppress(OSError):  # on a full disk the lock holds, and the first result that is lost says so
            os.ftruncate(file, 0)
            os.pwrite(file, ours.encode(), 0)
        if not system:
            time.sleep(BEAT / 2)
            if (there := _content(path)) != ours:  # another came at the same moment, and was later
                raise LockedError(there)
        with _beating(file):
            yield file
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
    finally:
        os.close(file)


def _lock(file: int, path: Path) -> bool:
    """Take the system's lock; False if the file system has none."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise LockedError(_content(path) or "a process that is not named") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _name() -> str:
    job = os.environ.get("SLURM_JOB_ID")
    return f"process {os.getpid()} on {os.uname().nodename}" + (f", SLURM job {job}" if job else "")


def _host(name: str) -> str:
    return name.partition(" on ")[2].partition(",")[0]


def _content(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace").strip()


def _lives(path: Path, name: str, say: Callable[[str], None]) -> bool:
    """Whether the holder of that name gives a sign of life."""
    say(f"{path} belongs to {name}: waiting up to {LOST:.0f} s to see whether it is still running")
    first, end = _touched(path), time.monotonic() + LOST
    while time.monotonic() < end:
        time.sleep(BEAT / 5)
        if _touched(path) != first:
            return True
    return False


def _touched(path: Path) -> int:
    with path.open("rb") as file:  # opening it makes a network file system ask its server
        return os.fstat(file.fileno()).st_mtime_ns


@contextlib.contextmanager
def _beating(file: int) -> Iterator[None]:
    over = threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(file)

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
