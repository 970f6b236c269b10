"""The embedded corpus: German-English phrases, made on the spot and always the same."""

from __future__ import annotations

import random
from importlib.metadata import version
from pathlib import Path

from pipeline import Corpus, split_names
from text import write_pairs
from tqdm import tqdm


def phrases(languages: tuple[str, str], sizes: tuple[int, int, int], seed: int) -> Corpus:
    """A corpus of distinct sentences: none, in either language, occurs twice, so that no split knows another's.

    Args:
        languages: source and target, ``de`` and ``en`` in either order.
        sizes: pairs for training, validation and test.
        seed: of the random choices; the same seed and the same versions of Babel and num2words give the same corpus.
    """
    origin = {
        "pairs": list(sizes),
        "seed": seed,
        "babel": version("babel"),
        "num2words": version("num2words"),
    }

    def write_raw(folder: Path) -> None:
        from phrasebook import Phrasebook  # takes a moment: only when there is something to make

        book = Phrasebook(random.Random(seed))
        seen: tuple[set[str], set[str]] = set(), set()
        # The training text last: a larger one leaves the other two as they are.
        for split, size in reversed(list(zip(split_names(1), sizes, strict=True))):
            pairs: tuple[list[str], list[str]] = [], []
            with tqdm(total=size, desc=f"making {split}", unit="pair", disable=size < 5000) as bar:
                while len(pairs[0]) < size:
                    drawn = book.draw()
                    if drawn[0] in seen[0] or drawn[1] in seen[1]:
                        continue
                    for i, text in enumerate(drawn):
                        seen[i].add(text)
                        pairs[i].append(text)
                    bar.update()
            write_pairs(folder, split, languages, pairs if languages == ("de", "en") else (pairs[1], pairs[0]))

    return Corpus("phrases", languages, origin, ["phrases_test"], write_raw)
