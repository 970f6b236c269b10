"""What is wrong with the schedule of a training, told when it begins: units that are fixed too late, or too early."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

from fairseq.trainer import Trainer

from ..errors import UserError
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
        for pruner in getattr(self.get_model(), "pruners", {}).values():
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
