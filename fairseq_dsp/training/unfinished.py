"""A warning of a training that ends before its heads are fixed."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any

from fairseq.trainer import Trainer

from ..model.gates import FIXED

logger = logging.getLogger(__name__)


def install() -> None:
    """Have fairseq's trainer warn when a training begins; a second call changes nothing."""
    if not hasattr(Trainer.begin_epoch, "__wrapped__"):
        Trainer.begin_epoch = _warning(Trainer.begin_epoch)


def _warning(stock: Callable[..., None]) -> Callable[..., None]:
    @wraps(stock)
    def begin_epoch(self: Any, epoch: int) -> None:
        stock(self, epoch)
        if not hasattr(self, "warned_of_unfixed_units"):
            self.warned_of_unfixed_units = True
            for text in _unfixed(self):
                logger.warning(text)

    return begin_epoch


def _unfixed(trainer: Any) -> Iterator[str]:
    """What to say of each kind of units that ``--max-update`` leaves no time to fix."""
    end = trainer.cfg.optimization.max_update
    for pruner in getattr(trainer.get_model(), "pruners", {}).values():
        plan, config = pruner.plan, pruner.plan.config
        fixed = config.pruning_warmup_updates + config.cooldown_updates
        if 0 < end < fixed and plan.phase(end) != FIXED == plan.phase(fixed) and not config.freeze_weights:
            yield (
                f"--max-update {end} ends this training before update {fixed}, from which on the {plan.kind.units} are "
                f"fixed: the weights never train with those that stay alone; give --cooldown-updates {end * 3 // 10}, "
                "about 30% of the updates"
            )
