"""Anyone's parallel text: two files, split here, or three ready splits."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from download import text_hash
from pipeline import Corpus, split_names
from stages import PrepareError, say
from text import Pairs, read_pairs, write_pairs


def whole_text(
    languages: tuple[str, str], source: Path, target: Path, valid_size: int | None, test_size: int | None, seed: int
) -> Corpus:
    """One parallel text, of which some pairs are held out for validation and test.

    Args:
        languages: source and target.
        source: the source side.
        target: the target side.
        valid_size: pairs for validation; None for a twentieth, at most 1000.
        test_size: pairs for test, likewise.
        seed: of the choice of pairs.

    Raises:
        PrepareError: a file is missing.
    """
    origin = {"source": _hash(source), "target": _hash(target), "held-out": [valid_size, test_size, seed]}

    def write_raw(folder: Path) -> None:
        pairs = read_pairs(source, target)
        for split, part in zip(split_names(1), hold_out(pairs, valid_size, test_size, seed), strict=True):
            write_pairs(folder, split, languages, part)
            say(f"{split}: {len(part[0])} pairs")

    return Corpus("custom", languages, origin, ["test"], write_raw)


def hold_out(pairs: Pairs, valid_size: int | None, test_size: int | None, seed: int) -> tuple[Pairs, Pairs, Pairs]:
    """Split into training, validation and test.

    Only pairs of which neither side occurs a second time are held out, so that none of them is known from training.

    Raises:
        PrepareError: there are too few such pairs.
    """
    some = max(1, min(1000, len(pairs[0]) // 20))
    valid_size, test_size = valid_size or some, test_size or some
    counts = [Counter(side) for side in pairs]
    single = [i for i, (a, b) in enumerate(zip(*pairs, strict=True)) if counts[0][a] == counts[1][b] == 1]
    wanted = valid_size + test_size
    if wanted > len(single) or wanted >= len(pairs[0]):
        raise PrepareError(
            f"{wanted} pairs are to be held out for validation and test, but of the {len(pairs[0])} pairs only "
            f"{len(single)} have sentences that occur once: give smaller --valid-size and --test-size, or more text"
        )
    chosen = random.Random(seed).sample(single, wanted)
    held = set(chosen)
    parts = [
        [i for i in range(len(pairs[0])) if i not in held],
        sorted(chosen[:valid_size]),
        sorted(chosen[valid_size:]),
    ]
    train, valid, test = (([pairs[0][i] for i in part], [pairs[1][i] for i in part]) for part in parts)
    return train, valid, test


def ready_splits(languages: tuple[str, str], train: str, valid: str, tests: list[str]) -> Corpus:
    """Files that are split already, named ``PREFIX.SRC`` and ``PREFIX.TGT``.

    Args:
        languages: source and target.
        train: prefix of the training files.
        valid: prefix of the validation files.
        tests: prefixes of the test sets.

    Raises:
        PrepareError: a file is missing.
    """
    prefixes = dict(zip(split_names(len(tests)), [train, valid, *tests], strict=True))
    paths = {split: [Path(f"{prefix}.{lang}") for lang in languages] for split, prefix in prefixes.items()}
    origin = {split: [_hash(path) for path in files] for split, files in paths.items()}

    def write_raw(folder: Path) -> None:
        for split, files in paths.items():
            write_pairs(folder, split, languages, read_pairs(*files))

    return Corpus("custom", languages, origin, [Path(test).name for test in tests], write_raw)


def _hash(path: Path) -> str:
    if not path.is_file():
        raise PrepareError(
            f"{path} is {'not a file' if path.exists() else 'missing'}: expected a text file, a line a sentence"
        )
    return text_hash(path)
