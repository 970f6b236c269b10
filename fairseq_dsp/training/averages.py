"""The choice of units in the average of a model's weights that ``--store-ema`` keeps.

The average follows the weights with a delay. Its importance would keep other units than the training, and go on to do
so long after these are fixed, with weights that no update changes any more. So it has the importance, and the units, of
the model that it follows, and is as far in its schedule.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fairseq.models.ema.ema import EMA

from ..wrapping import wrap


def install() -> None:
    """Have fairseq copy the choice instead of averaging it."""
    wrap(EMA, "__init__", _copying_choice)
    wrap(EMA, "step", _following)


def _copying_choice(stock: Callable[..., None], self: EMA, model: Any, *args: Any, **kwargs: Any) -> None:
    stock(self, model, *args, **kwargs)
    kinds = tuple(f"{name}." for name in getattr(model, "pruners", ()))
    self.skip_keys = {*self.skip_keys, *(name for name in model.state_dict() if name.startswith(kinds) and kinds)}


def _following(stock: Callable[..., None], self: EMA, model: Any, updates: int | None = None) -> None:
    stock(self, model, updates)
    for kind, pruner in getattr(model, "pruners", {}).items():
        self.model.pruners[kind].update = pruner.update
