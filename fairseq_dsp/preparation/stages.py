"""Stages that are either finished or not there.

A stage is a folder. It is built under a temporary name and renamed when it is whole, with a stamp inside that says
which settings and inputs it was made from. So a folder with the right stamp is finished, whatever was killed and
whenever, and a folder without a stamp was not made here and is never touched.
"""

from __future__ import annotations

import errno
import fcntl
import itertools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..corpus import SUMMARY
from ..errors import UserError
from ..files import TEMPORARY, read_json, write_json
from .workers import held

STAMP = ".stamp.json"
PARTIAL = ".partial-"
_NUMBERS = itertools.count()
_OURS = re.compile(rf"\.[a-z][a-z0-9-]*{PARTIAL}\d+-\d+|\.{re.escape(SUMMARY)}\..+{re.escape(TEMPORARY)}")
"""The hidden names of what is being made."""
FULL_DISK = {errno.ENOSPC, errno.EFBIG, errno.EDQUOT}


def say(message: str) -> None:
    """Print one line of progress."""
    print(f"| {message}", flush=True)


def progress(**options: Any) -> Any:
    """A progress bar: tqdm's, imported when it is needed, so that ``--help`` needs no package."""
    from tqdm import tqdm

    return tqdm(**{"delay": 1, **options})


class Workspace:
    """The output folder of one preparation, its lock and its stages.

    :param out: the folder; made when it is not there, removed again when nothing came to be in it.
    :raises UserError: if it is not a folder, or another process is preparing data in it.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.reports: dict[str, Any] = {}
        """What the stages that were made or found have to say about their text, by stage."""

    def __enter__(self) -> Workspace:
        # The highest folder that this run makes: the one to clear away when it ends with nothing.
        missing = [folder for folder in (self.out, *self.out.parents) if not folder.exists()]
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.out, os.O_RDONLY | os.O_DIRECTORY)
        except (FileExistsError, NotADirectoryError) as error:
            what = "a link that leads nowhere" if self.out.is_symlink() and not self.out.exists() else "a file"
            raise UserError(
                f"{self.out} is {what}, but the output is a folder: choose another output folder"
            ) from error
        self._made = missing
        held.add(self._lock)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            held.discard(self._lock)
            os.close(self._lock)
            raise UserError(
                f"another process is preparing data in {self.out}: wait for it or choose another folder"
            ) from error
        self._remove_partial()
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_partial()
        for folder in self._made:
            with suppress(OSError):  # not empty: something was made
                folder.rmdir()
        held.discard(self._lock)
        os.close(self._lock)

    def _remove_partial(self) -> None:
        for leftover in [path for path in self.out.iterdir() if _OURS.fullmatch(path.name)]:
            if leftover.is_dir() and not leftover.is_symlink():
                shutil.rmtree(leftover, ignore_errors=True)
            else:
                leftover.unlink(missing_ok=True)

    def finished(self, name: str, key: str) -> bool:
        """Whether stage ``name`` was made with ``key`` and each of its files still has its size."""
        folder = self.out / name
        stamp = read_json(folder / STAMP)
        if not stamp or stamp["key"] != key:
            return False
        return all(
            (folder / file).is_file() and (folder / file).stat().st_size == size
            for file, size in stamp["files"].items()
        )

    def _is_stage(self, name: str) -> bool:
        """Whether a folder was made by a preparation, under this name: a copy of one is somebody's own."""
        stamp = read_json(self.out / name / STAMP)
        return bool(stamp) and stamp.get("stage", name) == name

    def check(self, names: Iterable[str]) -> None:
        """Check that all stages can be made, before the first is.

        :raises UserError: if a folder of such a name is there that no stage made.
        """
        for name in names:
            folder = self.out / name
            if folder.exists() and not self._is_stage(name) and any(folder.iterdir()):
                raise UserError(
                    f"{folder} was not made by fairseq-dsp prepare, so it is not touched: choose another output folder"
                )

    def _hidden(self, name: str) -> Path:
        """A hidden name beside the stage ``name`` that nothing has had before.

        With the process in it, a child that outlives a killed run never writes into the next run's folder; with a
        number, what is loaded once a file is not taken for that of an earlier preparation in this process.
        """
        return self.out / f".{name}{PARTIAL}{os.getpid()}-{next(_NUMBERS)}"

    def _remove(self, name: str) -> None:
        """Remove a stage: first its name, for a part of a stage would not be known as one."""
        hidden = self._hidden(name)
        (self.out / name).rename(hidden)
        if hidden.is_symlink():  # what it leads to may have other users
            hidden.unlink()
        else:
            shutil.rmtree(hidden)

    def finish(self, summary: dict[str, Any]) -> None:
        """Remove the stages of an earlier preparation that this one does not have, and write the summary."""
        for folder in self.out.iterdir():
            hidden = folder.name.startswith(".")
            if not hidden and folder.name not in self.reports and self._is_stage(folder.name):
                self._remove(folder.name)
        write_json(self.out / SUMMARY, summary)

    def stage(self, name: str, key: str, make: Callable[[Path], Any]) -> Path:
        """Make the stage unless it is finished; the folder appears whole or not at all.

        :param name: of the folder.
        :param key: of everything the result depends on.
        :param make: fills the empty folder that it is given; what it returns, JSON-like, is kept in ``reports``.
        :return: the folder.

        :raises UserError: if a folder of that name is there that no stage made.
        """
        folder = self.out / name
        if self.finished(name, key):
            say(f"{folder}: already there")
            self.reports[name] = read_json(folder / STAMP).get("report")
            return folder
        self.check([name])
        partial = self._hidden(name)
        partial.mkdir()
        self.reports[name] = make(partial)
        files = {str(path.relative_to(partial)): path.stat().st_size for path in partial.rglob("*") if path.is_file()}
        write_json(partial / STAMP, {"stage": name, "key": key, "files": files, "report": self.reports[name]})
        (self.out / SUMMARY).unlink(missing_ok=True)  # from here on it is not finished any more
        if folder.exists():
            self._remove(name)
        partial.rename(folder)
        return folder


@contextmanager
def told_in_one_sentence(out: Path) -> Iterator[None]:
    """Turn whatever else the user can correct into a `UserError`."""
    try:
        yield
    except BrokenPipeError:  # of whoever read what is printed
        raise
    except OSError as error:
        where = error.filename or out
        if error.errno in FULL_DISK:
            raise UserError(
                f"the disk is full, or a size limit is reached ({error.strerror}, at {where}): free some space or "
                "choose another output folder, then run the same command again to go on from the last finished stage"
            ) from error
        raise UserError(
            f"{where} cannot be used ({error.strerror or error}): fix that, then run the same command again"
        ) from error
