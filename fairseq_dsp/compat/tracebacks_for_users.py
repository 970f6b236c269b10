"""fairseq's commands show a traceback of thirty lines for a mistake that one sentence explains, and for Ctrl-C.

Broken: the commands of ve-fairseq 0.12.3 catch nothing, so the sentence of a `UserError`, or the name of a folder that
is not there, drowns in the traceback; an error on loading a model is even replaced by "please ensure that the
architectures match".

Fix: where one of fairseq's commands runs, a `UserError` (also one that fairseq replaced by its own, or that was raised
in a process that it started for a GPU) is printed alone, and so are a file that cannot be used, a text that is not
there, what fairseq says of an option, and what to do after Ctrl-C; the exit status stays.
``LOGLEVEL=DEBUG`` brings the traceback back. Can go when fairseq prints errors as one line.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any

from fairseq_dsp.errors import STOPPED, UserError, about_a_file, find_in_chain


def apply() -> None:
    """Install the hook for uncaught errors, unless this process is somebody's own program."""
    if _is_fairseq_command() and os.environ.get("LOGLEVEL", "").upper() != "DEBUG":
        sys.excepthook = functools.partial(_report, sys.excepthook)
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # or hydra prints its own traceback, and the hook sees no error


def _report(
    otherwise: Callable[..., Any], kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if found := find_in_chain(error, UserError) or _of_file(error) or _of_option(error) or _of_process(error):
        print(f"error: {found}", file=sys.stderr)
    elif issubclass(kind, KeyboardInterrupt):
        print(f"\n{STOPPED}", file=sys.stderr)
    else:
        otherwise(kind, error, traceback)


def _of_file(error: BaseException) -> str | None:
    """What to tell of a file or folder that the command line names, or that belongs to what it names."""
    if not isinstance(error, OSError):
        return None
    if isinstance(error, FileNotFoundError) and error.errno is None:  # fairseq's own, of a text that is not there
        return f"{error}: correct its name, or that of the folder"
    return about_a_file(error, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST)


def _of_option(error: BaseException) -> str | None:
    """What to tell of an option that the text of an error names, or that hydra would override, as it has no value."""
    text = str(error)
    if found := re.fullmatch(r"Error merging override (\w+)\.(\w+)=null", text):
        part, option = (name.replace("_", "-") for name in found.groups())
        return f"--{option} is not given, but what --{part} chooses needs it: give it"
    named = isinstance(error, (AssertionError, ValueError)) and re.search(r"(?:^|\s)--[a-z]", text)
    return text if named and "\n" not in text else None


def _of_process(error: BaseException) -> str | None:
    """What a process that torch started said to the user, of which the error has the traceback as its text."""
    if type(error).__name__ != "ProcessRaisedException":
        return None
    kinds: tuple[type[UserError], ...] = (UserError, *UserError.__subclasses__())
    names = "|".join(re.escape(f"{kind.__module__}.{kind.__qualname__}") for kind in kinds)
    names += "|FileNotFoundError|NotADirectoryError|IsADirectoryError|FileExistsError|PermissionError"
    said = re.findall(rf"^(?:{names}): (.+)$", str(error), re.MULTILINE)
    return said[-1] if said else None


def _is_fairseq_command() -> bool:
    """Whether ``fairseq-train`` and the like, or ``python -m fairseq_cli.train``, is the program of this process.

    So is ``fairseq-dsp``, whose own errors are printed by itself, but not those of importing this package.
    """
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        return spec.name.startswith("fairseq_cli.")
    if sys.argv[0] == "-m":  # python -m imports the package of its module first
        return "fairseq_dsp.cli" in sys.orig_argv
    return os.path.basename(sys.argv[0]).startswith("fairseq-")
