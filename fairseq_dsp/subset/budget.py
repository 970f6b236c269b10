"""How many of which heads may stay.

A budget is a list of *draws*, made one after the other: "k of these heads that are not drawn yet". One global budget is
one draw; a budget for each attention type is three; a floor for a module or a type is a draw from its heads before the
rest is drawn from all. Both the relaxed and the hard top-K follow the same list, so they agree in the limit T → 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .device import constant


@dataclass(frozen=True)
class Draw:
    """Draw *count* of the heads *indices*.

    :param indices: positions in the vector of all N heads, ascending.
    :param count: how many of them to draw.
    """

    indices: tuple[int, ...]
    count: int


@dataclass(frozen=True)
class Budget:
    """A sequence of draws that keeps ``total`` of ``heads`` heads.

    :param heads: N, the number of heads there are.
    :param draws: the draws, in order.
    """

    heads: int
    draws: tuple[Draw, ...]

    @property
    def total(self) -> int:
        """K, the number of heads kept."""
        return sum(draw.count for draw in self.draws)

    @property
    def groups(self) -> tuple[Draw, ...]:
        """How many heads stay in all of each group; a floor is part of the group that its module lies in."""
        merged: list[Draw] = []
        for draw in self.draws:
            inside = [earlier for earlier in merged if set(earlier.indices) <= set(draw.indices)]
            merged = [earlier for earlier in merged if earlier not in inside]
            merged.append(Draw(draw.indices, draw.count + sum(earlier.count for earlier in inside)))
        return tuple(merged)

    def rounds(self, device: torch.device) -> list[tuple[Tensor, tuple[int, ...]]]:
        """Return the draws in rounds, one after the other; the draws of a round have no head in common.

        :return: for each round, the heads of each of its draws, filled up with N, on the device, of *shape:* (draws,
            most heads of one); and how many each draws.
        """
        return [(constant(indices, device), counts) for indices, counts in self._rounds]

    @cached_property
    def _rounds(self) -> list[tuple[tuple[tuple[int, ...], ...], tuple[int, ...]]]:
        rounds: list[list[Draw]] = []
        for draw in self.draws:
            heads = set(draw.indices)
            shared = [any(heads.intersection(other.indices) for other in others) for others in rounds]
            first = max((i + 1 for i, some in enumerate(shared) if some), default=0)
            if first == len(rounds):
                rounds.append([])
            rounds[first].append(draw)
        filled = []
        for draws in rounds:
            most = max(len(draw.indices) for draw in draws)
            rows = tuple(draw.indices + (self.heads,) * (most - len(draw.indices)) for draw in draws)
            filled.append((rows, tuple(draw.count for draw in draws)))
        return filled

    @property
    def keeps_all(self) -> bool:
        """Whether no head is removed."""
        return self.total == self.heads

    @staticmethod
    def top(k: int, heads: int) -> Budget:
        """K of all N heads, whichever they are."""
        return Budget.grouped([range(heads)], [k])

    @staticmethod
    def grouped(groups: Sequence[Sequence[int]], counts: Sequence[int], floors: Sequence[Draw] = ()) -> Budget:
        """A count for each group of heads, and for some sets of heads a floor.

        :param groups: the heads of each group; together they are 0 … N − 1.
        :param counts: how many heads to keep in each group.
        :param floors: the least number of heads of a set, all of them if it has fewer; a floor holds for a set within
            one group. Sets are disjoint, or a larger one comes after those within it.
        :raises ValueError: if a count is not within its group, or the floors need more heads than the count allows.
        """
        heads = sum(len(group) for group in groups)
        firsts: list[Draw] = []
        rests: list[Draw] = []
        for group, count in zip(groups, counts, strict=True):
            if not 0 <= count <= len(group):
                raise ValueError(f"{count} heads are to be kept of {len(group)}: give a number from 0 to {len(group)}")
            drawn = Budget.least(group, floors)
            needed = sum(draw.count for draw in drawn)
            if needed > count:
                raise ValueError(
                    f"the least numbers of heads for modules or types need {needed} heads in all, but only {count} are "
                    "to be kept: lower them or raise the budget"
                )
            firsts += drawn
            rests.append(Draw(tuple(group), count - needed))
        return Budget(heads, tuple(draw for draw in firsts + rests if draw.count))

    @staticmethod
    def least(group: Sequence[int], floors: Sequence[Draw]) -> list[Draw]:
        """Return the draws that give the sets within a group their least numbers of heads; see :meth:`grouped`."""
        members, drawn = set(group), list[Draw]()
        for floor in floors:
            if members.issuperset(floor.indices):
                inside = sum(draw.count for draw in drawn if set(floor.indices).issuperset(draw.indices))
                drawn.append(Draw(floor.indices, max(0, min(floor.count, len(floor.indices)) - inside)))
        return drawn
