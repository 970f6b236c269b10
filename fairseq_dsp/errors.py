"""The one kind of error whose text is meant for the user, not for a developer, and what such texts share."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from typing import TypeVar

Kind = TypeVar("Kind", bound=BaseException)

STOPPED = "stopped: run the same command again to do what is missing"
"""What to say after Ctrl-C."""

_FULL = {errno.ENOSPC, errno.EDQUOT}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, *_FULL}
"""What the user can mend; any other error of the operating system may be a fault of this package."""


class UserError(ValueError):
    """Something the user gave cannot be used, and the user can correct it.

    The text is one sentence: what was given, what was expected, what to do. fairseq's commands and ``fairseq-dsp``
    print it without a traceback and exit with status 1.
    """


def not_allowed(error: PermissionError) -> UserError:
    """What to raise where a file is there that may not be read, and so is neither missing nor damaged."""
    return UserError(f"{error.filename} cannot be read ({error.strerror}): have its owner allow it")


def about_a_file(error: OSError, *others: int) -> str | None:
    """What to tell of an error of the operating system that the user can mend; None if it may be the program's fault.

    :param others: the numbers of further errors that the user can mend, beside missing rights and space.
    """
    if error.filename is None:
        full = f"the disk that is written to is full ({error.strerror}): make room, and try again"
        return full if error.errno in _FULL else None
    told = f"{error.filename} cannot be used ({error.strerror}): correct that, and try again"
    return told if error.errno in {*_REFUSED, *others} else None


def find_in_chain(error: BaseException | None, kind: type[Kind]) -> Kind | None:
    """The first error of *kind* among *error*, what it was raised from, and what that was raised from …, or None."""
    while error is not None and not isinstance(error, kind):
        error = error.__cause__ or error.__context__
    return error


def closest(word: str, known: Iterable[str]) -> str:
    """Return a question that names the known word most like *word*, for the middle of an error's text, or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f", did you mean {close[0]}?" if close else ""
