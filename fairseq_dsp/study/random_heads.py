"""Random sets of heads, and of units of other kinds: the baseline that says what choosing is worth."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ..model import HeadSet, UnitSet
from ..model.kinds import KINDS
from ..model.units import modules_by, shape_of


def random_heads(shape: Mapping[str, Sequence[int]], heads: int, seed: int) -> HeadSet:
    """Draw a set of heads, each set with a head in cross-attention as probable as any other; any set if there is none.

    :param shape: for each attention type, the number of heads of each layer.
    :param heads: K.
    """
    total, cross = (sum(sum(layers) for layers in part) for part in (shape.values(), [shape["cross"]]))
    draw = torch.Generator().manual_seed(seed)
    while True:
        kept = HeadSet.from_gates(_gates(total, heads, draw), shape)
        if not (heads and cross) or any(kept.of("cross")):
            return kept


def with_random_units(heads: HeadSet, numbers: Mapping[str, int], options: Namespace, seed: int) -> HeadSet:
    """Return a set of heads with units of other kinds, drawn evenly from all.

    :param numbers: how many units of each kind, by its name.
    :param options: of the model.
    :raises ValueError: if it has fewer.
    """
    others = []
    for i, (name, number) in enumerate(numbers.items()):
        kind = KINDS[name]
        shape = shape_of(modules_by(options, kind), kind)
        total = sum(map(sum, shape.values()))
        if not 0 <= number <= total:
            raise ValueError(f"{number} {kind.units} are to be drawn, but there are {total}: give a number up to that")
        draw = torch.Generator().manual_seed(1_000_003 * (i + 1) + seed)
        others.append(UnitSet.from_gates(_gates(total, number, draw), shape, kind, kind.unit_width(options)))
    return replace(heads, others=tuple(others))


def _gates(total: int, ones: int, draw: torch.Generator) -> torch.Tensor:
    gates = torch.zeros(total)
    gates[torch.randperm(total, generator=draw)[:ones]] = 1
    return gates
