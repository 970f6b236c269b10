"""Finding what occurs twice in a text of any size, with memory for a part of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType

import numpy as np

PART = 2_000_000  # hashes that are compared at a time, 16 bytes each


class Hashes:
    """A file of 64-bit hashes of texts, in their order, and which of these occur twice.

    Two different texts have the same hash once in 10^19 pairs of texts: in 30 million texts with a probability of
    0.00002.

    :param path: the file, which is gone in the end.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("w+b")

    def __enter__(self) -> Hashes:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)

    def add(self, text: str) -> None:
        """Add the next text."""
        self._file.write(hashlib.blake2b(text.encode(), digest_size=8).digest())

    def repeated(self, *, but_the_first: bool = False) -> np.ndarray:
        """Whether each of the texts occurs twice, or, with *but_the_first*, has occurred before. *Shape:* (number)"""
        self._file.flush()
        count = self.path.stat().st_size // 8
        found = np.zeros(count, dtype=bool)
        parts = count // PART + 1
        for part in range(parts):
            places, values = self._part(part, parts)
            order = np.argsort(values, kind="stable")  # of equal ones, the first one stays first
            values, places = values[order], places[order]
            same = values[1:] == values[:-1]
            found[places[1:][same]] = True
            if not but_the_first:
                found[places[:-1][same]] = True
        return found

    def _part(self, part: int, parts: int) -> tuple[np.ndarray, np.ndarray]:
        """The hashes of one part of all values, and their places."""
        places, values = [], []
        with self.path.open("rb") as file:
            start = 0
            while len(block := np.fromfile(file, dtype=np.uint64, count=PART)):
                chosen = np.flatnonzero(block % np.uint64(parts) == part)
                places.append(chosen + start)
                values.append(block[chosen])
                start += len(block)
        if not places:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.uint64)
        return np.concatenate(places), np.concatenate(values)
