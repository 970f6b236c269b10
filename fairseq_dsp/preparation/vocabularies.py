"""fairseq's dictionaries: of the training text, or ready ones."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from ..errors import UserError
from .binarise import check_dictionary, write_dictionary
from .stages import say

MOST_UNKNOWN = 1 / 3
"""The share of unknown subwords in the training text from which on a dictionary is not that of the BPE model."""


def make_dictionaries(
    counts: Sequence[Counter[str]], paths: Sequence[Path], given: Sequence[Path | None], *, joined: bool
) -> None:
    """Write the dictionaries of source and target.

    :param counts: how often each subword occurs in the training text, on each side.
    :param paths: the files to write.
    :param given: ready dictionaries to take instead; with *joined*, one stands for both.
    :param joined: one dictionary for both languages.
    :raises UserError: if a ready one is none, or lacks many of the subwords.
    """
    sides = counts
    if joined:
        together: Counter[str] = counts[0] + counts[1]
        counts = [together, together]
        given = [given[0] or given[1]] * 2
    for words, path, ready, side in zip(counts, paths, given, sides, strict=True):
        if ready is None:
            write_dictionary(words, path)
            continue
        _check_covers(ready, side)
        shutil.copyfile(ready, path)


def _check_covers(ready: Path, words: Counter[str]) -> None:
    """Say how many subwords of a side of the training text a ready dictionary lacks.

    :param words: how often each occurs.
    :raises UserError: if they are many, or it is no dictionary.
    """
    known = check_dictionary(ready)
    total = sum(words.values())
    lacking = sum(count for word, count in words.items() if word not in known)
    if lacking >= MOST_UNKNOWN * total:
        example = next(word for word, _ in words.most_common() if word not in known)
        raise UserError(
            f"the dictionary {ready} lacks {lacking / total:.0%} of the subwords of the training text, such as "
            f"{example}: give the one that belongs to the BPE model, or none, to make one of this text"
        )
    if lacking:
        say(f"{ready}: {lacking} of {total} subwords of the training text are not in it, and become <unk>")
