"""A training for every number of units of a range: how many each update draws."""

from __future__ import annotations

from typing import NamedTuple

import torch

from ..subset import between

_SHRINKING = 0.9
"""The share of the cooldown in which the least number of units falls."""
_AT_LEAST, _AT_MOST = 0.25, 0.125
"""The shares of the later updates that train the least number, and the largest."""


class Range(NamedTuple):
    """The least and the largest number of units that are trained."""

    low: int
    high: int

    def least(self, elapsed: int, units: int, cooldown: int | None) -> int:
        """Return the least number of units that an update may draw while they are being chosen.

        Where the choice ends with the cooldown it falls from all units to the least of the range, each time by the
        same factor: a trained model is not torn apart at once, and the order of the last few is decided last, over
        as many updates as that of many.

        :param elapsed: updates since pruning began.
        :param units: N, the number of units there are.
        :param cooldown: after how many of them the choice ends; None if it never does.
        """
        if cooldown is None:
            return self.low
        return between(self.low, units, max(0, 1 - elapsed / max(1, round(_SHRINKING * cooldown))))

    def draw(self, least: int | None, units: int, generator: torch.Generator) -> int:
        """Return the number of units of an update.

        It is uniform in its logarithm: few units have the most to learn, and their order the most to say. While units
        are being chosen, it is from the least of that update on, and is that one while it is still above the range.
        Once their order is fixed, a quarter of the updates have the least of the range, and an eighth the largest.

        :param least: see :meth:`least`; None once no unit can come back.
        :param units: N, the number of units there are.
        """
        part, place = torch.rand(2, generator=generator).tolist()
        if least is not None:
            return between(least, max(least, min(self.high, units - 1)), place)  # of all units nothing is learnt
        if part < _AT_LEAST + _AT_MOST:
            return self.low if part < _AT_LEAST else self.high
        return between(self.low, self.high, place)
