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

from fairseq_dsp.wrapping import wrap

KEY = "grad_scaler"
"""Where the optimiser's state holds the scaler's."""


def apply() -> None:
    """Wrap how fairseq's optimiser is made; saved and loaded it is as every other, with the scaler."""
    wrap(AMPOptimizer, "__init__", _with_one_optimizer)
    AMPOptimizer.state_dict = _state_dict
    AMPOptimizer.load_state_dict = _load_state_dict


def _with_one_optimizer(stock: Callable[..., None], self: AMPOptimizer, cfg: Any, *args: Any, **kwargs: Any) -> None:
    stock(self, cfg, *args, **kwargs)
    unscale = self.scaler.unscale_
    self.scaler.unscale_ = lambda _: unscale(self.fp32_optimizer)
    if (window := getattr(cfg.common, "amp_scale_window", None)) is not None:
        self.scaler.set_growth_interval(window)


def _state_dict(self: AMPOptimizer) -> dict[str, Any]:
    return {**super(AMPOptimizer, self).state_dict(), KEY: self.scaler.state_dict()}


def _load_state_dict(self: AMPOptimizer, state_dict: dict[str, Any], *args: Any, **kwargs: Any) -> None:
    state_dict = dict(state_dict)
    scaler = state_dict.pop(KEY, None)
    super(AMPOptimizer, self).load_state_dict(state_dict, *args, **kwargs)
    if scaler:  # a training on a CPU has none
        self.scaler.load_state_dict(scaler)
