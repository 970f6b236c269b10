"""Anyone's parallel text: one text, split here, or three ready splits; in two files, or in one with a tab between."""

from __future__ import annotations

import argparse
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..plain import is_blank
from .arguments import positive
from .cleaning import Texts
from .corpora import Corpus, Recipe, split_names
from .download import text_hash
from .lines import COMPRESSED, Pairs, find_text, read_pairs, read_table

if TYPE_CHECKING:
    import numpy as np

HELP = "your own parallel text"
DESCRIPTION = """Two UTF-8 files, one sentence per line, line-aligned, or one with source, tab and target in each
line, from which validation and test pairs are held out at random; or three ready splits, each in PREFIX.SRC and
PREFIX.TGT or in PREFIX.tsv. Any of them may be compressed (.gz, .bz2, .xz, .zst). Pairs with a blank side are
left out."""
RECIPE = Recipe(bpe="sentencepiece", vocab_size=8000)

BLOCK = 1 << 20

_HELD_OUT = "default: a twentieth, at most 1000"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this corpus."""
    parser.usage = (
        "%(prog)s SRC TGT OUT [options]\n       %(prog)s PAIRS.tsv OUT -s LANG -t LANG [options]\n       "
        "%(prog)s OUT --train-pref P --valid-pref P --test-pref P[,P…] -s LANG -t LANG [options]"
    )
    parser.epilog = (
        "examples: %(prog)s talks.de talks.en data/talks   |   %(prog)s data/wmt --train-pref wmt/train "
        "--valid-pref wmt/dev --test-pref wmt/newstest2019,wmt/newstest2020 -s de -t en"
    )
    add = parser.add_argument
    add("paths", metavar="PATH", nargs="+", type=Path, help="SRC TGT OUT, or PAIRS.tsv OUT, or OUT alone")
    add("--train-pref", metavar="PREFIX", help="the training files without their language endings")
    add("--valid-pref", metavar="PREFIX", help="the same for validation")
    add("--test-pref", metavar="PREFIXES", help="the same for each test set, with commas between")
    add("--valid-size", type=positive, metavar="N", help=f"pairs to hold out ({_HELD_OUT})")
    add("--test-size", type=positive, metavar="N", help=f"pairs to hold out ({_HELD_OUT})")
    add("--seed", type=int, default=1, metavar="N", help="seed of all random choices (default: %(default)s)")


def settle_languages(args: argparse.Namespace) -> None:
    """Sort out the ways to name one's own text; sets ``out`` and, from the files' endings, the languages."""
    error = args.parser.error
    prefixes = (args.train_pref, args.valid_pref, args.test_pref)
    sides = len(args.paths) == 3 and not any(prefixes)
    table = len(args.paths) == 2 and not any(prefixes) and args.source_lang and args.target_lang
    ready = len(args.paths) == 1 and all(prefixes)
    if not (sides or table or ready):
        error(
            "custom needs SRC TGT OUT, PAIRS.tsv OUT with -s and -t, or OUT and all of --train-pref, --valid-pref and "
            "--test-pref"
        )
    if sides:
        for name, path in zip(("source_lang", "target_lang"), args.paths, strict=False):
            if not getattr(args, name):
                setattr(args, name, _ending(path))
    if ready and (args.valid_size or args.test_size):
        error("--valid-size and --test-size hold out pairs of a text; with ready splits there is nothing to hold out")
    args.out = args.paths[-1]
    for language in (args.source_lang, args.target_lang):
        if not re.fullmatch(r"[A-Za-z][\w-]{1,15}", language or ""):
            error(
                f"{language or 'nothing'!r} is not a language code: give --source-lang and --target-lang, "
                "such as de and en"
            )


def _ending(path: Path) -> str:
    name = path.name
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    return name.rpartition(".")[2] if "." in name else ""


def corpus(args: argparse.Namespace) -> Corpus:
    """The corpus that the command line asks for; `settle_languages` comes first."""
    languages = (args.source_lang, args.target_lang)
    if args.train_pref:
        one = bool(_files(args.test_pref, languages))  # one with a comma in its name
        tests = [args.test_pref] if one else [prefix.strip() for prefix in args.test_pref.split(",")]
        if not all(tests) or len({Path(test).resolve() for test in tests}) < len(tests):
            raise UserError(
                f"--test-pref {args.test_pref} has a prefix twice, or none between two commas: give each test set once"
            )
        return ready_splits(languages, args.train_pref, args.valid_pref, tests)
    return whole_text(languages, args.paths[:-1], args.valid_size, args.test_size, args.seed)


def whole_text(
    languages: tuple[str, str], paths: list[Path], valid_size: int | None, test_size: int | None, seed: int
) -> Corpus:
    """One parallel text, of which some pairs are held out for validation and test.

    :param languages: source and target.
    :param paths: the two sides, or one file with both.
    :param valid_size: pairs for validation; None for a twentieth, at most 1000.
    :param test_size: pairs for test, likewise.
    :param seed: of the choice of pairs.
    :raises UserError: if a file is missing.
    """
    names = ("source", "target") if len(paths) == 2 else ("pairs",)
    origin: dict[str, Any] = {name: text_hash(path) for name, path in zip(names, paths, strict=True)}
    origin["held-out"] = [valid_size, test_size, seed, "in any case"]

    def write_raw(texts: Texts) -> None:
        held = _held_out(lambda: _read(paths), texts, valid_size, test_size, seed)
        place = 0
        for source, target in _read(paths):
            if is_blank(source) or is_blank(target):
                texts.add("train", source, target)  # which counts it
            else:
                texts.add(held.get(place, "train"), source, target)
                place += 1

    return Corpus("custom", languages, origin, ["test"], write_raw)


def _read(paths: list[Path]) -> Iterator[tuple[str, str]]:
    return read_pairs(*paths) if len(paths) == 2 else read_table(*paths)


def _held_out(
    read: Callable[[], Pairs], texts: Texts, valid_size: int | None, test_size: int | None, seed: int
) -> dict[int, str]:
    """The places of the pairs that are held out, and what for; pairs with a blank side do not count."""
    from .duplicates import Hashes

    with Hashes(texts.folder / ".source") as sources, Hashes(texts.folder / ".target") as targets:
        for source, target in read():
            if not (is_blank(source) or is_blank(target)):
                sources.add(texts.cleaning.rewrite(source).lower())  # as a recipe may, later
                targets.add(texts.cleaning.rewrite(target).lower())
        repeated = sources.repeated()
        repeated |= targets.repeated()
    return choose(~repeated, valid_size, test_size, seed)


def choose(single: np.ndarray, valid_size: int | None, test_size: int | None, seed: int) -> dict[int, str]:
    """Choose pairs for validation and test.

    Only pairs of which neither side occurs a second time are held out, so that none of them is known from training.

    :param single: whether a pair is such a one. *Shape:* (number of pairs)
    :return: the text of each pair that is chosen, by its place.
    :raises UserError: if there are too few of them.
    """
    import numpy as np

    some = max(1, min(1000, len(single) // 20))
    valid_size, test_size = valid_size or some, test_size or some
    wanted, there = valid_size + test_size, int(single.sum())
    if wanted > there or wanted >= len(single):
        raise UserError(
            f"{wanted} pairs are to be held out for validation and test, but of the {len(single)} pairs only "
            f"{there} have sentences that occur once: give smaller --valid-size and --test-size, or more text"
        )
    chosen = random.Random(seed).sample(range(there), wanted)
    split_of = {number: "valid" if i < valid_size else "test" for i, number in enumerate(chosen)}
    held: dict[int, str] = {}
    seen = 0
    for start in range(0, len(single), BLOCK):
        places = np.flatnonzero(single[start : start + BLOCK])
        inside = [number for number in split_of if seen <= number < seen + len(places)]
        held |= {start + int(places[number - seen]): split_of[number] for number in inside}
        seen += len(places)
    return held


def ready_splits(languages: tuple[str, str], train: str, valid: str, tests: list[str]) -> Corpus:
    """Files that are split already, named ``PREFIX.SRC`` and ``PREFIX.TGT``, or ``PREFIX.tsv``, or compressed.

    :param languages: source and target.
    :param train: prefix of the training files.
    :param valid: prefix of the validation files.
    :param tests: prefixes of the test sets.
    :raises UserError: if a file is missing.
    """
    prefixes = dict(zip(split_names(len(tests)), [train, valid, *tests], strict=True))
    paths = {split: _files(prefix, languages) for split, prefix in prefixes.items()}
    for split, files in paths.items():
        if not files:
            raise UserError(
                f"{prefixes[split]}.{languages[0]} and {prefixes[split]}.{languages[1]} are missing, and so is "
                f"{prefixes[split]}.tsv: expected text files, one sentence per line"
            )
    origin = {split: [text_hash(path) for path in files] for split, files in paths.items()}

    def write_raw(texts: Texts) -> None:
        for split, files in paths.items():
            texts.write(split, _read(files))

    names = [Path(test).name for test in tests]
    return Corpus("custom", languages, origin, names if len(set(names)) == len(names) else tests, write_raw)


def _files(prefix: str, languages: tuple[str, str]) -> list[Path]:
    """The files of a prefix: the two sides, or one file with both, or none."""
    for endings in (languages, ("tsv",)):
        found = [find_text(Path(f"{prefix}.{ending}")) for ending in endings]
        if all(found):
            return [path for path in found if path]
    return []
