"""BLEU and chrF of translation models, by fairseq's own generation and sacrebleu; accuracy of classifiers.

Each CKPT is scored in turn; several checkpoints joined by ':' are an ensemble, as in fairseq.

  tokenised BLEU    of the recipe's tokens (Moses tokens for a recipe without tokenisation): comparable with papers
                    that report tokenised BLEU, not with anything else
  BLEU, chrF        of detokenised text, with sacrebleu's signature
  accuracy          of labels, with its 95% bootstrap interval over the sentences

examples:
  fairseq-dsp evaluate runs/joint/checkpoint_best.pt --data data/multi30k
  fairseq-dsp evaluate base.pt pruned.pt --data data/multi30k --split test,test1 --json scores.json
  fairseq-dsp evaluate pruned.pt --data data/multi30k --heads-to-keep 6
  fairseq-dsp evaluate range.pt --data data/multi30k --heads-to-keep 36,18,12,6,3 --json curve.json
  fairseq-dsp evaluate theirs.pt --data data-bin --references test.en --bpe subword-nmt --tokenizer moses
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import check_writable, write_json, write_text
from ..model import HEADS, with_heads
from ..model.kinds import flag
from ..removal.data_bin import POST_PROCESS
from . import preprocessed, score_text
from .beam_search import MAX_LEN_A, MAX_LEN_B, beam_search
from .classify import classify
from .description import describe
from .inputs import Sizes, checkpoint_paths
from .prepared import PreparedData
from .scoring import detokenised, metric_names, metrics, score
from .significance import bootstrap

_SEARCH = {"beam": 5, "lenpen": 1.0, "max_len_a": MAX_LEN_A, "max_len_b": MAX_LEN_B}
"""The options of the search for translations, and their defaults."""
_OTHER_BUDGETS = (*HEADS.budgets.values(), HEADS.options["updates"])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("checkpoints", metavar="CKPT", nargs="+", help="checkpoint of fairseq, compact or not")
    parser.add_argument(
        "--data", metavar="DATA", required=True,
        help="folder made by scripts/preprocess.sh, with prepare.json in it, or by fairseq-preprocess",
    )  # fmt: skip
    parser.add_argument(
        "--split", default="test", help="valid, test, test1 …; several, as one: test,test1 (default: %(default)s)"
    )
    parser.add_argument(
        "--heads-to-keep", type=numbers_of_heads, default=(None,), metavar="K[,K…]",
        help="number of heads to evaluate with (default: as trained); several numbers give a table",
    )  # fmt: skip
    parser.add_argument("--kept-heads", metavar="FILE", help="evaluate with this set of heads, as JSON")
    parser.add_argument(
        "--beam", type=int, default=_SEARCH["beam"], metavar="N", help="beam size (default: %(default)s)"
    )
    parser.add_argument("--lenpen", type=float, default=_SEARCH["lenpen"], help="length penalty (default: %(default)s)")
    parser.add_argument(
        "--max-len-a", type=float, default=MAX_LEN_A, metavar="A",
        help="a translation ends at A · (length of the source) + B subwords (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--max-len-b", type=int, default=MAX_LEN_B, metavar="B", help="see --max-len-a (default: %(default)s)"
    )
    parser.add_argument("--max-tokens", type=int, metavar="N", help="tokens in a batch (default: 4096; on a GPU 16384)")
    parser.add_argument("--cpu", action="store_true", help="do not use a GPU")
    preprocessed.add_arguments(parser)
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write the scores to this file")
    parser.add_argument(
        "--translations", "--predictions", metavar="OUT", type=Path, dest="output",
        help="also write the detokenised translations, or the labels, to this file, one sentence per line; for one "
        "CKPT only",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Translate or classify, score and print.

    :raises UserError: if the data, a checkpoint or the number of heads cannot be used.
    """
    data = preprocessed.read_data(args.data, args.split, preprocessed.given_by(args))
    data.check_split(args.split)
    if args.heads_to_keep != (None,) and args.kept_heads is not None:
        raise UserError("--heads-to-keep and --kept-heads both say which heads to keep: give one of them")
    if args.beam < 1:
        raise UserError(f"--beam is {args.beam}, but it must be 1 or more")
    if args.max_len_b < 1:
        raise UserError(f"--max-len-b is {args.max_len_b}, but it must be 1 or more")
    if not math.isfinite(args.lenpen):
        raise UserError(f"--lenpen is {args.lenpen}, but a finite number is expected, such as 1")
    if not (math.isfinite(args.max_len_a) and args.max_len_a >= 0):
        raise UserError(f"--max-len-a is {args.max_len_a}, but it must be a finite number, 0 or more")
    for several, what in ((args.checkpoints, "CKPT"), (args.heads_to_keep, "number of heads")):
        if args.output and len(several) > 1:
            name = "--predictions" if data.classifies else "--translations"
            raise UserError(
                f"{name} takes the output of one {what}, but {len(several)} are given: give one, or leave {name} out"
            )
    if args.max_tokens is not None and args.max_tokens < 1:
        raise UserError(f"--max-tokens is {args.max_tokens}, but it must be 1 or more")
    for name, default in _SEARCH.items() if data.classifies else ():
        if getattr(args, name) != default:
            raise UserError(f"{flag(name)} is for translations, but {args.data} has labels: leave it out")
    check_writable(args.output, args.json)
    members = [checkpoint_paths(checkpoint) for checkpoint in args.checkpoints]
    if data.serves_both_directions:
        from fairseq import checkpoint_utils  # help needs none of its packages

        data = preprocessed.for_model(data, checkpoint_utils.load_checkpoint_to_cpu(members[0][0]), args.split)
    models = list(itertools.product(zip(args.checkpoints, members, strict=True), args.heads_to_keep))
    insides = [describe(paths, heads, args.kept_heads, data) for (_, paths), heads in models]
    results = []
    for ((checkpoint, _), heads), inside in zip(models, insides, strict=True):
        output, speed, settings = _output(checkpoint, heads, inside["kept"], data, args)
        results.append(
            {"checkpoint": checkpoint, "corpus": data.summary.get("corpus"), "split": args.split}
            | {"heads_to_keep": heads}
            | settings
            | score(data, args.split, output)
            | (interval(data, args.split, output) if data.classifies else {"ceiling": data.ceiling(args.split)})
            | speed
            | inside
        )
        if len(args.heads_to_keep) == 1:
            print(score_text.text(results[-1]), flush=True)
        else:
            if heads == args.heads_to_keep[0]:
                print(score_text.title(results[-1]), score_text.header(data), sep="\n")
            print(score_text.row(results[-1], data), flush=True)
        if args.output:
            lines = output if data.classifies else detokenised(data, output)
            write_text(args.output, "".join(line + "\n" for line in lines))
    if args.json:
        write_json(args.json, results)


def numbers_of_heads(text: str) -> tuple[int, ...]:
    """Read numbers of heads: ``6``, or several as ``36,18,6``.

    :raises argparse.ArgumentTypeError: if they are none, or one is given twice.
    """
    try:
        numbers = tuple(int(number) for number in text.split(","))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is no number of heads, and not several, such as 36,18,6") from error
    if len(set(numbers)) < len(numbers):
        raise argparse.ArgumentTypeError(f"{text} has a number twice: give each once")
    return numbers


def _output(
    checkpoint: str,
    heads_to_keep: int | None,
    kept: dict[str, Any] | None,
    data: PreparedData,
    args: argparse.Namespace,
) -> tuple[list[str], dict[str, float], dict[str, Any]]:
    """Return translations or labels, what their making took, and the settings that they depend on.

    :param kept: the set of these heads; None where the members of an ensemble have sets of their own.
    """
    search = {name: getattr(args, name) for name in _SEARCH}
    # the set and not its number, which budgets and floors of the training may not allow; and the whole of it, where
    # that of --kept-heads leaves units of other kinds to the model
    asked = heads_to_keep is not None or args.kept_heads is not None
    own = json.dumps(kept) if asked and kept is not None else args.kept_heads
    heads: dict[str, Any] = {"heads_to_keep": heads_to_keep, "kept_heads": own}
    batches = {"max_tokens": args.max_tokens or _batch_size(args.cpu), "cpu": args.cpu}
    lines: list[str] = []
    measured = []
    for part in data.parts(args.split):
        if data.classifies:
            made = classify(checkpoint, data, part, overrides=_overrides(**heads), **batches)
        else:
            made = translate(checkpoint, data, part, **heads, **search, **batches)
        lines += made[0]
        measured.append(made[1])
    return lines, _together(measured), {} if data.classifies else search


def _batch_size(cpu: bool) -> int:
    """Return the tokens of a batch that keep the device busy and fit into its memory."""
    import torch

    return 16384 if torch.cuda.is_available() and not cpu else 4096


def _together(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    """What was measured of several texts, as of one: numbers added up, speeds weighed by the time that each took."""
    if len(measured) == 1:
        return measured[0]
    found: dict[str, float] = {}
    for name in set.intersection(*map(set, measured)):
        if not name.endswith("_per_second"):
            found[name] = sum(one[name] for one in measured)
            continue
        seconds = [one["sentences"] / one["sentences_per_second"] for one in measured]
        found[name] = sum(one[name] * time for one, time in zip(measured, seconds, strict=True)) / sum(seconds)
    return found


def interval(data: PreparedData, split: str, output: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the 95% bootstrap ``interval`` of a model's first metric, over the sentences, within 0 and 100."""
    found = bootstrap(metrics(data)[metric_names(data)[0]], data.references(split), {"": output}).mean({0: [""]})
    return {"interval": (max(0.0, round(found.low, 4)), min(100.0, round(found.high, 4)))}


def _overrides(heads_to_keep: int | None, kept_heads: str | None) -> dict[str, Any]:
    """Return the options with which a checkpoint keeps other heads."""
    if kept_heads is not None:
        return with_heads(str(kept_heads))
    return {} if heads_to_keep is None else {"heads_to_keep": heads_to_keep, **dict.fromkeys(_OTHER_BUDGETS)}


def translate(
    checkpoint: str,
    data: PreparedData,
    split: str,
    *,
    heads_to_keep: int | None = None,
    kept_heads: str | None = None,
    **search: Any,
) -> tuple[list[str], dict[str, float]]:
    """Translate a text that has references with fairseq-generate; its progress bar goes to standard error.

    A sentence that is longer than the model's positions is cut there, and a blank one stays blank.

    :param search: of `beam_search`.
    :return: the translations in the order of the text, BPE undone, tokens left; and the number of ``sentences``, how
        many were ``cut``, how many of their translations are ``stopped_at_limit`` of the length, and how many
        ``sentences_per_second`` and ``tokens_per_second``, of the search alone.
    :raises UserError: if the model cannot be used, or the data do not belong together.
    """
    overrides, post_process = _overrides(heads_to_keep, kept_heads), POST_PROCESS.get(data.summary["bpe"])
    found, speed = beam_search(checkpoint, data, split, overrides=overrides, post_process=post_process, **search)
    expected = len(data.references(split))
    if sorted(found) != list(range(expected)):
        raise UserError(
            f"fairseq-generate translated {len(found)} sentences of {split}, but there are {expected} references: the "
            f"files in {data.folder} do not match, so run scripts/preprocess.sh again"
        )
    for number in Sizes.of(data, split).blank(data, split):
        found[number] = [""]
    return [found[i][0] for i in range(expected)], speed
