"""``fairseq-train --store-ema`` of a model that normalises before its layers.

Broken: ve-fairseq 0.12.3 leaves the ``version`` of a stack out of the average when it updates it. A stack without one
counts as of before it had a last layer normalisation, and so the average loses that (``--encoder-normalize-before``,
``--decoder-normalize-before``), without a word; a model that loads the average loses its own.

Fix: the average keeps the versions of the model. Can go when fairseq copies them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fairseq.models.ema.ema import EMA

from fairseq_dsp.wrapping import wrap


def apply() -> None:
    """Wrap what puts weights into the average."""
    wrap(EMA, "restore", _with_versions)


def _with_versions(
    stock: Callable[..., None], self: EMA, state_dict: dict[str, Any], *args: Any, **kwargs: Any
) -> None:
    for name, value in self.model.state_dict().items():
        if "version" in name:
            state_dict.setdefault(name, value)
    stock(self, state_dict, *args, **kwargs)
