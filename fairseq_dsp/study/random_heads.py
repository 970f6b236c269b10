"""Random sets of heads: the baseline that says what choosing is worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from ..model import HeadSet


def random_heads(shape: Mapping[str, Sequence[int]], heads: int, seed: int) -> HeadSet:
    """Draw a set of heads, each set with a head in cross-attention as probable as any other; any set if there is none.

    :param shape: for each attention type, the number of heads of each layer.
    :param heads: K.
    """
    total, cross = (sum(sum(layers) for layers in part) for part in (shape.values(), [shape["cross"]]))
    draw = torch.Generator().manual_seed(seed)
    while True:
        gates = torch.zeros(total)
        gates[torch.randperm(total, generator=draw)[:heads]] = 1
        kept = HeadSet.from_gates(gates, shape)
        if not (heads and cross) or any(kept.of("cross")):
            return kept
