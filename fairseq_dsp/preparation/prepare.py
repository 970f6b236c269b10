"""After an interruption, run the same command again: it continues from the last finished stage, and does nothing if all
stages are finished. OUT then holds data-bin/ (for fairseq-train), raw/ (plain text, with the references of
detokenised BLEU), bpe/ (the BPE model and the text in subwords) and prepare.json (the settings and the names of the
test sets).

examples:
  fairseq-dsp prepare phrases data/phrases
  fairseq-dsp prepare multi30k data/multi30k --raw-dir FOLDER
  fairseq-dsp prepare custom mine.de mine.en data/mine
  fairseq-dsp prepare CORPUS --help
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from ..corpus import method_of
from . import corpora, distilled, nli
from .arguments import positive, ratio, share
from .corpora import Recipe
from .subwords import SAMPLE


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The corpora, and the options of each."""
    parser.description = "Prepare a corpus for fairseq: from raw text to a data-bin that fairseq-train reads."
    commands = parser.add_subparsers(dest="corpus", required=True, metavar="CORPUS", title="corpora")
    for name in corpora.NAMES:
        module = corpora.module(name)
        command = commands.add_parser(name, help=module.HELP, description=module.DESCRIPTION)
        module.add_arguments(command)
        _add_common(command, module.RECIPE)
        command.set_defaults(parser=command, recipe=module.RECIPE, prepare=_prepare)
    nli.add_command(commands)
    distilled.add_command(commands)


def _add_common(parser: argparse.ArgumentParser, recipe: Recipe) -> None:
    """The options that all corpora share, with the defaults of one of them."""
    source, target = recipe.languages or (None, None)
    of_ending = "the file's ending"
    add = parser.add_argument_group("languages").add_argument
    add("-s", "--source-lang", choices=recipe.languages, help=f"source language (default: {source or of_ending})")
    add("-t", "--target-lang", choices=recipe.languages, help=f"target language (default: {target or of_ending})")
    add = parser.add_argument_group("cleaning, of the training text alone").add_argument
    add("--max-words", type=positive, metavar="N", help="leave out pairs with more words on a side")
    add("--max-ratio", type=ratio, metavar="R", help="leave out pairs with one side more than R times as long")
    add("--deduplicate", action="store_true", help="leave out pairs that have occurred before")
    add(
        "--normalise",
        choices=["nfc", "nfkc"],
        help="Unicode normalisation of all texts, references included",
    )
    add = parser.add_argument_group("subwords").add_argument
    add(
        "--bpe",
        type=method_of,
        choices=["sentencepiece", "subword-nmt"],
        default=recipe.bpe,
        help="subword method (default: %(default)s)",
    )
    add(
        "--vocab-size",
        type=positive,
        metavar="N",
        help="pieces of sentencepiece, or merges of subword-nmt, for both languages together "
        f"(default: {recipe.vocab_size})",
    )
    add(
        "--bpe-sample",
        type=positive,
        metavar="N",
        help=f"learn the BPE on at most N training pairs, chosen at random (default: {SAMPLE})",
    )
    add("--bpe-model", type=Path, metavar="FILE", help="use this BPE model instead of learning one")
    add("--source-dictionary", type=Path, metavar="FILE", help="use this fairseq dictionary for the source language")
    add("--target-dictionary", type=Path, metavar="FILE", help="the same for the target language")
    add(
        "--character-coverage",
        type=share,
        metavar="SHARE",
        help="share of the characters that sentencepiece covers; use 0.9995 for scripts with thousands of them "
        "(default: 1)",
    )
    add(
        "--joined-dictionary",
        action=argparse.BooleanOptionalAction,
        help="one dictionary for both languages (default: with sentencepiece yes, with subword-nmt no)",
    )
    if recipe.fixed:
        parser.set_defaults(**recipe.fixed)
    else:
        add = parser.add_argument_group("tokenisation").add_argument
        add(
            "--tokenizer",
            choices=["none", "moses"],
            help="tokenisation before the BPE (default: none for sentencepiece, which splits raw text; moses for "
            "subword-nmt)",
        )
        add("--lowercase", action="store_true", help="lower-case all text (the references in raw/ keep their case)")
    add = parser.add_argument_group("running").add_argument
    add(
        "--shard-size",
        type=positive,
        metavar="N",
        help="training pairs of a shard; further shards are data-bin1, data-bin2 …, which fairseq-train takes joined "
        "by colons, one per epoch (default: one shard)",
    )
    add(
        "--workers",
        type=positive,
        default=min(len(os.sched_getaffinity(0)), 8),
        metavar="N",
        help="number of processes; it does not change the result (default: %(default)s)",
    )
    add("--force", action="store_true", help="replace a finished preparation in OUT that has other settings")


def run(args: argparse.Namespace) -> None:
    """Prepare the corpus that the command line asks for.

    :raises UserError: if the input is bad, or OUT holds a finished preparation with other settings.
    """
    args.prepare(args)


def _prepare(args: argparse.Namespace) -> None:
    """Prepare a parallel corpus."""
    from .binarise import check_dictionary
    from .cleaning import Cleaning
    from .pipeline import Options, prepare
    from .stages import told_in_one_sentence
    from .subwords import check_model, count_merges

    _settle_languages(args)
    model, dictionaries = args.bpe_model, (args.source_dictionary, args.target_dictionary)
    with told_in_one_sentence(args.out):
        for name in ("vocab_size", "bpe_sample", "character_coverage") if model else ():
            if getattr(args, name) is not None:
                flag = "--" + name.replace("_", "-")
                args.parser.error(
                    f"{flag} is for learning a BPE model, and --bpe-model gives a ready one: leave one out"
                )
        if args.character_coverage is not None and args.bpe != "sentencepiece":
            args.parser.error(f"--character-coverage is for sentencepiece, but --bpe is {args.bpe}: leave it out")
        if args.joined_dictionary and all(dictionaries):
            args.parser.error("--joined-dictionary means one, but two are given: leave one of the dictionaries out")
        if model:
            check_model(args.bpe, model)
        for path in filter(None, dictionaries):
            check_dictionary(path)
        corpus = corpora.module(args.corpus).corpus(args)
        options = Options(
            bpe=args.bpe,
            vocab_size=args.vocab_size or count_merges(corpus.codes) or (None if model else args.recipe.vocab_size),
            tokenizer=args.tokenizer or ("none" if args.bpe == "sentencepiece" else "moses"),
            lowercase=args.lowercase,
            joined_dictionary=_joined(args),
            coverage=1.0 if args.character_coverage is None else args.character_coverage,
            sample=args.bpe_sample or SAMPLE,
            seed=getattr(args, "seed", 1),
            model=model,
            dictionaries=dictionaries,
            cleaning=Cleaning(args.max_words, args.max_ratio, args.deduplicate, args.normalise),
            shard_size=args.shard_size,
            workers=args.workers,
        )
        prepare(corpus, options, args.out, force=args.force)


def _joined(args: argparse.Namespace) -> bool:
    """Whether there is one dictionary for both languages."""
    if args.joined_dictionary is not None:
        return bool(args.joined_dictionary)
    both = args.source_dictionary and args.target_dictionary
    return args.bpe == "sentencepiece" and not both


def _settle_languages(args: argparse.Namespace) -> None:
    """Of two known languages, the one that is not given is the other one."""
    if args.recipe.languages:
        source, target = args.recipe.languages
        args.source_lang = args.source_lang or (target if args.target_lang == source else source)
        args.target_lang = args.target_lang or (target if args.source_lang == source else source)
    else:
        corpora.module(args.corpus).settle_languages(args)
    if args.source_lang == args.target_lang:
        args.parser.error(
            f"--source-lang and --target-lang are both {args.source_lang}, but translation needs two languages: give "
            "-s and -t"
        )
