"""What is wrong with a training, told when it begins: units that are fixed too late, or too early, or whose attention a
loss reads though they may be gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import chain
from typing import Any

import torch
from fairseq.trainer import Trainer

from ..errors import UserError
from ..model import PrunableModel, modules_of
from ..model.gates import FIXED
from ..model.pruning_options import ABOUT_HEADS, PruningConfig, flag
from ..wrapping import wrap

logger = logging.getLogger(__name__)


def install() -> None:
    """Have fairseq's trainer tell when a training begins; a second call changes nothing."""
    if not hasattr(Trainer.begin_epoch, "__wrapped__"):
        wrap(Trainer, "begin_epoch", _telling)


def _telling(stock: Callable[..., None], self: Any, epoch: int) -> None:
    stock(self, epoch)
    if not hasattr(self, "schedule_is_checked"):
        self.schedule_is_checked = True
        model = self.get_model()
        if isinstance(model, PrunableModel):
            _refuse_blocks(model)
            if getattr(self.cfg.task, "load_alignments", False):
                _refuse_alignments(model)
        for pruner in getattr(model, "pruners", {}).values():
            if not self.get_num_updates():  # what has begun goes on
                _refuse_early(pruner)
            for text in _too_late(pruner, self.cfg.optimization.max_update):
                logger.warning(text)


def _refuse_early(pruner: Any) -> None:
    """Raise a `UserError` if units are fixed before their budget is, or before anything is known of them, or chosen
    though they are given."""
    plan, config = pruner.plan, pruner.plan.config
    for name in ABOUT_HEADS if config.kept_heads else ():
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
    cooldown, shrinking = config.cooldown_updates, plan.kind.option(config, "updates")
    if not plan.learns or plan.selection.decides(cooldown):
        return
    if shrinking and shrinking > cooldown:
        raise UserError(
            f"{flag(plan.kind.options['updates'])} is {shrinking}, but with --cooldown-updates {cooldown} the "
            f"{plan.kind.units} are fixed before that: lower the first, or raise the second"
        )
    if not cooldown and len(pruner.importance.detach().unique()) == 1:
        raise UserError(
            f"--cooldown-updates is 0, so the {plan.kind.units} are fixed before anything says which are worth more: "
            "give about 30% of the updates"
        )


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


def _refuse_alignments(model: PrunableModel) -> None:
    """Raise a `UserError` if all heads that alignments are read from may go: those of the last attention."""
    pruner, kept = model.pruner, model.kept_heads
    if kept is not None:
        least = len(kept.layers[-1][-1])
    elif pruner is None or not pruner.plan.prunes:
        return
    else:
        config, last = pruner.plan.config, pruner.modules[-1].units
        exact = config.kept_heads is not None or config.uniform_heads  # whatever the importance
        importance = torch.zeros_like(pruner.importance)
        least = int(pruner.plan.keep(importance)[-last:].sum()) if exact else config.min_heads_per_module
    if not least:
        raise UserError(
            "--load-alignments trains the attention of the decoder's last layer to the source, but with these options "
            "all its heads may be removed: give --min-heads-per-module 1 or, where the heads are given, a set that has "
            "one there"
        )


def _too_late(pruner: Any, end: int) -> Iterator[str]:
    """Say if ``--max-update`` leaves no time to fix the units."""
    plan, config = pruner.plan, pruner.plan.config
    warm_up = config.pruning_warmup_updates
    fixed = warm_up + config.cooldown_updates
    if 0 < end < fixed and plan.phase(end) != FIXED == plan.phase(fixed) and not config.freeze_weights:
        advice = f"give --cooldown-updates {max(1, (end - warm_up) * 3 // 10)}, about 30% of the updates with pruning"
        yield (
            f"--max-update {end} ends this training before update {fixed}, from which on the {plan.kind.units} are "
            f"fixed: the weights never train with those that stay alone; "
            f"{advice if end > warm_up else f'lower --pruning-warmup-updates {warm_up}'}"
        )
