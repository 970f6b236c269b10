"""What would go wrong after hours of training, found before the first training starts."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..errors import UserError
from ..evaluation.beam_search import without_chatter
from ..evaluation.prepared import PreparedData
from ..importance import compensate, score_heads
from ..model import PruningConfig
from ..model.cost_budget import plans_of
from ..model.kinds import flag
from ..model.retired import refuse_retired
from ..model.schedules import check_order, ended_early, fixed_at_once
from ..model.units import shape_by
from ..validation_metrics import HIGHEST_IS_BEST, LOWEST_IS_BEST, why_not_computed
from .options import parse_options, parse_training, parse_words
from .records import with_records
from .runner import is_done, missing_steps
from .runs import Run
from .steps import Step
from .study_file import Study

_OF_THIS_RUN = {"--seed": "0"} | dict.fromkeys(("--save-dir", "--finetune-from-model", "--kept-heads"), "PATH")
"""Options of a training with values that differ between runs of the same method → what stands for them."""

_OF_THE_MACHINE = ("distributed_world_size", "distributed_num_procs", "nprocs_per_node")
"""Options whose default is the number of this machine's GPUs."""

_READING: dict[str, Any] = {"score-heads": score_heads, "compensate": compensate}
"""Commands that put sentences through a model, by the names of their steps."""

_NOT_RECORDED = {"checkpoint", "data", "out", "scores", "kept_heads", "max_tokens", "cpu"}
"""Arguments of these that say where, not what."""

_ENDING = {"max_epoch": 0, "stop_time_hours": 0, "stop_min_lr": -1, "patience": -1}
"""What may end a training before ``max-update`` → the value with which it does not."""


def check_runs(study: Study, runs: Sequence[Run]) -> list[Run]:
    """Return the runs with their records, after everything has been tried that can be without training.

    :param runs: those first that others need; what is finished of them is not tried.
    :raises UserError: if a command would not be taken, a training would leave no checkpoint for what comes after it, or
        a text to train, validate or score on is not there.
    """
    parsed: dict[tuple[str, ...], Namespace] = {}
    checked: set[tuple[str, ...]] = set()
    reading: dict[str, Namespace] = {}
    texts = _Texts(study.data)
    resolved: dict[str, dict[str, dict[str, Any]]] = {run.name: {} for run in runs}
    try:
        for run in runs:
            missing = () if is_done(run) else missing_steps(run)
            for step in run.steps:
                where = f"{run.label}, {step.name}"
                if step.checkpoints:
                    words = _words(step, study)
                    if words not in parsed:
                        parsed[words] = parse_training(words, where)
                    if step in missing and words not in checked:
                        checked.add(words)
                        _check_training(parsed[words], where, study.checkpoint, "--finetune-from-model" in words, texts)
                    resolved[run.name][step.name] = _recorded(parsed[words], words) | {"seed": run.seed}
                elif step.name in _READING:
                    args = _parse_reading(step, where)
                    resolved[run.name][step.name] = {k: v for k, v in vars(args).items() if k not in _NOT_RECORDED}
                    if step in missing:
                        reading[where] = args
        if reading or any(run.scored and not is_done(run) for run in runs):
            one = next(iter(parsed.values()), None)  # all trainings have the task and the corpus of the study
            texts.check(one or parse_options(study.data, study.recipe | study.base, "recipe"), study.split, reading)
        for where, args in reading.items():
            _check_floors(args, where, study.shape)
    except ValueError as error:
        raise UserError(f"the study {study.name}: {error}") from error
    return with_records(runs, resolved)


def _words(step: Step, study: Study) -> tuple[str, ...]:
    """A training's command line, as it is the same for all seeds and folders."""
    words = [study.data.training_data, *step.command[4:]]  # or a corpus that is made of it
    for option, value in _OF_THIS_RUN.items():
        if option in words:
            words[words.index(option) + 1] = value
    place = words.index("--user-dir")  # this package, which is imported
    return tuple(words[:place] + words[place + 2 :])


def _recorded(args: Namespace, words: Sequence[str]) -> dict[str, Any]:
    """What a record has of a training's options: all but what each machine has its own default for."""
    own = {name for name in _OF_THE_MACHINE if flag(name) not in words}
    return {name: value for name, value in vars(args).items() if name not in own}


def _check_training(args: Namespace, where: str, checkpoint: str, starts: bool, texts: _Texts) -> None:
    """Raise a ``ValueError`` for a training that would fail at its start, or end without its checkpoint."""
    for reason in _why_no_checkpoint(args, checkpoint, starts=starts):
        raise ValueError(f"{where}: {reason}")
    pruning = PruningConfig.from_namespace(args)
    try:
        refuse_retired(pruning, sum(map(sum, shape_by(args).values())))
        plans = plans_of(pruning, args) if pruning.kept_heads is None else []  # or they are another step's
        for plan in plans:
            check_order(plan)
            if told := fixed_at_once(plan):  # no run starts from a model with importances
                raise ValueError(told)
            if early := ended_early(plan, f"--max-update {args.max_update}", args.max_update):
                print(f"{where}: {early}", file=sys.stderr)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    ending = [name for name, never in _ENDING.items() if getattr(args, name) != never]
    if ending and any(plan.learns for plan in plans):
        raise ValueError(
            f"{where}: {ending[0].replace('_', '-')} may end the training before the {args.max_update} updates that "
            "its schedule counts on, without its final heads: leave it out"
        )
    texts.check_trained_on(args, where)


def _why_no_checkpoint(args: Namespace, checkpoint: str, *, starts: bool) -> Iterator[str]:
    """Say why a training would end without its checkpoint, ``best`` or ``last``, or with a wrong one.

    :param starts: whether it starts from another model.
    """
    needed = f"checkpoint_{checkpoint}.pt is needed: leave it out"
    validates = not args.disable_validation
    if args.no_save:
        yield f"with no-save it keeps no checkpoint, but {needed}"
    if args.checkpoint_suffix:
        yield f"checkpoint-suffix {args.checkpoint_suffix} changes the names of checkpoints, but {needed}"
    if args.write_checkpoints_asynchronously:
        if importlib.util.find_spec("iopath") is None:
            yield "write-checkpoints-asynchronously takes the package iopath, without which fairseq trains nothing"
        if checkpoint == "last" and validates:  # only the first file of a save is written, the best if it is one
            yield f"with write-checkpoints-asynchronously the last checkpoint may be an earlier one, but {needed}"
    if checkpoint == "last" and args.no_last_checkpoints:
        yield f"no-last-checkpoints is given, but {needed} (a study may give checkpoint: best)"
    if checkpoint == "best" and not validates:
        yield (
            f"disable-validation is given, so that no checkpoint is the best, but {needed} (a study may give "
            "checkpoint: last)"
        )
    if checkpoint == "best" and validates and args.validate_after_updates > args.max_update > 0:
        yield (
            f"validate-after-updates is {args.validate_after_updates}, after the {args.max_update} updates of "
            f"max-update, so that no checkpoint is the best, but {needed} (a study may give checkpoint: last)"
        )
    for name in ("reset-optimizer", "reset-lr-scheduler", "reset-meters", "reset-dataloader") if starts else ():
        if getattr(args, name.replace("-", "_")):
            yield (
                f"{name} is given, which fairseq does not take for a training that starts from another model, and does "
                "there by itself: leave it out"
            )
    if validates:
        yield from _why_no_metric(args, checkpoint)


def _why_no_metric(args: Namespace, checkpoint: str) -> Iterator[str]:
    """Say why the metric that chooses the best checkpoint would be missing, or choose the worst."""
    metric, highest = args.best_checkpoint_metric, args.maximize_best_checkpoint_metric
    reason = why_not_computed(metric, args.task, args.criterion, lambda option: getattr(args, option, None))
    if reason:
        yield reason
    if checkpoint == "best" and metric in HIGHEST_IS_BEST and not highest:
        yield f"the highest {metric} is the best, but maximize-best-checkpoint-metric is not given: give that too"
    if checkpoint == "best" and metric in LOWEST_IS_BEST and highest:
        yield f"the lowest {metric} is the best, but maximize-best-checkpoint-metric is given: leave it out"


def _parse_reading(step: Step, where: str) -> Namespace:
    """Parse the options of a command that puts sentences through a model."""
    parser = argparse.ArgumentParser()
    _READING[step.name].add_arguments(parser)
    try:
        args = parse_words(parser, step.command[4:])
        _READING[step.name].check_arguments(args)
    except ValueError as error:
        raise ValueError(f"{step.name} does not take the options of {where}: {error}") from error
    return args


def _check_floors(args: Namespace, where: str, shape: Mapping[str, Sequence[int]]) -> None:
    """Raise a ``ValueError`` if the heads of all modules' floors are more than are to be kept.

    :param shape: of the model whose heads are scored.
    """
    least = getattr(args, "min_heads_per_module", 0)
    floors = sum(min(least, heads) for layers in shape.values() for heads in layers)
    if floors and floors > args.heads_to_keep:
        raise ValueError(
            f"{where}: min-heads-per-module {least} keeps {floors} heads, but only {args.heads_to_keep} are to be "
            "kept: lower it, or give other heads"
        )


class _Texts:
    """The binarised texts of a corpus as fairseq loads them, each once."""

    def __init__(self, data: PreparedData) -> None:
        self.data = data
        self._loaded: dict[tuple[str, str, bool], Any] = {}

    def load(self, args: Namespace, split: str, where: str, *, combine: bool = False) -> Any:
        """Return a text as a dataset.

        :param where: what names the split, for the message.
        :raises ValueError: if it is not there, or empty.
        """
        from fairseq import tasks

        key = args.task, split, combine
        if key not in self._loaded:
            try:
                with without_chatter():
                    task = tasks.setup_task(args)
                    task.load_dataset(split, combine=combine, epoch=1)
            except (FileNotFoundError, ValueError, AssertionError) as error:
                # an empty file cannot be mapped into memory; sides of different lengths are asserted to be alike
                raise ValueError(
                    f"{where} is {split}, but fairseq cannot load such a text from {self.data.data_bin} ({error}): "
                    "give one that was prepared"
                ) from error
            self._loaded[key] = task.dataset(split)
        return self._loaded[key]

    def check_trained_on(self, args: Namespace, where: str) -> None:
        """Raise a ``ValueError`` unless what a training reads is there."""
        from fairseq.data import data_utils

        self.load(args, args.train_subset, f"train-subset of {where}", combine=True)
        if args.disable_validation:
            return
        try:
            data_utils.raise_if_valid_subsets_unintentionally_ignored(Namespace(dataset=args, task=args))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        for split in ("valid",) if args.combine_valid_subsets else args.valid_subset.split(","):
            self.load(args, split, f"valid-subset of {where}", combine=bool(args.combine_valid_subsets))

    def check(self, args: Namespace, split: str, reading: Mapping[str, Namespace]) -> None:
        """Raise a ``ValueError`` unless what is put through models without training is there.

        :param args: options of a training on the corpus.
        :param split: the text to translate and score.
        :param reading: by what names them in the message, arguments of commands that read a split.
        """
        for where, own in reading.items():
            self.load(args, own.split, f"split of {where}")
        sentences = sum(len(self.load(args, part, "split of evaluate")) for part in self.data.parts(split))
        for references in (self.data.references(split), self.data.tokenised_references(split)):
            if references is not None and len(references) != sentences:
                raise ValueError(
                    f"{self.data.data_bin} has {sentences} sentences of {split}, but there are {len(references)} "
                    "references: run scripts/preprocess.sh again"
                )
