"""Work spread over processes, a piece at a time, in order."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from multiprocessing import get_context
from typing import TypeVar

from ..errors import UserError

Given = TypeVar("Given")
Made = TypeVar("Made")

PR_SET_PDEATHSIG = 1  # of Linux's <sys/prctl.h>

held: set[int] = set()
"""File descriptors of locks, which a worker must not keep when this process is killed."""


def in_order(work: Callable[[Given], Made], items: Iterable[Given], workers: int) -> Iterator[Made]:
    """``map(work, items)``, spread over processes; only a few items for each are held in memory.

    :param work: can be pickled: a function of a module, or a partial of one.
    :param workers: processes; with 1, or for a single item, the work is done in this one.
    :raises UserError: if a process was killed.
    """
    rest = iter(items)
    first = list(islice(rest, 2))
    if workers == 1 or len(first) < 2:
        yield from map(work, chain(first, rest))
    else:
        yield from _spread(work, chain(first, rest), workers)


def apart(work: Callable[[Given], Made], item: Given) -> Made:
    """``work(item)`` in a process of its own, whose memory is gone afterwards.

    :raises UserError: if the process was killed.
    """
    return next(_spread(work, [item], 1))


def _spread(work: Callable[[Given], Made], items: Iterable[Given], workers: int) -> Iterator[Made]:
    # forked ones start at once, and share what is imported
    executor = ProcessPoolExecutor(workers, get_context("fork"), _begin)
    try:
        waiting: deque[Future[Made]] = deque()
        for item in items:
            waiting.append(executor.submit(work, item))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, perhaps because the memory is full: run the same command again, with fewer "
            "--workers"
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _begin() -> None:
    """In a worker: end when its parent is killed, and leave to the parent what concerns both."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all processes
    for lock in held:
        with contextlib.suppress(OSError):
            os.close(lock)
