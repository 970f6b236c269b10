"""``fairseq-train --store-ema`` from a checkpoint without such an average.

Broken: ve-fairseq 0.12.3 begins the average with the weights that it has loaded, but has removed these from the
checkpoint by then, and ends with a KeyError. So no training can start from a trained model and keep an average.

Fix: a checkpoint without an average has its own weights as one. Can go when fairseq does so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fairseq import checkpoint_utils
from fairseq.trainer import Trainer

from fairseq_dsp.wrapping import wrap


def apply() -> None:
    """Wrap what loads a checkpoint into a training."""
    wrap(Trainer, "load_checkpoint", _with_average)


def _with_average(stock: Callable[..., Any], self: Trainer, *args: Any, **kwargs: Any) -> Any:
    if not self.cfg.ema.store_ema:
        return stock(self, *args, **kwargs)
    read = checkpoint_utils.load_checkpoint_to_cpu

    def with_average(*args: Any, **kwargs: Any) -> Any:
        state = read(*args, **kwargs)
        if "model" in state and state.get("extra_state") is not None:
            state["extra_state"].setdefault("ema", state["model"])
        return state

    checkpoint_utils.load_checkpoint_to_cpu = with_average
    try:
        return stock(self, *args, **kwargs)
    finally:
        checkpoint_utils.load_checkpoint_to_cpu = read
