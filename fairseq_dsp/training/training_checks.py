"""What is wrong with a training, told when it begins: units that are fixed too late, or too early, or whose attention a
loss reads though they may be gone; a metric that nothing computes."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from itertools import chain
from typing import Any

from fairseq import checkpoint_utils
from fairseq.trainer import Trainer

from ..errors import UserError, find_in_chain
from ..model import HEADS, PrunableModel, modules_of
from ..model.flat_options import config_of
from ..model.gates import FIXED
from ..model.kinds import KINDS, flag
from ..model.labels import check_splits, labels_of, predicts_labels
from ..model.pruning_options import WHICH_STAY, PruningConfig
from ..model.retired import RETIRED, refuse_retired, with_effect
from ..model.schedules import check_order, end_of_choice, ended_early, fixed_at_once
from ..validation_metrics import OF_CLASSES, OF_NUMBERS, why_not_computed
from ..wrapping import wrap

logger = logging.getLogger(__name__)

_TEMPERATURES = ("initial_temperature", "final_temperature")


def install() -> None:
    """Have fairseq's trainer tell when a training begins or goes on."""
    wrap(Trainer, "get_train_iterator", _counting)
    wrap(Trainer, "load_checkpoint", _comparing)
    wrap(Trainer, "begin_epoch", _telling)


def _counting(stock: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    batches = stock(self, *args, **kwargs)
    self.batches_of_epoch = len(batches)
    return batches


def _comparing(
    stock: Callable[..., Any], self: Any, filename: str, reset_optimizer: bool = False, *args: Any, **kwargs: Any
) -> Any:
    """Raise a `UserError` if a training goes on with another number of units, or others, than it began with."""
    try:
        state = stock(self, filename, reset_optimizer, *args, **kwargs)
    except Exception as error:
        if found := _other_training(error, filename):
            raise UserError(f"{filename} does not fit this training ({found[0]}): give {found[1]}") from error
        raise
    model = self.get_model()
    if state is None or reset_optimizer or not isinstance(model, PrunableModel) or not os.path.isfile(filename):
        return state
    there = checkpoint_utils.load_checkpoint_to_cpu(filename)
    before = config_of(there)
    one, other = (PruningConfig.from_namespace(options) for options in (before, model.args))
    for name in with_effect(one, model.pruner.plan.units if model.pruner else 0):
        logger.warning("%s was %s in this training so far, and is an option no more", flag(name), getattr(one, name))
    for name in _names():
        was, now = getattr(one, name), getattr(other, name)
        if was == now:
            continue
        if name in WHICH_STAY:
            raise UserError(
                f"{flag(name)} is {now}, but this training began with {was} ({filename}): give that to go on, or "
                f"another --save-dir and --finetune-from-model {filename}"
            )
        logger.warning("%s was %s in this training so far, and is %s from here on", flag(name), was, now)
    for kind, pruner in model.pruners.items():
        phase, updates = there["model"].get(f"{kind}.phase"), self.get_num_updates()
        if phase is not None and int(phase) == FIXED != pruner.plan.phase(updates):
            raise UserError(
                f"the {pruner.plan.kind.units} are fixed since before update {updates} ({filename}), but with these "
                "options they would be chosen again: give the schedule with which it began, or another --save-dir and "
                f"--finetune-from-model {filename}"
            )
    return state


def _other_training(error: Exception, filename: str) -> tuple[str, str] | None:
    """What differs between a checkpoint and a training, if fairseq could not load it for that, and what to give."""
    if isinstance(error, AssertionError) and (found := re.search(r"(\w+) does not match", str(error))):
        instead = f"another --save-dir and --finetune-from-model {filename}"
        return f"another {found[1].lower()}", f"the one that it was trained with, or {instead}"
    mismatch = find_in_chain(error, RuntimeError)
    if find_in_chain(error, UserError) or mismatch is None or "loading state_dict" not in str(mismatch):
        return None
    lines = [line.strip().rstrip(".") for line in str(mismatch).splitlines()[1:]]
    first = next((line for line in lines if line.startswith("size mismatch")), lines[0])
    return first, "the architecture and the sizes that it was trained with"


def _telling(stock: Callable[..., None], self: Any, epoch: int) -> None:
    if not hasattr(self, "schedule_is_checked"):
        self.schedule_is_checked = True
        _refuse_metric(self.cfg, self.task)
        check_splits(self.task)
        model = self.get_model()
        if isinstance(model, PrunableModel):
            _refuse_retired(model)
            _tell_ignored(model)
            _refuse_blocks(model)
            _refuse_quantisation(model, self.cfg.common)
            if getattr(self.cfg.task, "load_alignments", False):
                _refuse_alignments(model)
        for pruner in getattr(model, "pruners", {}).values():
            if not self.get_num_updates():  # what has begun goes on
                _refuse_early(pruner)
                _tell_opened(pruner)
            for text in _too_late(pruner, self.cfg, self.batches_of_epoch, self.get_num_updates()):
                logger.warning(text)
    stock(self, epoch)


def _refuse_metric(cfg: Any, in_use: Any) -> None:
    """Raise a `UserError` for a metric that validation does not compute, or cannot with such labels.

    :param in_use: fairseq's task.
    """
    if cfg.dataset.disable_validation:
        return
    parts = cfg.task, cfg.criterion, cfg.optimization

    def given(option: str) -> bool | None:
        return next((value for part in parts if (value := getattr(part, option, None)) is not None), None)

    # fairseq reads labels as whole numbers for its reports
    labels = labels_of(in_use.label_dictionary) if predicts_labels(in_use) else []
    word = next((label for label in labels if not label.removeprefix("-").isdecimal()), None)
    for option in sorted({*OF_CLASSES.values(), *OF_NUMBERS.values()}):
        if given(option) and word is not None:
            raise UserError(
                f"{flag(option)} is computed from labels that are whole numbers, but the data have {word}: leave it "
                "out, and choose a checkpoint by accuracy or loss"
            )
        if given(option) and given("regression_target") and option not in OF_NUMBERS.values():
            raise UserError(
                f"{flag(option)} is computed from labels, but --regression-target has numbers: give "
                f"{flag(OF_NUMBERS['pearson'])}, or leave it out"
            )
    task, criterion = (str(getattr(part, "_name", "")) for part in parts[:2])
    metric = cfg.checkpoint.best_checkpoint_metric
    if reason := why_not_computed(metric, task, criterion, given, words=word is not None):
        raise UserError(reason)


def _refuse_retired(model: PrunableModel) -> None:
    """Raise a `UserError` for an option that is no more, which a hydra config may hold."""
    try:
        heads = model.pruner.plan.units if model.pruner else 0
        refuse_retired(PruningConfig.from_namespace(model.args), heads)
    except ValueError as error:
        raise UserError(str(error)) from error


def _tell_ignored(model: PrunableModel) -> None:
    """Warn of options about a choice that nothing, or another kind of units, or a selection without it, makes."""
    config, default = PruningConfig.from_namespace(model.args), PruningConfig()

    def given(names: Iterable[str]) -> str:
        return ", ".join(flag(name) for name in names if getattr(config, name) != getattr(default, name))

    if config.compact:
        return
    plans = [pruner.plan for pruner in model.pruners.values()]
    pruned = [plan for plan in plans if plan.prunes]
    if not pruned:
        if not config.has_budget and (ignored := given(_names())):
            budgets = " or ".join(flag(kind.options["to_keep"]) for kind in KINDS.values())
            logger.warning("without %s nothing is pruned, so these options change nothing: %s", budgets, ignored)
        return
    about_pruned = {name for plan in pruned for name in plan.kind.choice}
    about_budgets = {name for plan in plans if plan.kind.has_budget(config) for name in plan.kind.choice}
    for plan in plans:
        units, budget = plan.kind.units, flag(plan.kind.options["to_keep"])
        own = given(name for name in plan.kind.choice if name not in about_pruned)
        if own and not plan.prunes and not plan.kind.has_budget(config):
            logger.warning("without %s no %s are pruned, so these options change nothing: %s", budget, units, own)
        # a penalty decides by itself how many stay
        own = given(name for name in plan.kind.choice if name not in about_budgets)
        if own and plan.penalised and not plan.kind.has_budget(config):
            logger.warning("without %s a penalty keeps to no number, so these change nothing: %s", budget, own)
        if plan.prunes and plan.learns and not plan.selection.annealed and (own := given(_TEMPERATURES)):
            logger.warning(
                "--head-selection %s is not annealed, so these change nothing: %s", config.head_selection, own
            )


def _names() -> Iterator[str]:
    """Yield the names of all options of pruning that a training takes."""
    return (f.name for f in fields(PruningConfig) if not f.name.startswith("_") and f.name not in RETIRED)


def _tell_opened(pruner: Any) -> None:
    """Warn if units that were removed in the model to start from are there again."""
    kept, phase, plan = int((pruner.choice.kept > 0).sum()), int(pruner.choice.phase), pruner.plan
    if kept < plan.units and plan.phase(0) != FIXED and (phase == FIXED or not plan.prunes):
        logger.warning(
            "the model to start from keeps %d of %d %s, but in this training all of them are there again: to keep "
            "these, give --head-selection fixed --kept-heads FILE, which fairseq-dsp heads --format json writes",
            kept, plan.units, plan.kind.units,
        )  # fmt: skip


def _refuse_early(pruner: Any) -> None:
    """Raise a `UserError` if units are fixed before their budget is, or before anything is known of them, or chosen
    though they are given."""
    plan, config = pruner.plan, pruner.plan.config
    for name in HEADS.choice if config.kept_heads else ():
        if (value := getattr(config, name)) != getattr(PruningConfig, name):
            raise UserError(
                f"{flag(name)} {value} is about choosing heads, but --kept-heads gives them: leave one of them out"
            )
    total = getattr(config, plan.kind.options["to_keep"])
    if plan.given is not None and total not in (None, given := int(plan.given.sum())):
        raise UserError(
            f"{flag(plan.kind.options['to_keep'])} is {total}, but --kept-heads gives {given} {plan.kind.units}: leave "
            "one of them out"
        )
    try:
        check_order(plan)
    except ValueError as error:
        raise UserError(str(error)) from error
    if (reason := fixed_at_once(plan)) and len(pruner.importance.detach().unique()) == 1:
        raise UserError(reason)


def _refuse_blocks(model: PrunableModel) -> None:
    """Raise a `UserError` if quantisation noise cannot cut what is left of a matrix into blocks."""
    noise, block = (getattr(model.args, f"quant_noise_pq{end}", 0) for end in ("", "_block_size"))
    for units in model.kept_heads.all if noise and model.kept_heads else ():
        layers = chain.from_iterable(units.layers)
        for module, kept in zip(modules_of(model, units.kind, model.args), layers, strict=True):
            if columns := len(kept) * module.width % block:
                raise UserError(
                    f"--quant-noise-pq-block-size is {block}, but {module.name} keeps {len(kept)} of its "
                    f"{units.kind.units}, each of {module.width} columns, which leaves {columns}: give a size that "
                    f"divides {module.width}"
                )


def _refuse_quantisation(model: PrunableModel, common: Any) -> None:
    """Raise a `UserError` if layers may be replaced by quantised ones, which have no gates, where units are pruned."""
    if common.quantization_config_path and any(pruner.plan.prunes for pruner in model.pruners.values()):
        raise UserError(
            f"--quantization-config-path {common.quantization_config_path} is not supported in a training that prunes, "
            "since quantised layers have no gates: leave it out, or the options of pruning"
        )


def _refuse_alignments(model: PrunableModel) -> None:
    """Raise a `UserError` if there are no heads that alignments are read from, or all of them may go."""
    left, pruner = model.kept().alignment_heads, model.pruner
    if left is None:
        raise UserError(
            "--load-alignments trains the decoder's attention to the source, but this model has no cross-attention: "
            "leave it out"
        )
    if pruner is not None and pruner.plan.prunes:
        config = pruner.plan.config
        exact = config.kept_heads is not None or config.uniform_heads  # whatever the importance
        left = left if exact else config.min_heads_per_module
    if not left:
        raise UserError(
            "--load-alignments trains the attention of the decoder's last layer to the source, but with these options "
            "all its heads may be removed: give --min-heads-per-module 1 or, where the heads are given, a set that has "
            "one there"
        )


def _too_late(pruner: Any, cfg: Any, batches: int, updates: int) -> Iterator[str]:
    """Say if a training ends, or may end, before its units are chosen.

    :param batches: of an epoch.
    :param updates: made so far.
    """
    chosen = end_of_choice(pruner.plan)
    if chosen is None:
        return
    an_epoch = math.ceil(batches / cfg.optimization.update_freq[-1])
    ends = {
        f"--max-update {cfg.optimization.max_update}": cfg.optimization.max_update,
        f"--max-epoch {cfg.optimization.max_epoch}": cfg.optimization.max_epoch * an_epoch,
    }
    if given := [(end, name) for name, end in ends.items() if end > 0]:
        end, name = min(given)
        if text := ended_early(pruner.plan, name, end):
            yield text
    for name, value in (
        ("--patience", cfg.checkpoint.patience),
        ("--stop-time-hours", cfg.optimization.stop_time_hours),
    ):
        if value > 0 and updates < chosen[0]:
            yield f"{name} {value:g} may end this training before update {chosen[0]}, {chosen[1]}"
