"""Prepare a parallel corpus for fairseq: from raw text to a data-bin that fairseq-train reads.

Run it again after an interruption and it goes on from the last finished stage; run it again when all is done and it
does nothing. OUT then holds data-bin/ (for fairseq-train), raw/ (plain text, with the references of detokenised BLEU),
bpe/ (the BPE model and the text in subwords) and prepare.json (the settings and the names of the test sets).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import multi30k
import phrases
from pipeline import Corpus, Options, prepare
from stages import told_in_one_sentence


def positive(text: str) -> int:
    """An integer above zero, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is not a positive number")
    return number


def share(text: str) -> float:
    """A number above zero and at most one, for argparse."""
    number = float(text)
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 1")
    return number


def add_common(
    parser: argparse.ArgumentParser, *, bpe: str, vocab_size: int, languages: tuple[str, str] | None
) -> None:
    """The options that all corpora share, with the defaults of one of them."""
    source, target = languages or (None, None)
    of_ending = "the ending of the file"
    add = parser.add_argument_group("languages").add_argument
    add("-s", "--source-lang", default=source, choices=languages, help=f"from (default: {source or of_ending})")
    add("-t", "--target-lang", default=target, choices=languages, help=f"to (default: {target or of_ending})")
    add = parser.add_argument_group("subwords").add_argument
    add("--bpe", choices=["sentencepiece", "subword-nmt"], default=bpe, help="default: %(default)s")
    add(
        "--vocab-size",
        type=positive,
        default=vocab_size,
        metavar="N",
        help="pieces of sentencepiece, or merges of subword-nmt, for both languages together (default: %(default)s)",
    )
    add(
        "--character-coverage",
        type=share,
        default=1.0,
        metavar="SHARE",
        help="share of all characters that sentencepiece has to know; 0.9995 for scripts with thousands "
        "(default: %(default)s)",
    )
    add(
        "--joined-dictionary",
        action=argparse.BooleanOptionalAction,
        help="one dictionary for both languages (default: with sentencepiece yes, with subword-nmt no)",
    )
    add = parser.add_argument_group("running").add_argument
    add(
        "--workers",
        type=positive,
        default=min(len(os.sched_getaffinity(0)), 8),
        metavar="N",
        help="processes; the result does not depend on it (default: %(default)s)",
    )
    add("--force", action="store_true", help="replace a finished preparation in OUT that has other settings")


def add_tokenising(parser: argparse.ArgumentParser) -> None:
    """The options of corpora whose recipe leaves tokenisation open."""
    add = parser.add_argument_group("tokenisation").add_argument
    add(
        "--tokenizer",
        choices=["none", "moses"],
        help="before the BPE (default: none for sentencepiece, which splits raw text; moses for subword-nmt)",
    )
    add("--lowercase", action="store_true", help="lower-case all text (the references in raw/ keep their case)")


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=os.environ.get("PREPARE_NAME"), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    corpora = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS")

    sub = corpora.add_parser(
        "phrases",
        help="generated German-English phrases; needs no network and no files",
        description="The embedded corpus: dates, times, durations, amounts of money, units, spelled-out numbers, "
        "countries and languages in sentences, made from Unicode CLDR (Babel) and num2words. The same settings always "
        "give the same corpus, and no sentence occurs twice.",
    )
    sub.add_argument("out", metavar="OUT", type=Path, help="folder for everything")
    sub.add_argument("--train-size", type=positive, default=30000, metavar="N", help="pairs (default: %(default)s)")
    sub.add_argument("--valid-size", type=positive, default=500, metavar="N", help="pairs (default: %(default)s)")
    sub.add_argument("--test-size", type=positive, default=500, metavar="N", help="pairs (default: %(default)s)")
    sub.add_argument(
        "--seed", type=int, default=1, metavar="N", help="another one, another corpus (default: %(default)s)"
    )
    add_common(sub, bpe="sentencepiece", vocab_size=2000, languages=("de", "en"))
    add_tokenising(sub)

    sub = corpora.add_parser(
        "multi30k",
        help="image captions, German-English, 29,000 pairs; downloaded, or from --raw-dir",
        description="Multi30k task 1 from its raw text: cased, untokenised. Its test sets become test "
        "(test_2016_flickr), test1, test2, test3 for fairseq-generate --gen-subset.",
    )
    sub.add_argument("out", metavar="OUT", type=Path, help="folder for everything")
    sub.add_argument(
        "--raw-dir",
        type=Path,
        metavar="DIR",
        help="folder with train.de, val.de, test_2016_flickr.de … or the same with .gz",
    )
    sub.add_argument("--url", default=multi30k.URL, help="where train.de.gz … are downloaded (default: %(default)s)")
    add_common(sub, bpe="sentencepiece", vocab_size=6000, languages=("de", "en"))
    add_tokenising(sub)
    return parser


def make_corpus(args: argparse.Namespace) -> Corpus:
    """The corpus that the command line asks for; raises `PrepareError` when it is not there."""
    languages = (args.source_lang, args.target_lang)
    if args.corpus == "phrases":
        return phrases.phrases(languages, (args.train_size, args.valid_size, args.test_size), args.seed)
    return multi30k.multi30k(languages, args.raw_dir, args.url, args.out / "download")


def main() -> None:
    """Parse the command line and prepare."""
    parser = build_parser()
    args = parser.parse_args()
    if args.source_lang and args.source_lang == args.target_lang:
        parser.error(f"--source-lang and --target-lang are both {args.source_lang}: translation needs two languages")
    with told_in_one_sentence(args.out):
        corpus = make_corpus(args)
        options = Options(
            bpe=args.bpe,
            vocab_size=args.vocab_size,
            tokenizer=args.tokenizer or ("none" if args.bpe == "sentencepiece" else "moses"),
            lowercase=args.lowercase,
            joined_dictionary=args.bpe == "sentencepiece" if args.joined_dictionary is None else args.joined_dictionary,
            coverage=args.character_coverage,
            workers=args.workers,
        )
        prepare(corpus, options, args.out, force=args.force)


if __name__ == "__main__":
    main()
