"""``fairseq-train --amp``.

Broken: ve-fairseq 0.12.3 divides the gradients by the scale of the loss twice, once for torch's optimiser and once for
its own around it. So Adam, which looks at their size only through its ε, sees small gradients as none. Checkpoints do
not hold the scale, so a resumed training starts with the first one. And ``--amp-scale-window`` sets nothing.

Fix: the scaler knows one optimiser; its state is part of the optimiser's; the window is the scaler's. Can go when
fairseq does so.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fairseq_optimizer import FairseqOptimizer

from fairseq_dsp.wrapping import wrap

KEY = "grad_scaler"
"""Where the optimiser's state holds the scaler's."""


def apply() -> None:
    """Wrap how fairseq's optimiser is made, saved and loaded."""
    wrap(AMPOptimizer, "__init__", _with_one_optimizer)
    wrap(AMPOptimizer, "state_dict", _with_scaler)
    wrap(AMPOptimizer, "load_state_dict", _restoring_scaler)


def _with_one_optimizer(stock: Callable[..., None], self: AMPOptimizer, cfg: Any, *args: Any, **kwargs: Any) -> None:
    stock(self, cfg, *args, **kwargs)
    unscale = self.scaler.unscale_
    self.scaler.unscale_ = lambda _: unscale(self.fp32_optimizer)
    if (window := getattr(cfg.common, "amp_scale_window", None)) is not None:
        self.scaler.set_growth_interval(window)


def _with_scaler(stock: Callable[..., dict[str, Any]], self: AMPOptimizer) -> dict[str, Any]:
    return {**stock(self), KEY: self.scaler.state_dict()}


def _restoring_scaler(
    stock: Callable[..., None], self: AMPOptimizer, state_dict: dict[str, Any], *args: Any, **kwargs: Any
) -> None:
    state_dict = dict(state_dict)
    scaler = state_dict.pop(KEY, None)
    # not *stock*, which it inherits: what else is done around that is done after this file
    FairseqOptimizer.load_state_dict(self, state_dict, *args, **kwargs)
    if scaler:  # a training on a CPU has none
        self.scaler.load_state_dict(scaler)
