"""From subwords to the files that fairseq maps into memory, by fairseq's own dictionary and builder, in pieces.

A piece is written by fairseq; the pieces of a text are then joined. So memory does not grow with the text, as it does
in fairseq-preprocess, which keeps the length and the place of every sentence as objects of Python.
"""

from __future__ import annotations

import os
import shutil
import struct
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..errors import UserError
from ..evaluation.prepared import read_dictionary
from .stages import say
from .workers import in_order

PIECE = 16 << 20
"""Bytes of text that are binarised at a time."""

_HEADER = 18  # bytes of an index: a magic number, the version, the type of the subwords' numbers
_COUNT = struct.Struct("<Q")


def write_dictionary(counts: Counter[str], path: Path) -> None:
    """Write fairseq's dictionary of some subwords, as fairseq-preprocess would."""
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    for word, count in counts.items():
        dictionary.add_symbol(word, n=count)
    dictionary.finalize(padding_factor=8)
    dictionary.save(str(path))


def read_counts(path: Path) -> Counter[str]:
    """Read what `write_counts` wrote."""
    counts: Counter[str] = Counter()
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            word, _, count = line.rpartition(" ")
            counts[word] = int(count)
    return counts


def write_counts(counts: Counter[str], path: Path) -> None:
    """Write how often each subword occurs, the most frequent one first."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{word} {count}\n" for word, count in sorted(counts.items(), key=lambda x: (-x[1], x[0])))


@dataclass(frozen=True)
class Piece:
    """A part of a text: bytes from *start* to *end* of a file, from the beginning of a line to the end of one."""

    text: Path
    start: int
    end: int
    out: Path


def binarise(text: Path, dictionary: Path, out: Path, *, start: int = 0, end: int | None = None, workers: int) -> None:
    """Write ``OUT.bin`` and ``OUT.idx`` for a text, or the part of it from byte *start* to byte *end*; say how large.

    :param text: subwords, a line a sentence.
    :param dictionary: fairseq's.
    :param workers: processes; the result does not depend on it.
    """
    end = text.stat().st_size if end is None else end
    pieces = list(_pieces(text, start, end, out))
    sentences = tokens = unknown = 0
    _dictionary(dictionary)  # read, and all of fairseq imported, before processes are started, so that they share it
    work = partial(_binarise, dictionary=dictionary)
    with _Joined(out) as joined:
        for piece, counts in zip(pieces, in_order(work, pieces, workers), strict=True):
            joined.add(piece.out)
            _remove(piece.out)
            sentences, tokens, unknown = sentences + counts[0], tokens + counts[1], unknown + counts[2]
    language = text.suffix.removeprefix(".")
    share = 100 * unknown / tokens if tokens else 0.0
    say(f"[{language}] {text.name}: {sentences} sents, {tokens} tokens, {share:.3}% replaced (by <unk>)")


def join(texts: Iterable[Path], out: Path) -> None:
    """Write ``OUT.bin`` and ``OUT.idx`` for binarised texts, one after the other."""
    with _Joined(out) as joined:
        for text in texts:
            joined.add(text)


def _remove(binarised: Path) -> None:
    for ending in ("bin", "idx"):
        Path(f"{binarised}.{ending}").unlink()


def _pieces(text: Path, start: int, end: int, out: Path) -> Iterator[Piece]:
    """Cut a text into pieces of whole lines; there is one at least."""
    with text.open("rb") as file:
        number = 0
        while start < end or not number:
            file.seek(min(start + PIECE, end))
            if start + PIECE < end:
                file.readline()  # to the end of the line
            stop = min(file.tell(), end)
            yield Piece(text, start, stop, Path(f"{out}.piece{number}"))
            start, number = stop, number + 1


def _binarise(piece: Piece, *, dictionary: Path) -> tuple[int, int, int]:
    """Have fairseq write a piece; return the number of sentences, of tokens, and of unknown ones among them."""
    import torch
    from fairseq.data import indexed_dataset

    words = _dictionary(dictionary)
    get, unk, eos = words.indices.get, words.unk(), words.eos()
    builder = indexed_dataset.make_builder(f"{piece.out}.bin", impl="mmap", vocab_size=len(words))
    sentences = tokens = unknown = 0
    with piece.text.open("rb") as file:
        file.seek(piece.start)
        while (left := piece.end - file.tell()) > 0:
            block = file.read(min(left, 1 << 16)) + (file.readline() if left > 1 << 16 else b"")
            for line in block.decode().removesuffix("\n").split("\n"):
                numbers = [get(word, unk) for word in line.split()]
                unknown += numbers.count(unk)
                numbers.append(eos)
                builder.add_item(torch.IntTensor(numbers))
                sentences += 1
                tokens += len(numbers)
    builder.finalize(f"{piece.out}.idx")
    return sentences, tokens, unknown


_dictionary = cache(read_dictionary)  # once a process


class _Joined:
    """The pieces of a text as one: the numbers one after the other, and an index of them."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self._parts = {name: Path(f"{out}.{name}") for name in ("bin", "sizes", "places")}
        self._files: dict[str, IO[bytes]] = {}
        self._header = b""
        self._dtype: Any = None
        self._count = self._bytes = 0

    def __enter__(self) -> _Joined:
        self._files = {name: path.open("wb") for name, path in self._parts.items()}
        return self

    def add(self, piece: Path) -> None:
        """Add the next piece; its numbers get the type of those of the first."""
        from fairseq.data.indexed_dataset import MMapIndexedDataset

        numbers, index = Path(f"{piece}.bin"), Path(f"{piece}.idx")
        dtype = np.dtype(MMapIndexedDataset.Index(str(index)).dtype)
        with index.open("rb") as file:
            header = file.read(_HEADER)
            self._header, self._dtype = self._header or header, self._dtype or dtype
            (count,) = _COUNT.unpack(file.read(_COUNT.size))
            self._files["sizes"].write(np.fromfile(file, dtype=np.int32, count=count).tobytes())
            places = np.fromfile(file, dtype=np.int64, count=count) // dtype.itemsize * self._dtype.itemsize
            self._files["places"].write((places + self._bytes).tobytes())
        if dtype == self._dtype:
            with numbers.open("rb") as source:
                shutil.copyfileobj(source, self._files["bin"])
        else:
            self._files["bin"].write(np.fromfile(numbers, dtype=dtype).astype(self._dtype).tobytes())
        self._count += count
        self._bytes += numbers.stat().st_size // dtype.itemsize * self._dtype.itemsize

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for file in self._files.values():
            file.close()
        if kind is not None:
            return
        with Path(f"{self.out}.idx").open("wb") as index:
            index.write(self._header + _COUNT.pack(self._count))
            for name in ("sizes", "places"):
                with self._parts[name].open("rb") as part:
                    shutil.copyfileobj(part, index)
                os.unlink(self._parts[name])


def check_dictionary(path: Path) -> Any:
    """Read a ready dictionary as fairseq does, and return it.

    :raises UserError: if it is none.
    """
    from fairseq.data import Dictionary

    if not path.is_file():
        raise UserError(f"the dictionary {path} is {'not a file' if path.exists() else 'missing'}")
    words = Dictionary()
    try:
        with path.open(encoding="utf-8") as file:
            words.add_from_file(file)
    except (ValueError, RuntimeError) as error:  # RuntimeError: a word twice
        reason = str(error).split(". ")[0]
        raise UserError(
            f"{path} is not a dictionary of fairseq's ({reason}): expected a subword, a space and a number in each "
            "line, no subword twice, and none of fairseq's own <s>, <pad>, </s> and <unk>"
        ) from error
    if len(words) == words.nspecial:
        raise UserError(f"the dictionary {path} is empty: expected a subword, a space and a number in each line")
    return words
