"""Prune a trained model in one command: choose K of its heads, or F of its feed-forward units, or both, or a share of
the cost of all, train it on, remove the others for good, and compare the result with the original on the test set.

CKPT is a checkpoint of fairseq's transformer, or an unpruned one of transformer_dsp. Sizes, batches, label smoothing,
learning rate and the settings of Adam are read from it. By default, training continues for a third of the updates that
the model has had, or for as many as it has had where less than a third of the heads or units stays, but at least for
500; with --range for two thirds, at least for 1,000. The learning rate falls linearly to 0. Where half of the heads or
more stay, they are scored once (fairseq-dsp score-heads), the output projections are fitted to them (fairseq-dsp
compensate), and every update trains the model that is left. With fewer heads, other units, or an option that says how
to choose, the training chooses them, from a budget that shrinks from all units to what is to be kept: give
--head-selection simple if the model is far from converged.

With several K, each has a training of its own; with --range, one training serves every K from the least to the most.

OUT then holds
  compact.pt, compact.heads.json    the small model, and its heads; with several K compact-kK.pt, compact-kK.heads.json
                                    (several shares: compact-p0.5.pt of parameters, compact-f0.5.pt of FLOPs)
  range.pt                          with --range: the model of every K; --heads-to-keep K chooses one in other commands,
                                    by default the least
  table.md                          BLEU with its interval, the difference, parameters, sentences a second
  prune.json                        what was asked for, and the options of each training in update numbers
  runs/                             for each model its checkpoints, log, scores and translations

After an interruption, run the same command again: it continues from the last checkpoint. `fairseq-dsp report OUT` draws
head maps and learning curves.

Options of fairseq-train come last, each with one value or none, and override the recipe, as --max-update does below.

examples:
  fairseq-dsp prune base.pt data/multi30k pruned --heads-to-keep 18
  fairseq-dsp prune base.pt data/multi30k pruned --heads-to-keep 18 6 --max-update 2000 --max-tokens 4096
  fairseq-dsp prune base.pt data/multi30k pruned --heads-to-keep 18 --ffn-units-to-keep 48
  fairseq-dsp prune base.pt data/multi30k pruned --parameters-to-keep 0.5
  fairseq-dsp prune base.pt data/multi30k pruned --heads-to-keep 36 18 6 --range --touch-up 500
  fairseq-dsp prune base.pt data-bin pruned --heads-to-keep 18 --references test.en --bpe sentencepiece
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evaluation import preprocessed
from ..evaluation.evaluate import numbers_of_heads
from ..evaluation.prepared import PreparedData
from ..files import holds_nothing, sha256, write_json, write_text
from ..model import HEADS, PruningConfig
from ..model.kinds import LENGTH
from ..model.retired import refuse_retired
from ..removal.data_bin import position_flags, translating
from . import pruning_recipe
from .local import Local
from .method_checks import chooses_units, read_shares
from .options import BUDGETS, SHARES, Options, check_arch, parse_options, read_words
from .pruned_models import METHOD, measure_speeds, place, table
from .records import NO_EFFECT
from .results import read_results
from .runner import LOCK, is_done
from .runs import Run
from .study_file import Method, Study
from .sweep import alone, checked_runs, do_runs, interruptible, print_commands, write_study
from .titles import BASE
from .training_options import annealed
from .unpruned_model import PRECISIONS, UnprunedModel
from .values import numbers

ASKED = "prune.json"
TABLE = "table.md"
SPEED = "speed.json"


class _Flat(argparse.Action):
    """Several words, each of one number or several."""

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        setattr(namespace, self.dest, [number for word in values for number in word])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of the command."""
    parser.usage = "fairseq-dsp prune CKPT DATA OUT --heads-to-keep K [K …] [options] [options of fairseq-train]"
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of the trained, unpruned model")
    parser.add_argument("data", metavar="DATA", help="its corpus, made by scripts/preprocess.sh or fairseq-preprocess")
    parser.add_argument(
        "out", metavar="OUT", type=Path, help="folder for the result: a new one, or that of an interrupted call"
    )
    parser.add_argument(
        "--heads-to-keep", metavar="K", type=numbers_of_heads, nargs="+", action=_Flat,
        help="how many heads to keep: 0 to all",
    )  # fmt: skip
    for name, kind in BUDGETS.items():
        parser.add_argument(f"--{name}", metavar="F", type=int, help=f"how many {kind.units} to keep: one number")
    for name, what in SHARES.items():
        meaning = f"which share of the {what} of all these to keep: what they are worth says how many of each"
        parser.add_argument(f"--{name}", metavar="SHARE", type=float, nargs="+", help=meaning)
    parser.add_argument(
        "--range", action="store_true", help="one training for every K from the least to the most that are given"
    )
    parser.add_argument(
        "--touch-up",
        metavar="U",
        type=int,
        help="with --range: train U updates more for each K that is given, with its heads alone, from the largest K "
        "down, each from the model of the one before (default: none)",
    )
    meaning = "distillation: CKPT translates the training text first, and these translations are learnt from too"
    parser.add_argument("--distill", action="store_true", help=meaning)
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="seed of the training (default: %(default)s)")
    parser.add_argument("--split", default="test", help="text to compare on (default: %(default)s)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands that are still to be run")
    preprocessed.add_arguments(parser)
    parser.set_defaults(more=[])


def run(args: argparse.Namespace) -> None:
    """Prune, and print the table.

    :raises UserError: if the model, the corpus, an option or OUT cannot be used, or a command failed.
    """
    out: Path = args.out
    data = preprocessed.read_data(args.data, args.split, preprocessed.given_by(args))
    data.check_trainable()
    data.check_split(args.split)
    model = UnprunedModel.read(args.checkpoint)
    data = preprocessed.for_model(data, model.state, args.split)
    try:
        given = read_words(args.more, "the command line", "this command")
        if "arch" in given:
            check_arch(str(given["arch"]), data)
        units = {name: vars(args)[kind.options["to_keep"]] for name, kind in BUDGETS.items()}
        given |= {name: number for name, number in units.items() if number is not None}
        budgets_given = {name: vars(args)[name.replace("-", "_")] for name in SHARES} | {"heads": args.heads_to_keep}
        shares = read_shares(budgets_given, "the command line")
        asked_heads = args.heads_to_keep or ([model.heads] if chooses_units(given) and not shares else [])
        numbers([args.seed], "--seed", int, 0, 2**31 - 1)
        heads = numbers(sorted(asked_heads, reverse=True), "--heads-to-keep", int, 0, model.heads)
    except ValueError as error:
        raise UserError(str(error)) from error
    _check(args, model, heads, shares, given)
    if args.distill:
        data.check_distillable()
    trainings: dict[str, Options] = {str(k): {"heads-to-keep": k} for k in heads}
    if args.range:
        ends: Options = {"heads-to-keep-low": min(heads), "heads-to-keep-high": max(heads)}
        trainings = {f"{min(heads)} to {max(heads)}": {"heads-to-keep": min(heads)} | ends}
    trainings |= {f"{name[0]}{share:.12g}": {name: share} for name, share in shares}
    model.check_data(data)
    asked = {
        "checkpoint": {"path": str(model.path), "sha256": sha256(model.path)},
        "data": data.key or str(data.folder.absolute()),
        "heads": list(heads), "seed": args.seed, "split": args.split, "given": given,
        "range": args.range, "distill": args.distill, "shares": [list(share) for share in shares],
        "touch-up": args.touch_up, "text": data.described,
    }  # fmt: skip
    options = _recorded(out, asked) or _options(model, data, trainings, given)
    kept = [f"{share:.12g} of the {SHARES[name]} of its units" for name, share in shares]
    kept += [f"{' and '.join(map(str, heads))} of its {model.heads} heads"] if heads else []
    study = Study(
        name="prune",
        description=f"A trained model, pruned to {' and '.join(kept)}.",
        data=data,
        recipe={},
        base={},
        seeds=(args.seed,),
        methods=tuple(_method(args, own, heads, options[name]) for name, own in trainings.items()),
        shape=model.shape,
        split=args.split,
        trained=model.path,
    )
    runs = checked_runs(study, out)
    if args.dry_run:
        print_commands(runs)
        return
    with alone(out, "pruning"), interruptible():
        write_json(out / ASKED, {**asked, "options": options})
        write_study(out, study, runs)
        _say_commands(runs)
        failures = do_runs(runs, out, study, _local(len(trainings)))
        if failures:
            raise UserError(
                f"{' and '.join(failures)} failed: fix the cause reported above, then run the same command again, "
                "which does only what is missing"
            )
        models = place(out, [run for run in runs if run.label == METHOD])
        length = min(LENGTH, model.longest)
        speeds = measure_speeds(out / SPEED, {BASE: model.path, **models}, length, cpu=study.on_cpu)
        text = table(read_results(out), speeds, length)
        write_text(out / TABLE, text)
    print(f"\n{text}")
    print("To translate again (the BLEU of the table is that of fairseq-dsp evaluate, not the BLEU4 printed there):")
    how = data.language_flags + position_flags(model.state)
    for path in models.values():
        print(f"  {translating(data.data_bin.absolute(), path.absolute(), how, data.summary['bpe'])}")


def _check(args: argparse.Namespace, model: UnprunedModel, heads: Sequence[int], shares: Any, given: Options) -> None:
    """Raise a `UserError` unless what is asked for goes together."""
    if not heads and not shares:
        raise UserError(
            f"no number of heads is given: give --heads-to-keep K, how many of the {model.heads} heads of {model.path} "
            "to keep, or --ffn-units-to-keep F, or --parameters-to-keep SHARE"
        )
    if args.range and shares:
        raise UserError(
            "--range is for numbers of heads, but a share of the cost is given, of which there is none: leave one out"
        )
    if own := [name for name in given if name.replace("-", "_") in HEADS.budgets.values()]:
        raise UserError(f"--{own[0]} is given, but this command has one budget for all heads: give --heads-to-keep K")
    if args.range and len(heads) < 2:
        raise UserError(
            "--range is one training for every K between two, but --heads-to-keep is "
            f"{heads[0] if args.heads_to_keep else 'not given'}: give the least and the most too, or leave --range out"
        )
    if args.touch_up is not None and not (args.range and args.touch_up > 0):
        raise UserError(
            f"--touch-up is {args.touch_up}{'' if args.range else ' without --range'}, but it is how many updates, 1 "
            "or more, each K of a range is trained on for: correct it, or leave it out"
        )
    if args.range and "uniform-heads" in given:
        raise UserError("--uniform-heads is given, but the modules of a range have different numbers: leave one out")
    if given.get("head-selection") == "fixed":
        raise UserError(
            "--head-selection fixed is given, but this command chooses the heads: leave it out; to train heads that "
            "you have, give them to fairseq-dsp compensate, and then to fairseq-train"
        )


def _method(args: argparse.Namespace, own: Options, heads: Sequence[int], options: Options) -> Method:
    """Return one training as a method of a study.

    :param own: the options of its budget.
    :param heads: all numbers of heads that are asked for, which a range has together.
    """
    more: dict[str, Any] = {"from_base": True, "distill": args.distill}
    if options.get("head-selection") == "fixed":
        more |= {"compensate": True, "recovery": options}
        return Method("michel", METHOD, (own["heads-to-keep"],), (args.seed,), pruning_recipe.SCORED_ONCE, **more)
    if args.range:
        more |= {"low": min(heads), "high": max(heads)}
        if args.touch_up:
            more["recovery"] = pruning_recipe.touch_up(options, args.touch_up)
    elif "heads-to-keep" in own:
        heads = (own["heads-to-keep"],)
    else:
        heads, more["shares"] = (), tuple(own.items())
    return Method("range" if args.range else "joint", METHOD, tuple(heads), (args.seed,), options, **more)


def _options(
    model: UnprunedModel, data: PreparedData, trainings: Mapping[str, Options], given: Options
) -> dict[str, Options]:
    """Return the options of each training, all of them in update numbers.

    :param trainings: the options of the budget of each.
    :raises UserError: if fairseq-train does not take what is given, or the model does not fit it.
    """
    import torch

    others = {"cpu", *PRECISIONS, "memory-efficient-fp16", "memory-efficient-bf16"}
    model.check_learning_rate(given)
    base = model.options(half=torch.cuda.is_available() and not given.keys() & others)
    if "max-epoch" in given and "max-update" not in given:
        raise UserError("--max-epoch is given, but the schedule counts updates: give --max-update instead")
    found: dict[str, Options] = {}
    try:
        for name, own in trainings.items():
            few = not pruning_recipe.keeps_many(data, base | given | own, model.shape)
            options = pruning_recipe.training(base, given | own, model.updates, few=few)
            updates = int(options["max-update"])
            if updates < 1:
                raise ValueError(f"--max-update is {updates}, but a number from 1 is expected")
            options = pruning_recipe.saving(options) | options
            once = pruning_recipe.scores_once(given | own, model.heads)
            if not once:
                options = annealed(options | pruning_recipe.schedule(options, model.shape))
            args = parse_options(data, options, "the command line")
            refuse_retired(PruningConfig.from_namespace(args), model.heads)
            found[name] = {option: value for option, value in options.items() if option not in own}
            found[name] |= {"head-selection": "fixed"} if once else {}
    except ValueError as error:
        raise UserError(str(error)) from error
    model.check_fits(args)
    return found


def _recorded(out: Path, asked: Mapping[str, Any]) -> dict[str, Options] | None:
    """Return the options of the trainings that OUT was begun with; None if it was not.

    :raises UserError: if it holds something else.
    """
    path = out / ASKED
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
        one, other = ({**part, "given": _effective(part["given"])} for part in (there, asked))
        # what an earlier version did not know was not asked for
        differing = [name for name in asked if (one.get(name) or None) != (other[name] or None)]
        if "checkpoint" in differing and there["checkpoint"]["sha256"] == asked["checkpoint"]["sha256"]:
            differing.remove("checkpoint")  # moved
        options: dict[str, Options] = there["options"]
    except FileNotFoundError:
        if out.is_dir() and not holds_nothing(out, LOCK):
            raise UserError(f"{out} is not empty, and this command did not make it: give another folder") from None
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give another folder for the result") from error
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path} is not what this command wrote: give another folder for the result") from error
    if differing:
        changes = "; ".join(
            "other data" if n == "data" else f"{n} {_brief(there.get(n))}, now {_brief(asked[n])}" for n in differing
        )
        raise UserError(f"{out} holds the result of another call ({changes}): give another folder, or remove that one")
    free = {name: value for name, value in asked["given"].items() if name not in other["given"]}
    gone = there["given"].keys() - one["given"].keys() - free.keys()  # what is left out now has its default again
    kept = {k: {name: own[name] for name in own if name not in gone} for k, own in options.items()}
    return {k: pruning_recipe.saving(own) | own | free for k, own in kept.items()}


def _effective(given: Options) -> Options:
    """What is given without the options that cannot change the result, such as the number of workers."""
    return {name: value for name, value in given.items() if name.replace("-", "_") not in NO_EFFECT}


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        value = {name: content[:8] if name == "sha256" else content for name, content in value.items()}
    return json.dumps(value, ensure_ascii=False)


def _say_commands(runs: Sequence[Run]) -> None:
    """Say how the models that are not finished are trained: what this command is short for."""
    for one in runs:
        commands = [shlex.join(step.command) for step in one.steps if step.name not in ("compact", "evaluate")]
        if commands and not is_done(one):
            print(f"{one.name}:", *commands, sep="\n  ", file=sys.stderr)


def _local(models: int) -> Local:
    """As many trainings at a time as a sweep has, with the threads that the environment says, if it does."""
    default = Local.of(None, None, None)
    threads = os.environ.get("OMP_NUM_THREADS", "")
    return Local.of(min(models, default.jobs), (int(threads) or None) if threads.isdecimal() else None, None)
