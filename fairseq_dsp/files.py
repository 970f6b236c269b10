"""Files and folders that are there whole or not at all: written under a temporary name beside, then renamed."""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from .errors import UserError, find_in_chain

TEMPORARY = ".tmp"

PACKAGE = Path(__file__).resolve().parent
"""What ``--user-dir`` takes, from any folder."""


@contextlib.contextmanager
def replacing(path: str | Path, temporary: str | Path | None = None) -> Iterator[Path]:
    """Give a temporary name beside *path* to write to; on leaving, the file, safe on the disk, replaces *path*.

    When the block raises, the temporary file is removed and *path* is as it was.

    :param temporary: the name, if it matters.
    """
    path = Path(path)
    temporary = _beside(path) if temporary is None else Path(temporary)
    try:
        yield temporary
        _to_disk(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _to_disk(path.parent)


@contextlib.contextmanager
def told(path: Path) -> Iterator[None]:
    """Say in a sentence that *path* cannot be written, for example because the disk is full."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror}): fix that, then run the same command again"
        ) from error


def check_writable(*paths: Path | None) -> None:
    """Check, before long work, that files can be written, as far as can be told; None is no file.

    :raises UserError: if one is a folder, or its folder cannot be made or written to, or two are the same.
    """
    given = [path for path in paths if path is not None]
    for i, path in enumerate(given):
        if path.is_dir():
            raise UserError(f"{path} is a folder, but a file is expected: give a name in it")
        if _stream(path) or (path.exists() and not path.is_file()):
            continue
        if path.resolve() in (other.resolve() for other in given[:i]):
            raise UserError(f"{path} is given twice, so that one file would replace the other: give two names")
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
            raise UserError(f"{path} cannot be written, because {folder} takes no files: give a name in another folder")


def _stream(path: Path) -> TextIO | None:
    """The stream of this process that a path is, by its name or because it leads to the same file."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        with contextlib.suppress(OSError):
            if str(path) == f"/dev/{name}" or os.path.samestat(path.stat(), os.fstat(number)):
                stream: TextIO = getattr(sys, name)
                return stream
    return None


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file; its folder is made where it is not there. What is no file, such as a pipe, is written to.

    :raises UserError: if it cannot be written, for example because the disk is full; nothing half-written stays.
    """
    with told(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if stream := _stream(path):  # opened again, a file would be overwritten by what is printed next
            print(text, end="", file=stream, flush=True)
            return
        if path.exists() and not path.is_file():
            with path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(text)
            return
        with replacing(path.resolve()) as temporary:  # where a link leads to
            temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file like `write_text`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in ``path``, or None where there is none that can be read."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """The JSON object in a file.

    :param advice: what to do where there is none.
    :raises UserError: if the file cannot be read or holds something else.
    """
    found = find_object(path, advice)
    if found is None:
        raise UserError(f"{path} is missing: {advice}")
    return found


def find_object(path: Path, advice: str) -> dict[str, Any] | None:
    """The same, or None where there is no such file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {advice}") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): {advice}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: {advice}")
    return content


def write_files(contents: Mapping[Path, Any]) -> None:
    """Write files, all of them or none: text and bytes as they are, anything else with ``torch.save``.

    :raises UserError: if one cannot be written, for example because the disk is full.
    """
    if not contents:
        return
    (path, content), *others = contents.items()
    _remove_leftovers(path)
    with _all_or_nothing(str(path)), replacing(path) as temporary:
        if isinstance(content, str):
            temporary.write_text(content, encoding="utf-8")
        elif isinstance(content, bytes):
            temporary.write_bytes(content)
        else:
            import torch  # not needed to prepare a corpus

            with temporary.open("wb") as file:
                torch.save(content, file)
        write_files(dict(others))


@contextlib.contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """Give a temporary name beside *target* for a folder to be made there; on leaving it becomes *target*.

    :raises UserError: if the folder cannot be written; nothing is left of it then.
    """
    _remove_leftovers(target)
    temporary = _beside(target)
    try:
        with _all_or_nothing(f"the folder {target}"):
            yield temporary
            for path in (*temporary.rglob("*"), temporary):
                _to_disk(path)
            os.replace(temporary, target)
            _to_disk(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextlib.contextmanager
def _all_or_nothing(what: str) -> Iterator[None]:
    """Say in a sentence that something cannot be written: what is half-written is removed."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        failure = find_in_chain(error, OSError)  # torch wraps it in an error about its own file format
        if failure is None:
            raise
        raise UserError(
            f"{what} could not be written ({failure.strerror or failure}), and nothing was left behind: fix that, or "
            "give a name on another disk"
        ) from error


def remove(path: Path) -> None:
    """Remove a file, if it is there, and what writers that were killed have left of it; none may be at it now."""
    path.unlink(missing_ok=True)
    for left in _left(path):
        left.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def settings_key(settings: Any) -> str:
    """One short name for a JSON-like value: equal values have equal keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def check_target(path: str | Path) -> Path:
    """Return *path* if a new file or folder can be made there.

    :raises UserError: if something is there already, or its folder does not exist or cannot be written to.
    """
    path = Path(path)
    if path.exists() or path.is_symlink():
        raise UserError(f"{path} exists already, and nothing is overwritten: give another name, or remove it")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder} for {path.name}: make it, or give another name")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"the folder {folder} cannot be written to: give a name in another folder")
    return path


def holds_nothing(folder: Path, *but: str) -> bool:
    """Whether a folder is empty, but for files of these names and what a killed process left of one half-written."""
    temporary = re.compile(rf"\..+{re.escape(TEMPORARY)}")
    return all(entry.name in but or temporary.fullmatch(entry.name) for entry in folder.iterdir())


def _beside(path: Path) -> Path:
    """A hidden name in the same folder, and so on the same disk, that no other process uses, on any machine."""
    return path.with_name(f".{path.name}.{_here()}-{os.getpid()}-{secrets.token_hex(4)}{TEMPORARY}")


@functools.cache
def _here() -> str:
    """A name of what numbers processes: this machine since it was started and, in a container, the container."""
    started = Path("/proc/sys/kernel/random/boot_id").read_text()
    namespace = os.readlink("/proc/self/ns/pid")
    return hashlib.sha256(f"{started}{namespace}".encode()).hexdigest()[:12]


def _left(path: Path) -> Iterator[Path]:
    """What there is of *path* under names of `_beside`, of this version or an earlier one."""
    return path.parent.glob(f".{glob.escape(path.name)}.*{TEMPORARY}")


def _remove_leftovers(path: Path) -> None:
    """Remove what processes of this machine that were killed have left of *path*; what may still be written stays."""
    ours = re.compile(rf"\.{re.escape(f'{path.name}.{_here()}')}-(\d+)-[0-9a-f]+{re.escape(TEMPORARY)}")
    for left in list(_left(path)):
        if not (match := ours.fullmatch(left.name)) or _runs(int(match[1])):
            continue
        if left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # another user's, in a folder like /tmp
                left.unlink()


def _runs(process: int) -> bool:
    """Whether there is a process of that number on this machine."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        pass
    return True


def _to_disk(path: Path) -> None:
    """Wait until a file or folder is on the disk, not only in memory; some file systems do not do it for folders."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.EBADF} or not path.is_dir():
            raise
    finally:
        os.close(handle)
