"""Which heads to keep: the options of pruning, held against the heads a model has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..subset import SELECTIONS, Annealing, Budget, Draw, shrink
from .config import PruningConfig, flag
from .gates import ALL, CHOOSING, FIXED
from .sets import HeadSet
from .units import HEADS


class PruningPlan:
    """How the heads of a model of a given shape are chosen, in training and after it; knows no model.

    :param config: the pruning options.
    :param shape: for each attention type, the number of heads of each layer; in the order of :data:`~.units.TYPES`.
    :raises ValueError: if the options do not fit each other or the shape.
    """

    def __init__(self, config: PruningConfig, shape: Mapping[str, Sequence[int]]) -> None:
        config.check()
        self.config = config
        self.shape = {kind: list(shape[kind]) for kind in HEADS.types}
        self.heads = sum(map(sum, self.shape.values()))
        self.given = HeadSet.read(config.kept_heads).to_gates(self.shape) if config.kept_heads else None
        self.penalised = config.l0_penalty is not None
        self.selection = SELECTIONS[config.head_selection](
            Annealing(config.initial_temperature, config.final_temperature, config.cooldown_updates),
            self.given,
            penalised=self.penalised,
        )
        self.budget = self.budget_of(config.heads_to_keep)
        for name in ("heads_to_keep_start", "heads_to_keep_low", "heads_to_keep_high"):
            self._count(name, self.heads)
        for kind, name in HEADS.floors.items():
            self._count(name, sum(self.shape[kind]))
        floors = {name: self._floor(kind, self.budget.total) for kind, name in HEADS.floors.items()}
        if sum(floors.values()) > self.budget.total and any(getattr(config, name) for name in floors):
            given = " and ".join(f"{flag(name)} is {least}" for name, least in floors.items() if least)
            raise ValueError(
                f"{given}, but only {self.budget.total} heads are to be kept: lower it or raise --heads-to-keep"
            )
        start, low, high = config.heads_to_keep_start, config.heads_to_keep_low, config.heads_to_keep_high
        if start is not None and start < self.budget.total:
            raise ValueError(
                f"--heads-to-keep-start {start} is below the budget of {self.budget.total} heads to which it shrinks: "
                "give a start that is larger"
            )
        if low is not None and high is not None and low > high:
            raise ValueError(f"--heads-to-keep-low {low} is above --heads-to-keep-high {high}: swap them")
        if low is not None:
            self.budget_of(low)  # raises if the floors need more heads

    @property
    def prunes(self) -> bool:
        """Whether any gate may differ from 1."""
        return (
            not self.budget.keeps_all
            or self.penalised
            or not self.selection.learns
            or self.config.heads_to_keep_low is not None
        )

    @property
    def learns(self) -> bool:
        """Whether training moves the importance."""
        return self.prunes and self.selection.learns

    def elapsed(self, update: int) -> int:
        """Return the number of updates since pruning began; negative before."""
        return update - self.config.pruning_warmup_updates

    def temperature(self, update: int) -> float:
        """Return the temperature at an update."""
        return self.selection.temperature(max(0, self.elapsed(update)))

    def phase(self, update: int) -> int:
        """Return what an update does to the choice: :data:`~.gates.ALL`, :data:`CHOOSING` or :data:`FIXED`.

        Before pruning begins, and while a shrinking budget still holds all heads, every gate is 1 and nothing is learnt
        of the importance. From the update on in which no head can come back the heads are fixed.
        """
        elapsed = self.elapsed(update)
        if not self.prunes or elapsed < 0 or (self._shrinks and self._keeps_all_at(elapsed)):
            return ALL
        return CHOOSING if self.selection.decides(elapsed) else FIXED

    @property
    def _shrinks(self) -> bool:
        return self.config.heads_to_keep_start is not None

    def _keeps_all_at(self, elapsed: int) -> bool:
        c = self.config
        assert c.heads_to_keep_start is not None
        assert c.heads_to_keep_updates is not None
        return shrink(elapsed, c.heads_to_keep_start, self.budget.total, c.heads_to_keep_updates) == self.heads

    def resolved(self) -> dict[str, int]:
        """Return the options whose default follows from others, as they are in force."""
        if not self.prunes or self.budget_is_by_type or not self.selection.learns:
            return {}
        return {name: self._floor(kind, self.budget.total) for kind, name in HEADS.floors.items()}

    @property
    def budget_is_by_type(self) -> bool:
        """Whether the types have budgets of their own."""
        return any(getattr(self.config, name) is not None for name in HEADS.budgets.values())

    def keep(self, importance: Tensor, total: int | None = None) -> Tensor:
        """Return the 0/1 gates of evaluation. *Shape:* (N).

        :param importance: of all heads, numbered by type, layer and index. *Shape:* (N).
        :param total: another global budget than the one of the options.
        :raises ValueError: if *total* is not within 0 … N, or not the number of given heads, or an importance is not
            finite.
        """
        given = self.given
        if total is not None and given is not None and total != int(given.sum()):
            raise ValueError(
                f"{total} heads are asked for, but they were given to this model, which keeps {int(given.sum())}: ask "
                "for no number, or give the checkpoint that they were chosen from"
            )
        with torch.no_grad():
            budget = self.budget if total is None else self.budget_of(total)
            asked = total is not None or self.config.has_budget
            if budget.keeps_all and self.selection.learns and (asked or not self.penalised):
                return torch.ones_like(importance)
            return self.selection.keep(importance, budget)

    def allows(self, kept: Tensor) -> bool:
        """Whether evaluation may keep these heads: as many of each type, and above the floors, as the options say.

        :param kept: 1 for each head that is kept, 0 otherwise. *Shape:* (N).
        """
        kept = kept.float()
        return torch.equal(self.keep(2 * kept - 1), kept)

    def sample(self, importance: Tensor, update: int, seed: int) -> Tensor:
        """Return the gates of one training update, differentiable. *Shape:* (N).

        Everything random follows from *seed* and *update* alone: the same in every micro-batch and on every process,
        and untouched by what else draws random numbers.
        """
        generator = torch.Generator().manual_seed((seed * 1_000_003 + update) % 2**63)
        elapsed = self.elapsed(update)
        budget = self._training_budget(elapsed, generator)
        if budget.keeps_all and not self.penalised and self.selection.learns:
            return 1 + 0 * importance  # exactly 1, but every importance has a gradient, as other processes expect
        return self.selection.sample(importance, budget, elapsed, generator)

    def budget_of(self, total: int | None) -> Budget:
        """Return the budget of *total* heads in all, or, if None, the one of the options.

        :raises ValueError: if it asks for more heads than there are, or the floor needs more than it allows.
        """
        sizes = [sum(self.shape[kind]) for kind in HEADS.types]
        types = _ranges(sizes)
        modules = _ranges([n for kind in HEADS.types for n in self.shape[kind]])
        floors = [Draw(tuple(module), self.config.min_heads_per_module) for module in modules]
        groups: list[Sequence[int]] = list(types)
        counts = [self._count(HEADS.budgets[kind], size) for kind, size in zip(HEADS.types, sizes, strict=True)]
        if total is not None or not self.budget_is_by_type:
            groups, counts = [range(self.heads)], [self._count("heads_to_keep", self.heads, total)]
            left = counts[0]
            for kind in HEADS.floors:
                least = min(self._floor(kind, counts[0]), left)
                left -= least
                floors.append(Draw(tuple(types[HEADS.types.index(kind)]), least))
        return Budget.grouped(groups, counts, floors)

    def _floor(self, kind: str, total: int) -> int:
        """Return the least number of heads of a type, of *total* in all."""
        given: int | None = getattr(self.config, HEADS.floors[kind])
        if given is not None:
            return given
        own = sum(self.shape[kind])
        if not self.selection.floors or own == self.heads:  # a model of one type needs no floor
            return 0
        return min(HEADS.default_floor(kind, total), own)

    def _training_budget(self, elapsed: int, generator: torch.Generator) -> Budget:
        c = self.config
        if c.heads_to_keep_start is not None and c.heads_to_keep_updates is not None:
            return self.budget_of(shrink(elapsed, c.heads_to_keep_start, self.budget.total, c.heads_to_keep_updates))
        if c.heads_to_keep_low is not None and c.heads_to_keep_high is not None:
            span = c.heads_to_keep_high - c.heads_to_keep_low + 1
            return self.budget_of(c.heads_to_keep_low + int(torch.randint(span, (), generator=generator)))
        return self.budget

    def _count(self, name: str, available: int, value: int | None = None) -> int:
        """Return a number of heads, by default an option's, and by its default all; refuse one out of range."""
        value = getattr(self.config, name) if value is None else value
        if value is None:
            return available
        if not 0 <= value <= available:
            raise ValueError(
                f"{flag(name)} is {value}, but there are {available} such heads: give a number from 0 to {available}"
            )
        return int(value)


def _ranges(sizes: Sequence[int]) -> list[range]:
    """Return consecutive ranges of the given sizes, from 0."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
