"""The files in which corpora of natural language inference come."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..plain import is_blank, plain
from .corpora import split_names
from .lines import find_text, read_lines, read_text
from .stages import say

LABELS = ("entailment", "neutral", "contradiction")

Row = tuple[str, str, str]
"""Premise, hypothesis and label of a pair."""

Texts = dict[str, list[Row]]
"""The pairs of each split, under fairseq's names."""

_NO_LABEL = "-"  # SNLI and MNLI: the annotators did not agree

_LAYOUTS: dict[str, list[dict[str, str]]] = {
    "sick": [{"train": "SICK_train.txt", "valid": "SICK_trial.txt", "test": "SICK_test_annotated.txt"}],
    "snli": [
        {"train": "snli_1.0_train.txt", "valid": "snli_1.0_dev.txt", "test": "snli_1.0_test.txt"},
        {"train": "train.tsv", "valid": "dev.tsv", "test": "test.tsv"},
        {"train": "train", "valid": "dev", "test": "test"},  # s1.train, s2.train, labels.train
    ],
    "mnli": [
        {"train": "multinli_1.0_train.txt", "matched": "multinli_1.0_dev_matched.txt",
         "mismatched": "multinli_1.0_dev_mismatched.txt"},
        {"train": "train.tsv", "matched": "dev_matched.tsv", "mismatched": "dev_mismatched.tsv"},
    ],
}  # fmt: skip
"""For each corpus, the names of the files of its splits in each of its layouts. A name without an ending stands for
three files."""

_COLUMNS = (
    ("sentence_A", "sentence1"),
    ("sentence_B", "sentence2"),
    ("entailment_judgment", "gold_label"),
)


@dataclass
class NliCorpus:
    """A corpus.

    :param name: ``sick``, ``snli`` or ``mnli``.
    :param texts: its pairs.
    :param test_sets: names of the test sets.
    :param files: all that was read, by their names without the endings of compressed formats.
    :param left_out: number of training pairs left out, since they recur in a test set.
    :param held_out: how pairs were held out for validation: their number and the seed; None if none were.
    """

    name: str
    texts: Texts
    test_sets: tuple[str, ...]
    files: dict[str, Path]
    left_out: int
    held_out: list[Any] | None


def read_corpus(folder: Path, *, held_out: int, seed: int) -> NliCorpus:
    """Read the corpus in a folder.

    :param held_out: how many pairs are held out for validation where a set is missing.
    :param seed: of that choice.
    :raises UserError: if it is none of the corpora, or a file is not as it should be.
    """
    name, layout = _find(folder)
    files = {name: path for file in layout.values() for name in _names(file) if (path := find_text(folder / name))}
    there = {split: _read(folder, file) for split, file in layout.items() if _names(file)[0] in files}
    tests = [split for split in there if split not in ("train", "valid")]
    pool = there.get("train") or there["valid"]
    valid = there["valid"] if "train" in there and "valid" in there else None
    in_test = {_pair(row) for split in tests for row in there[split]}
    train = [row for row in pool if _pair(row) not in in_test]
    left_out = len(pool) - len(train)
    if not train:
        raise UserError(f"all {left_out} training pairs of {folder} recur in a test set: get the corpus again")
    if valid is None:
        times = Counter(map(_pair, train))
        single = [i for i, row in enumerate(train) if times[_pair(row)] == 1]  # none of them is known from training
        if held_out >= len(train) or held_out > len(single):
            raise UserError(
                f"{held_out} pairs are to be held out for validation, but {folder} has {len(train)} to train on, of "
                f"which {len(single)} occur once: give a smaller --valid-size"
            )
        choice: list[Any] | None = [held_out, seed]
        if len(single) < len(train):
            choice = [held_out, seed, "of pairs that occur once"]
        chosen = set(random.Random(seed).sample(single, held_out))
        valid = [row for i, row in enumerate(train) if i in chosen]
        train = [row for i, row in enumerate(train) if i not in chosen]
        say(f"{held_out} pairs are held out for validation")
    else:
        choice = None
        there_too = {_pair(row) for row in train}
        if known := sum(_pair(row) in there_too for row in valid):
            say(f"{known} of {len(valid)} validation pairs are in the training text too")
    if left_out:
        say(f"left out {left_out} training pairs that recur in a test set")
    texts = {"train": train, "valid": valid}
    texts |= {name: there[split] for name, split in zip(split_names(len(tests))[2:], tests, strict=True)}
    names = tuple(f"{name}-{split}" if name == "mnli" else name for split in tests)
    return NliCorpus(name, texts, names, files, left_out, choice)


def _pair(row: Row) -> tuple[str, str]:
    """Both sides, as an encoder reads them that knows no capitals."""
    return row[0].lower(), row[1].lower()


def _find(folder: Path) -> tuple[str, dict[str, str]]:
    if not folder.is_dir():
        raise UserError(f"--raw-dir {folder} is not a folder: give the folder of SICK, SNLI or MNLI")
    for name, layouts in _LAYOUTS.items():
        for layout in layouts:
            tests = [split for split in layout if split not in ("train", "valid")]
            needed = [layout[split] for split in tests]
            others = [_names(layout[split])[0] for split in ("train", "valid") if split in layout]
            trained = any(find_text(folder / name) for name in others)
            if trained and all(find_text(folder / name) for file in needed for name in _names(file)):
                return name, layout
    expected = "; ".join(
        f"{name.upper()}: {', '.join(_names(file)[0] for file in layouts[0].values())}"
        for name, layouts in _LAYOUTS.items()
    )
    raise UserError(f"{folder} does not hold the files of a known corpus ({expected}): give another --raw-dir")


def _names(file: str) -> list[str]:
    """Return the file, or the three that one name stands for."""
    return [file] if "." in file else [f"{part}.{file}" for part in ("s1", "s2", "labels")]


def _read(folder: Path, file: str) -> list[Row]:
    """Return the labelled pairs of a split.

    :raises UserError: if a column is missing, a side empty or a label unknown.
    """
    paths = [find_text(folder / name) or folder / name for name in _names(file)]
    if len(paths) == 3:
        columns = [list(read_lines(path)) for path in paths]
        if len({len(column) for column in columns}) > 1:
            counts = ", ".join(f"{path.name} {len(c)}" for path, c in zip(paths, columns, strict=True))
            raise UserError(f"the files of {folder} differ in their number of lines ({counts}): get the corpus again")
        rows = list(zip(*columns, strict=True))
        places = [f"{folder}, {file}, line {i}" for i in range(1, len(rows) + 1)]
    else:
        rows, places = _table(paths[0])
    found = []
    for (first, second, label), place in zip(rows, places, strict=True):
        label = label.lower()
        if label == _NO_LABEL:
            continue
        if label not in LABELS:
            raise UserError(f"{place}: the label is {label!r}, but one of {', '.join(LABELS)} is expected")
        for side, text in (("first", first), ("second", second)):
            if is_blank(text):
                raise UserError(f"{place}: the {side} sentence is empty: remove the pair, or get the corpus again")
        found.append((first, second, label))
    if len(found) < len(rows):
        say(f"{folder / file}: left out {len(rows) - len(found)} pairs without a label that the annotators agreed on")
    if not found:
        raise UserError(f"{folder / file} has no pair with a label: get the corpus again")
    return found


def _table(path: Path) -> tuple[list[tuple[str, ...]], list[str]]:
    """Return sentences and label of each row of a table with a header and tabs, and where each row is."""
    lines = (line.rstrip("\r\n") for line in read_text(path))
    header = next(lines, "").split("\t")
    wanted = []
    for names in _COLUMNS:
        at = [header.index(name) for name in names if name in header]
        if not at:
            raise UserError(f"{path} has no column {' or '.join(names)}, but {', '.join(header)}: get the corpus again")
        wanted.append(at[0])
    rows, places = [], []
    for number, line in enumerate(lines, start=2):
        cells = line.split("\t")
        if len(cells) == 1 and is_blank(cells[0]):
            continue
        # with a tab in a sentence, the columns after it would be taken for others
        if len(cells) <= max(wanted) or any(cells[len(header) :]):
            raise UserError(
                f"{path}, line {number}, has {len(cells)} columns, but its header has {len(header)}: get the corpus "
                "again"
            )
        rows.append(tuple(plain(cells[at]) for at in wanted))
        places.append(f"{path}, line {number}")
    return rows, places
