"""Anyone's parallel text: two files, split here, or three ready splits."""

from __future__ import annotations

import argparse
import random
import re
from collections import Counter
from pathlib import Path

from ..errors import UserError
from .arguments import positive
from .corpora import Corpus, Recipe, split_names
from .download import text_hash
from .stages import say
from .text import Pairs, read_pairs, write_pairs

SUMMARY = "your own parallel text"
DESCRIPTION = """Two UTF-8 files, a line a sentence, line-aligned, from which validation and test pairs are held out at
random; or three ready splits, each in PREFIX.SRC and PREFIX.TGT. Pairs with a blank side are left out."""
RECIPE = Recipe(bpe="sentencepiece", vocab_size=8000)

_HELD_OUT = "default: a twentieth, at most 1000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this corpus."""
    parser.usage = (
        "%(prog)s SRC TGT OUT [options]\n       %(prog)s OUT --train-pref P --valid-pref P --test-pref P[,P…] "
        "-s LANG -t LANG [options]"
    )
    parser.epilog = (
        "examples: %(prog)s talks.de talks.en data/talks   |   %(prog)s data/wmt --train-pref wmt/train "
        "--valid-pref wmt/dev --test-pref wmt/newstest2019,wmt/newstest2020 -s de -t en"
    )
    add = parser.add_argument
    add("paths", metavar="PATH", nargs="+", type=Path, help="SRC TGT OUT, or OUT alone")
    add("--train-pref", metavar="PREFIX", help="the training files without their language endings")
    add("--valid-pref", metavar="PREFIX", help="the same for validation")
    add("--test-pref", metavar="PREFIXES", help="the same for each test set, with commas between")
    add("--valid-size", type=positive, metavar="N", help=f"pairs to hold out ({_HELD_OUT})")
    add("--test-size", type=positive, metavar="N", help=f"pairs to hold out ({_HELD_OUT})")
    add("--seed", type=int, default=1, metavar="N", help="of the choice (default: %(default)s)")


def settle_languages(args: argparse.Namespace) -> None:
    """Sort out the two ways to name one's own text; sets ``out`` and, from the files' endings, the languages."""
    error = args.parser.error
    prefixes = (args.train_pref, args.valid_pref, args.test_pref)
    if len(args.paths) == 3 and not any(prefixes):
        for name, path in zip(("source_lang", "target_lang"), args.paths, strict=False):
            if not getattr(args, name):
                setattr(args, name, path.name.removesuffix(".gz").rpartition(".")[2] if "." in path.name else "")
    elif len(args.paths) != 1 or not all(prefixes):
        error("custom needs SRC TGT OUT, or OUT and all of --train-pref, --valid-pref and --test-pref")
    elif args.valid_size or args.test_size:
        error("--valid-size and --test-size hold out pairs of SRC and TGT; with ready splits there is nothing to")
    args.out = args.paths[-1]
    for language in (args.source_lang, args.target_lang):
        if not re.fullmatch(r"[A-Za-z][\w-]{1,15}", language or ""):
            error(
                f"{language or 'nothing'!r} is not a language code: give --source-lang and --target-lang, "
                "such as de and en"
            )


def corpus(args: argparse.Namespace) -> Corpus:
    """The corpus that the command line asks for; `settle_languages` comes first."""
    languages = (args.source_lang, args.target_lang)
    if args.train_pref:
        one = Path(f"{args.test_pref}.{args.source_lang}").exists()  # one with a comma in its name
        tests = [args.test_pref] if one else args.test_pref.split(",")
        return ready_splits(languages, args.train_pref, args.valid_pref, tests)
    return whole_text(languages, args.paths[0], args.paths[1], args.valid_size, args.test_size, args.seed)


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
        UserError: a file is missing.
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
        UserError: there are too few such pairs.
    """
    some = max(1, min(1000, len(pairs[0]) // 20))
    valid_size, test_size = valid_size or some, test_size or some
    counts = [Counter(side) for side in pairs]
    single = [i for i, (a, b) in enumerate(zip(*pairs, strict=True)) if counts[0][a] == counts[1][b] == 1]
    wanted = valid_size + test_size
    if wanted > len(single) or wanted >= len(pairs[0]):
        raise UserError(
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
        UserError: a file is missing.
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
        raise UserError(
            f"{path} is {'not a file' if path.exists() else 'missing'}: expected a text file, a line a sentence"
        )
    return text_hash(path)
