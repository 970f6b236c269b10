"""Parallel text, line by line: reading it with every check, whatever its size, and writing it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice, zip_longest
from pathlib import Path
from typing import IO, Any, TypeVar, cast

from ..errors import UserError
from ..plain import is_blank, plain
from .stages import say

Item = TypeVar("Item")
Pairs = Iterable[tuple[str, str]]
"""A parallel text, pair by pair: source and target."""

RULES = 2
"""The number of the rules by which text is read; another number, another text."""

BATCH = 2000
"""Lines that are worked on at a time."""

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
"""Endings of the compressed files that are read as if they were not."""


def find_text(path: Path) -> Path | None:
    """The file of that name, or of that name and the ending of a compressed format; None where there is neither."""
    paths = [path.with_name(path.name + ending) for ending in ("", *COMPRESSED)]
    return next((path for path in paths if path.is_file()), None)


def _open_zstd(path: Path) -> IO[bytes]:
    try:
        from backports import zstd
    except ImportError as error:
        raise UserError(f"{path} needs the package backports.zstd: install it, or decompress the file") from error
    return cast(IO[bytes], zstd.open(path))


_FORMATS: dict[str, tuple[str, bytes | tuple[bytes, ...], Callable[[Path], Any]]] = {
    ".bz2": ("bzip2", tuple(b"BZh%d1AY&SY" % size for size in range(1, 10)), bz2.open),
    ".gz": ("gzip", b"\x1f\x8b", gzip.open),
    ".xz": ("xz", b"\xfd7zXZ\0", lzma.open),
    ".zst": ("zstd", b"\x28\xb5\x2f\xfd", _open_zstd),
}
"""The compressed formats by ending: their names, their first bytes, with which no text can begin, how to open them."""


def _format(path: Path) -> tuple[str, Callable[[Path], Any]] | None:
    """The compressed format that a file's ending or its first bytes say: its name, and how to open it."""
    with path.open("rb") as file:
        start = file.read(10)
    for ending, (name, magic, opener) in _FORMATS.items():
        if path.suffix == ending or start.startswith(magic):
            return name, opener
    return None


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file, decompressed where its ending or its first bytes say that it is compressed.

    :raises UserError: if it is missing.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is {'not a file' if path.exists() else 'missing'}: expected a text file, one sentence per line"
        )
    if found := _format(path):
        opened: IO[bytes] = found[1](path)
        return opened
    return path.open("rb")


def blocks(path: Path) -> Iterator[list[bytes]]:
    """The lines of a file as bytes, decompressed, some thousands at a time.

    :raises UserError: if it is missing.
    :raises DamagedError: if it is compressed and cut short or damaged.
    """
    try:
        with open_bytes(path) as file:
            while block := file.readlines(1 << 20):
                yield block
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the disk, not of the format
            raise
        raise _damaged(path, error) from error
    except Exception as error:
        if type(error).__name__ != "ZstdError":  # of a package that need not be there
            raise
        raise _damaged(path, error) from error


class DamagedError(UserError):
    """A compressed file that is cut short or damaged."""


def _damaged(path: Path, error: Exception) -> DamagedError:
    name, _ = _format(path) or ("compressed", None)
    return DamagedError(f"{path} is an incomplete or damaged {name} file ({error}): get it again")


def read_text(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file as they are, with what ends them; says how many signs `plain` will replace.

    :raises UserError: if the file is missing, damaged, or not UTF-8 text.
    """
    number = signs = 0
    for block in blocks(path):
        for raw in block:
            number += 1
            try:
                line = raw.decode()
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path}, line {number}, is not UTF-8 (byte 0x{raw[error.start]:02x}): convert the file to UTF-8, "
                    "for example with iconv"
                ) from error
            if "\0" in line:
                raise UserError(f"{path}, line {number}, holds a NUL character: expected plain UTF-8 text")
            signs += line.count("\u2581")
            yield line.removeprefix("\ufeff") if number == 1 else line
    if signs:
        say(f"{path}: {signs} characters U+2581, with which sentencepiece writes a space, are read as spaces")


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a UTF-8 text file, compressed or not, white space normalised.

    Only a line feed ends a line. Whatever else Python or fairseq might take for a line end (carriage return, U+2028 …)
    and the no-break spaces, at which fairseq would split a word that the BPE model joins, become plain spaces. So does
    U+2581, as which sentencepiece writes a space.

    :raises UserError: if the file is missing, empty, damaged, or not UTF-8 text.
    """
    empty = True
    for line in read_text(path):
        line = plain(line)
        empty = empty and is_blank(line)
        yield line
    if empty:
        raise UserError(f"{path} is empty: expected a text file, one sentence per line")


def read_pairs(source: Path, target: Path) -> Iterator[tuple[str, str]]:
    """The pairs of the two sides of a parallel text, with all the checks of `read_lines`.

    :raises UserError: if the sides differ in length, too.
    """
    return parallel(read_lines(source), read_lines(target), (source, target))


def parallel(source: Iterable[str], target: Iterable[str], names: tuple[object, object]) -> Iterator[tuple[str, str]]:
    """The two sides as pairs.

    :param names: of the two sides, for the message.
    :raises UserError: if they differ in length.
    """
    pairs = zip_longest(source, target)
    for number, (a, b) in enumerate(pairs):
        if a is None or b is None:
            rest = number + 1 + sum(1 for _ in pairs)
            sizes = (number, rest) if a is None else (rest, number)
            raise UserError(
                f"{names[0]} has {sizes[0]} lines and {names[1]} has {sizes[1]}: the two sides of a parallel text "
                "need the same number of lines, each line the translation of the other"
            )
        yield a, b


def read_table(path: Path) -> Iterator[tuple[str, str]]:
    """The pairs of a file with source, tab and target in each line, with the checks of `read_lines`.

    :raises UserError: if a line has no or more than one tab, too.
    """
    seen = False
    for number, line in enumerate(read_text(path), 1):
        if not line.strip():
            yield "", ""
            continue
        columns = line.rstrip("\r\n").split("\t")
        if len(columns) != 2:
            raise UserError(f"{path}, line {number}, has {len(columns)} columns: expected source, tab, target")
        seen = True
        yield plain(columns[0]), plain(columns[1])
    if not seen:
        raise UserError(f"{path} is empty: expected pairs, source, tab and target in each line")


def stored_lines(path: Path) -> Iterator[str]:
    """Read back the lines that a stage wrote."""
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield line.removesuffix("\n")


def stored_pairs(folder: Path, split: str, languages: tuple[str, str]) -> Iterator[tuple[str, str]]:
    """Read back a parallel text that a stage wrote."""
    return zip(*(stored_lines(folder / f"{split}.{language}") for language in languages), strict=True)


def write_lines(path: Path, lines: Iterable[str]) -> int:
    """Write a line a string, UTF-8; return their number."""
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for batch in in_batches(lines):
            file.write("\n".join(batch) + "\n")
            count += len(batch)
    return count


def in_batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """The items, some thousands at a time."""
    rest = iter(items)
    while batch := list(islice(rest, BATCH)):
        yield batch


def count_lines(path: Path) -> int:
    """The number of lines that a stage wrote."""
    with path.open("rb") as file:
        return sum(1 for _ in file)
