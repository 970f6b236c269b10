"""Trainings that are called again.

Broken: ve-fairseq 0.12.3 counts in memory only how often the validation has not improved, so that ``--patience`` and
``--lr-patience`` count from 0 whenever a training is resumed, and so do half precision the updates until it raises the
scale of the loss, and ``--ema-update-freq`` those until it averages again. A training that had come to its end, by
patience, ``--max-update`` or ``--stop-time-hours``, trains on each time it is called, an update at least. And a second
training in one process takes over the count and the best score of the first.

Fix: checkpoints hold these counts, but for that of the average, which follows from the number of updates; a training
that is at its end says so and trains no more; and each training starts with a count and a best score of its own. Can go
when fairseq does so.
"""

from __future__ import annotations

import functools
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from fairseq import checkpoint_utils
from fairseq.models.ema.ema import EMA
from fairseq.optim import fp16_optimizer
from fairseq.optim.lr_scheduler.reduce_lr_on_plateau import ReduceLROnPlateauLRSchedule
from fairseq.trainer import Trainer

from fairseq_dsp.wrapping import wrap

logger = logging.getLogger(__name__)

KEY = "early_stopping"
"""Where the extra state of a checkpoint holds the count of ``--patience``."""

COUNTS = "counts"
"""Where the states of optimiser and scheduler hold theirs."""


def apply() -> None:
    """Wrap what saves and loads; of ``fairseq-train`` itself, which may not be imported yet, a part when it loads."""
    wrap(Trainer, "save_checkpoint", _saving_count)
    wrap(Trainer, "load_checkpoint", _restoring_count)
    wrap(checkpoint_utils, "load_checkpoint", _starting_anew)
    _keep(ReduceLROnPlateauLRSchedule, "lr_scheduler", ("num_bad_epochs", "cooldown_counter"))
    for optimizer in (fp16_optimizer._FP16OptimizerMixin, fp16_optimizer._MemoryEfficientFP16OptimizerMixin):
        counters = ("_iter", "_last_overflow_iter", "_last_rescale_iter", "_overflows_since_rescale")
        _keep(optimizer, "scaler", counters)
    wrap(EMA, "step", _counting_updates)


def _keep(kind: Any, part: str, counters: Sequence[str]) -> None:
    """Have the state of a kind of object hold the counters of a part of it, if it has that part."""

    def state_dict(stock: Callable[..., dict[str, Any]], self: Any) -> dict[str, Any]:
        counting = getattr(self, part)
        own = {} if counting is None else {COUNTS: {name: getattr(counting, name) for name in counters}}
        return {**stock(self), **own}

    def load_state_dict(stock: Callable[..., Any], self: Any, state: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        stock(self, state, *args, **kwargs)
        counts = state.get(COUNTS, {}) if getattr(self, part) is not None else {}
        for name in set(counters) & set(counts):
            setattr(getattr(self, part), name, counts[name])

    wrap(kind, "state_dict", state_dict)
    wrap(kind, "load_state_dict", load_state_dict)


def _counting_updates(stock: Callable[..., None], self: EMA, model: Any, updates: int | None = None) -> None:
    if updates is not None:  # the update that has just been made, from 1
        self.update_freq_counter = (updates - 1) % self.config.ema_update_freq
    stock(self, model, updates)


def _command() -> dict[str, Any]:
    """The names in the module of ``fairseq-train``, or none in somebody's own program.

    ``python -m fairseq_cli.train`` runs the module under another name.
    """
    program = sys.modules["__main__"]
    by_python = getattr(getattr(program, "__spec__", None), "name", None) == "fairseq_cli.train"
    module: Any = program if by_python else sys.modules.get("fairseq_cli.train")
    return {} if module is None else module.main.__globals__


def _count() -> dict[str, Any]:
    """What early stopping remembers: the ``best`` score and in ``num_runs`` the validations since; may be changed."""
    command = _command()
    return vars(command["should_stop_early"]) if command else {}


def _saving_count(stock: Callable[..., Any], self: Any, filename: str, extra_state: dict[str, Any]) -> Any:
    return stock(self, filename, {**extra_state, KEY: dict(_count())})


def _restoring_count(
    stock: Callable[..., Any],
    self: Any,
    filename: str,
    reset_optimizer: bool = False,
    reset_lr_scheduler: bool = False,
    optimizer_overrides: Any = None,
    reset_meters: bool = False,
) -> Any:
    state = stock(self, filename, reset_optimizer, reset_lr_scheduler, optimizer_overrides, reset_meters)
    if state is not None and reset_optimizer and reset_meters:
        self._previous_training_time = 0  # that of another training
    if state is None or reset_optimizer:
        return state
    if not reset_meters:  # as for the best score
        _count().update(state.get(KEY, {}))
    scheduler, score = self.lr_scheduler, state.get("val_loss")
    at_end_of_epoch = state["train_iterator"].get("iterations_in_epoch") == 0
    if isinstance(scheduler, ReduceLROnPlateauLRSchedule) and at_end_of_epoch and not reset_lr_scheduler:
        # it was saved before the scheduler got the score of that epoch
        scheduler.step(state["train_iterator"]["epoch"], score)
    return state


def _starting_anew(stock: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    _count().clear()
    vars(checkpoint_utils.save_checkpoint).pop("best", None)
    command = _command()
    if command and not hasattr(command["train"], "ends_at_once"):
        command["train"] = _ending_at_once(command["train"])
    return stock(*args, **kwargs)


def _ending_at_once(stock: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(stock)
    def train(cfg: Any, trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if (end := _reached(cfg, trainer)) is None:
            return stock(cfg, trainer, *args, **kwargs)
        logger.info(f"this training is at its end already, by {end}: nothing is trained; raise that to train on")
        return [None], True

    train.ends_at_once = True  # type: ignore[attr-defined]
    return train


def _reached(cfg: Any, trainer: Any) -> str | None:
    """The option that ends a training before its next epoch, or None. The same in all processes."""
    ends = {
        "--max-update": (cfg.optimization.max_update, trainer.get_num_updates()),
        "--stop-time-hours": (cfg.optimization.stop_time_hours, trainer._previous_training_time / 3600),
        "--patience": (cfg.checkpoint.patience, _count().get("num_runs", 0)),
    }
    return next((f"{name} {end}" for name, (end, reached) in ends.items() if end and 0 < end <= reached), None)
