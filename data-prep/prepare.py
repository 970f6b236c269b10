"""Prepare a parallel corpus for fairseq: from raw text to a data-bin that fairseq-train reads.

Run it again after an interruption and it goes on from the last finished stage; run it again when all is done and it
does nothing. OUT then holds data-bin/ (for fairseq-train), raw/ (plain text, with the references of detokenised BLEU),
bpe/ (the BPE model and the text in subwords) and prepare.json (the settings and the names of the test sets).
"""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

import custom
import iwslt14
import multi30k
import phrases
from pipeline import Corpus, Options, prepare
from stages import told_in_one_sentence
from subwords import count_merges

HELD_OUT = "default: a twentieth, at most 1000"


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
    add("-s", "--source-lang", choices=languages, help=f"from (default: {source or of_ending})")
    add("-t", "--target-lang", choices=languages, help=f"to (default: {target or of_ending})")
    add = parser.add_argument_group("subwords").add_argument
    add("--bpe", choices=["sentencepiece", "subword-nmt"], default=bpe, help="default: %(default)s")
    add(
        "--vocab-size",
        type=positive,
        metavar="N",
        help=f"pieces of sentencepiece, or merges of subword-nmt, for both languages together (default: {vocab_size})",
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
    parser.set_defaults(default_vocab_size=vocab_size)
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

    sub = corpora.add_parser(
        "iwslt14",
        help="TED talks, German-English, 160,000 pairs; downloaded, or from --raw-dir",
        description="IWSLT'14 as the published results on it are prepared: Moses tokenisation, lower case, 10,000 BPE "
        "merges, separate dictionaries. From the raw archive, or from text that is tokenised already.",
    )
    sub.add_argument("out", metavar="OUT", type=Path, help="folder for everything")
    sub.add_argument(
        "--raw-dir",
        type=Path,
        metavar="DIR",
        action="append",
        default=[],
        help="folder with the unpacked archive (train.tags.de-en.*, IWSLT14.*.xml), or with tokenised train.*, valid.* "
        "and test.*, and perhaps BPE merges in code; may be given again, for example for the XML files, whose text is "
        "then the untokenised reference",
    )
    sub.add_argument("--url", default=iwslt14.URL, help="where the archive is downloaded (default: %(default)s)")
    add_common(sub, bpe="subword-nmt", vocab_size=10000, languages=("de", "en"))
    sub.set_defaults(tokenizer="moses", lowercase=True)

    sub = corpora.add_parser(
        "custom",
        help="your own parallel text",
        usage="%(prog)s SRC TGT OUT [options]\n       %(prog)s OUT --train-pref P --valid-pref P --test-pref P[,P…] "
        "-s LANG -t LANG [options]",
        description="Two UTF-8 files, a line a sentence, line-aligned, from which validation and test pairs are held "
        "out at random; or three ready splits, each in PREFIX.SRC and PREFIX.TGT. Pairs with a blank side are "
        "left out.",
        epilog="examples: %(prog)s talks.de talks.en data/talks   |   %(prog)s data/wmt --train-pref wmt/train "
        "--valid-pref wmt/dev --test-pref wmt/newstest2019,wmt/newstest2020 -s de -t en",
    )
    sub.add_argument("paths", metavar="PATH", nargs="+", type=Path, help="SRC TGT OUT, or OUT alone")
    sub.add_argument("--train-pref", metavar="PREFIX", help="the training files without their language endings")
    sub.add_argument("--valid-pref", metavar="PREFIX", help="the same for validation")
    sub.add_argument("--test-pref", metavar="PREFIXES", help="the same for each test set, with commas between")
    sub.add_argument("--valid-size", type=positive, metavar="N", help=f"pairs to hold out ({HELD_OUT})")
    sub.add_argument("--test-size", type=positive, metavar="N", help=f"pairs to hold out ({HELD_OUT})")
    sub.add_argument("--seed", type=int, default=1, metavar="N", help="of the choice (default: %(default)s)")
    add_common(sub, bpe="sentencepiece", vocab_size=8000, languages=None)
    add_tokenising(sub)
    return parser


def check_custom(args: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Sort out the two ways to name one's own text."""
    prefixes = (args.train_pref, args.valid_pref, args.test_pref)
    if len(args.paths) == 3 and not any(prefixes):
        for name, path in zip(("source_lang", "target_lang"), args.paths, strict=False):
            if not getattr(args, name):
                setattr(args, name, path.name.removesuffix(".gz").rpartition(".")[2] if "." in path.name else "")
    elif len(args.paths) != 1 or not all(prefixes):
        parser.error("custom needs SRC TGT OUT, or OUT and all of --train-pref, --valid-pref and --test-pref")
    elif args.valid_size or args.test_size:
        parser.error(
            "--valid-size and --test-size hold out pairs of SRC and TGT; with ready splits there is nothing to"
        )
    args.out = args.paths[-1]
    for language in (args.source_lang, args.target_lang):
        if not re.fullmatch(r"[A-Za-z][\w-]{1,15}", language or ""):
            parser.error(
                f"{language or 'nothing'!r} is not a language code: give --source-lang and --target-lang, "
                "such as de and en"
            )


def make_corpus(args: argparse.Namespace) -> Corpus:
    """The corpus that the command line asks for; raises `PrepareError` when it is not there."""
    languages = (args.source_lang, args.target_lang)
    if args.corpus == "phrases":
        return phrases.phrases(languages, (args.train_size, args.valid_size, args.test_size), args.seed)
    if args.corpus == "iwslt14":
        own_size = args.vocab_size is not None
        use_codes = args.bpe == "subword-nmt" and not own_size
        return iwslt14.iwslt14(
            languages, args.raw_dir, args.url, args.out / "download", use_codes=use_codes, workers=args.workers
        )
    if args.corpus == "custom" and args.train_pref:
        return custom.ready_splits(languages, args.train_pref, args.valid_pref, args.test_pref.split(","))
    if args.corpus == "custom":
        return custom.whole_text(languages, args.paths[0], args.paths[1], args.valid_size, args.test_size, args.seed)
    return multi30k.multi30k(languages, args.raw_dir, args.url, args.out / "download")


def main() -> None:
    """Parse the command line and prepare."""
    parser = build_parser()
    args = parser.parse_args()
    if args.corpus == "custom":
        check_custom(args, parser)
    elif not (args.source_lang and args.target_lang):
        # The one that is not given is the other one.
        args.source_lang = args.source_lang or ("en" if args.target_lang == "de" else "de")
        args.target_lang = args.target_lang or ("en" if args.source_lang == "de" else "de")
    if args.source_lang == args.target_lang:
        parser.error(f"--source-lang and --target-lang are both {args.source_lang}: translation needs two languages")
    with told_in_one_sentence(args.out):
        corpus = make_corpus(args)
        options = Options(
            bpe=args.bpe,
            vocab_size=args.vocab_size or count_merges(corpus.codes) or args.default_vocab_size,
            tokenizer=args.tokenizer or ("none" if args.bpe == "sentencepiece" else "moses"),
            lowercase=args.lowercase,
            joined_dictionary=args.bpe == "sentencepiece" if args.joined_dictionary is None else args.joined_dictionary,
            coverage=args.character_coverage,
            workers=args.workers,
        )
        prepare(corpus, options, args.out, force=args.force)


if __name__ == "__main__":
    main()
