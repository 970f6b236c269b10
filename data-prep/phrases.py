"""The embedded corpus: German-English phrases, made on the spot and always the same."""

from __future__ import annotations

import argparse
import random
from importlib.metadata import version
from pathlib import Path

from fairseq_dsp.errors import UserError
from fairseq_dsp.preparation.arguments import positive
from fairseq_dsp.preparation.cleaning import Texts
from fairseq_dsp.preparation.corpora import Corpus, Recipe, split_names
from fairseq_dsp.preparation.stages import progress

HELP = "generated German-English phrases; needs no network and no files"
DESCRIPTION = """The embedded corpus: dates, times, durations, amounts of money, units, spelled-out numbers, countries
and languages in sentences, made from Unicode CLDR (Babel) and num2words. The same settings always give the same corpus,
and no sentence occurs twice."""
MOST_REPEATS = 100_000
"""Draws in a row that give no new sentence, after which there are too few left."""
RECIPE = Recipe(bpe="sentencepiece", vocab_size=2000, languages=("de", "en"))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this corpus."""
    add = parser.add_argument
    add("out", metavar="OUT", type=Path, help="folder for everything")
    add("--train-size", type=positive, default=30000, metavar="N", help="pairs (default: %(default)s)")
    add("--valid-size", type=positive, default=500, metavar="N", help="pairs (default: %(default)s)")
    add("--test-size", type=positive, default=500, metavar="N", help="pairs (default: %(default)s)")
    add("--seed", type=int, default=1, metavar="N", help="another one, another corpus (default: %(default)s)")


def corpus(args: argparse.Namespace) -> Corpus:
    """The corpus that the command line asks for."""
    sizes = (args.train_size, args.valid_size, args.test_size)
    return phrases((args.source_lang, args.target_lang), sizes, args.seed)


def phrases(languages: tuple[str, str], sizes: tuple[int, int, int], seed: int) -> Corpus:
    """A corpus of distinct sentences: none, in either language, occurs twice, so that no split knows another's.

    :param languages: source and target, ``de`` and ``en`` in either order.
    :param sizes: pairs for training, validation and test.
    :param seed: of the random choices; the same seed and the same versions of Babel and num2words give the same corpus.
    """
    origin = {
        "pairs": list(sizes),
        "seed": seed,
        "babel": version("babel"),
        "num2words": version("num2words"),
    }

    def write_raw(texts: Texts) -> None:
        from .phrasebook import Phrasebook  # takes a moment: only when there is something to make

        book = Phrasebook(random.Random(seed))
        seen: tuple[set[str], set[str]] = set(), set()
        # The training text last: a larger one leaves the other two as they are.
        for split, size in reversed(list(zip(split_names(1), sizes, strict=True))):
            made = 0
            with progress(total=size, desc=f"making {split}", unit="pair", disable=size < 5000) as bar:
                repeats = 0
                while made < size:
                    german, english = book.draw()
                    if german in seen[0] or english in seen[1]:
                        if (repeats := repeats + 1) == MOST_REPEATS:
                            raise UserError(
                                f"{size} pairs for {split} are asked for, but after {made} the phrases only repeat: "
                                "give a smaller size"
                            )
                        continue
                    repeats = 0
                    seen[0].add(german)
                    seen[1].add(english)
                    texts.add(split, *((german, english) if languages == ("de", "en") else (english, german)))
                    made += 1
                    bar.update()

    return Corpus("phrases", languages, origin, ["phrases_test"], write_raw)
