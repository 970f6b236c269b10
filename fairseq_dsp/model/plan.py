"""Which units to keep: the options of pruning, held against the units a model has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..subset import SELECTIONS, Annealing, Budget, Draw, shrink
from .attention_heads import HEADS
from .drawn_numbers import Range
from .gates import ALL, CHOOSING, FIXED
from .kinds import KINDS, Kind, flag
from .pruning_options import PruningConfig
from .sets import given_units
from .uniform import uniform_counts
from .units import ranges


class PruningPlan:
    """How the units of one kind are chosen in a model of a given shape, in training and after it; knows no model.

    :param config: the pruning options.
    :param shape: for each type of the kind, in its order, the number of units of each layer.
    :param kind: of the units.
    :raises ValueError: if the options do not fit each other or the shape.
    """

    def __init__(self, config: PruningConfig, shape: Mapping[str, Sequence[int]], kind: Kind = HEADS) -> None:
        config.check()
        self.config = config
        self.kind = kind
        self.shape = {name: list(shape[name]) for name in kind.types}
        self.units = sum(map(sum, self.shape.values()))
        self.given = self._given()
        self.penalised = self._option("l0_penalty") is not None
        self.selection = SELECTIONS[config.head_selection](
            Annealing(config.initial_temperature, config.final_temperature, config.cooldown_updates),
            self.given,
            penalised=self.penalised,
        )
        to_keep = kind.options["to_keep"]
        for role in ("low", "high"):
            self._count(kind.options.get(role), self.units)
        self.range = self._range()
        total = getattr(config, to_keep)
        if config.cost is None:
            self.budget = self.budget_of(self.range.high if self.range and total is None else total)
        else:  # about as many as of all units; what is drawn from is a CostBudget's
            self.budget = Budget.top(round(config.cost[1] * self.units), self.units)
        for name, option in kind.floors.items():
            self._count(option, sum(self.shape[name]))
        floors = {name: option for name, option in kind.floors.items() if not self.floor_is_default(name)}
        chosen = self.selection.learns and self.range is None and config.cost is None  # a range has a check of its own
        if chosen and sum(self.floor(name, self.budget.total) for name in floors) > self.budget.total:
            given = " and ".join(f"{flag(option)} is {getattr(config, option)}" for option in floors.values())
            raise ValueError(
                f"{given}, but only {self.budget.total} {kind.units} are to be kept: lower it or raise {flag(to_keep)}"
            )
        self._last = self._uniform(self.budget.total) if self._option("uniform") else [self.budget.total]  # of `_all`
        if self.range:
            self._check_range(self.range, total)

    def _range(self) -> Range | None:
        """Return the least and the largest number of units where every update draws its own; None elsewhere."""
        low, high = self._option("low"), self._option("high")
        return Range(low, high) if low is not None and high is not None and self.selection.learns else None

    def _check_range(self, limits: Range, total: int | None) -> None:
        (low, high), options, units = limits, self.kind.options, self.kind.units
        if low > high:
            raise ValueError(f"{flag(options['low'])} {low} is above {flag(options['high'])} {high}: swap them")
        if total is not None and not low <= total <= high:
            raise ValueError(
                f"{flag(options['to_keep'])} {total} is outside of the range from {low} to {high} {units} that is "
                f"trained: give a number within it, or change {flag(options['low'])} and {flag(options['high'])}"
            )
        given = {name: getattr(self.config, option) for name, option in self.kind.floors.items()}
        given = {name: floor for name, floor in given.items() if floor}
        for total, role, which in ((high, "high", "at most"), (low, "low", "as few as")):
            if sum(self.floor(name, total) for name in given) > total:
                floors = " and ".join(f"{flag(self.kind.floors[name])} is {floor}" for name, floor in given.items())
                raise ValueError(
                    f"{floors}, but {which} {total} {units} are to be kept: lower it, or train a range of more "
                    f"({flag(options[role])})"
                )
        self.budget_of(low)  # raises if the floors need more units

    def _given(self) -> Tensor | None:
        """Return the units that are given to a model, 0/1; None if it chooses. *Shape:* (N)"""
        if not self.config.kept_heads:
            return None
        units = given_units(self.config, self.kind)
        if units is None:
            to_keep = self.kind.options["to_keep"]
            raise ValueError(
                f"{flag(to_keep)} is given, but the set of --kept-heads says nothing of {self.kind.units}: give a set "
                f"that does, or for a model that has all of them leave out {flag(to_keep)}"
            )
        return units.to_gates(self.shape)

    def _option(self, role: str) -> Any:
        return self.kind.option(self.config, role)

    @property
    def prunes(self) -> bool:
        """Whether any gate may differ from 1."""
        if self.config.cost is not None:
            return self.config.cost[1] < 1
        return not self.budget.keeps_all or self.penalised or not self.selection.learns or self.range is not None

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

        Before pruning begins, and while a shrinking budget still holds all units, every gate is 1 and nothing is learnt
        of the importance. From the update on in which no unit can come back the units are fixed.
        """
        elapsed = self.elapsed(update)
        decides = self.selection.decides(elapsed)
        least = [self._least(elapsed)] if self.range and decides else self._counts_at(elapsed)
        whole = least == self._all if self.config.cost is None else self.share(elapsed) == 1
        if not self.prunes or elapsed < 0 or whole:
            return ALL
        return CHOOSING if decides else FIXED

    def share(self, elapsed: int) -> float:
        """Return the share of the cost that stays at an update; it may fall from all to what the option says."""
        assert self.config.cost is not None
        (_, share), updates = self.config.cost, self._option("updates")
        return share if updates is None else 1 + (share - 1) * min(1, elapsed / updates)

    def module_floors(self) -> list[Draw]:
        """Return the least numbers of units of each module."""
        modules = ranges([n for name in self.kind.types for n in self.shape[name]])
        return [Draw(tuple(module), self._option("per_module") or 0) for module in modules]

    def _least(self, elapsed: int) -> int | None:
        """Return the least number of units of a range that an update may draw; None once no unit can come back."""
        assert self.range is not None
        cooldown = self.config.cooldown_updates
        ends = None if self.selection.decides(cooldown) else cooldown
        return self.range.least(elapsed, self.units, ends) if self.selection.decides(elapsed) else None

    @property
    def _all(self) -> list[int]:
        """The number of units in all or, if they are to be uniform, of each module."""
        return [n for layers in self.shape.values() for n in layers] if self._option("uniform") else [self.units]

    def _counts_at(self, elapsed: int) -> list[int] | None:
        """Return how many of :attr:`_all` are kept in a training in which that shrinks, None in any other."""
        updates = self._option("updates")
        if updates is None or self.budget.keeps_all or self.range or not self.selection.learns:
            return None
        return [shrink(elapsed, one, last, updates) for one, last in zip(self._all, self._last, strict=True)]

    @property
    def budget_is_by_type(self) -> bool:
        """Whether the types have budgets of their own."""
        return any(getattr(self.config, name) is not None for name in self.kind.budgets.values())

    def keep(self, importance: Tensor, total: int | None = None, budget: Budget | None = None) -> Tensor:
        """Return the 0/1 gates of evaluation. *Shape:* (N).

        :param importance: of all units, numbered by type, layer and index. *Shape:* (N).
        :param total: another global budget than the one of the options.
        :param budget: this kind's part of a budget of cost, where the options give one.
        :raises ValueError: if *total* is not within 0 … N, or outside of the range that was trained, or not the number
            of given units, or an importance is not finite.
        """
        given = self.given
        if total is not None and given is not None and total != int(given.sum()):
            raise ValueError(
                f"{total} {self.kind.units} are asked for, but they were given to this model, which keeps "
                f"{int(given.sum())}: ask for no number, or give the checkpoint that they were chosen from"
            )
        if total is not None and self.range and not self.range.low <= total <= self.range.high:
            low, high = self.range
            raise ValueError(
                f"{total} {self.kind.units} are asked for, but this model was trained for every number from {low} to "
                f"{high}: ask for one of these"
            )
        with torch.no_grad():
            budget = budget or (self.budget if total is None else self.budget_of(total))
            asked = total is not None or self.kind.has_budget(self.config)
            if budget.keeps_all and self.selection.learns and (asked or not self.penalised):
                return torch.ones_like(importance)
            return self.selection.keep(importance, budget)

    def allows(self, kept: Tensor) -> bool:
        """Whether evaluation may keep these units: as many of each type, and above the floors, as the options say.

        Floors that no option gives do not count: their defaults are those of this version alone.

        :param kept: 1 for each unit that is kept, 0 otherwise. *Shape:* (N).
        """
        kept, uniform = kept.float(), self.kind.options.get("uniform")
        given: dict[str, Any] = {option: getattr(self.config, option) or 0 for option in self.kind.floors.values()}
        if uniform and self._option("uniform"):
            stacks = [self.kind.places[name][0] for name in self.kind.types for _ in self.shape[name]]
            counts = [int(own.sum()) for own in kept.split([n for layers in self.shape.values() for n in layers])]
            if len(set(zip(stacks, counts, strict=True))) > len(set(stacks)):
                return False
            given[uniform] = False
        plan = PruningPlan(replace(self.config, **given), self.shape, self.kind)
        return torch.equal(plan.keep(2 * kept - 1), kept)

    def sample(self, importance: Tensor, update: int, seed: int, budget: Budget | None = None) -> Tensor:
        """Return the gates of one training update, differentiable. *Shape:* (N).

        Everything random follows from *seed* and *update* alone: the same in every micro-batch and on every process,
        and untouched by what else draws random numbers.

        :param budget: as of `keep`.
        """
        generator, elapsed = self._generator(update, seed), self.elapsed(update)
        budget = budget or self._training_budget(elapsed, generator)
        if budget.keeps_all and not self.penalised and self.selection.learns:
            return 1 + 0 * importance  # exactly 1, but every importance has a gradient, as other processes expect
        return self.selection.sample(importance, budget, elapsed, generator)

    def drawn(self, update: int, seed: int) -> int | None:
        """Return the number of units of a training update where each draws it anew, None elsewhere.

        It follows from *seed* and *update* alone, as the gates do.
        """
        if self.range is None:
            return None
        return self._training_budget(self.elapsed(update), self._generator(update, seed)).total

    def _generator(self, update: int, seed: int) -> torch.Generator:
        place = list(KINDS).index(self.kind.name) * 1_618_033_989  # kinds draw different numbers; of heads it is 0
        return torch.Generator().manual_seed((seed * 1_000_003 + update + place) % 2**63)

    def budget_of(self, total: int | None) -> Budget:
        """Return the budget of *total* units in all, or, if None, the one of the options.

        :raises ValueError: if it asks for more units than there are, or the floor needs more than it allows.
        """
        sizes = [sum(self.shape[kind]) for kind in self.kind.types]
        types = ranges(sizes)
        modules = ranges([n for kind in self.kind.types for n in self.shape[kind]])
        floors = self.module_floors()
        groups: list[Sequence[int]] = list(types)
        own = [self.kind.budgets.get(kind) for kind in self.kind.types]
        counts = [self._count(option, size) for option, size in zip(own, sizes, strict=True)]
        if total is not None or not self.budget_is_by_type:
            groups, counts = [range(self.units)], [self._count(self.kind.options["to_keep"], self.units, total)]
            if self._option("uniform"):
                return Budget.grouped(modules, self._uniform(counts[0]))
            left = counts[0]
            # what is given for every number comes before what is a share, or so by default
            for kind in sorted(self.kind.floors, key=lambda kind: self._is_share(kind) or self.floor_is_default(kind)):
                least = min(self.floor(kind, counts[0]), left)
                left -= least
                floors.append(Draw(tuple(types[self.kind.types.index(kind)]), least))
        return Budget.grouped(groups, counts, floors)

    def _uniform(self, total: int) -> list[int]:
        return uniform_counts(self.kind, self.shape, total, self._option("per_module") or 0, self.floor)

    def floor_is_default(self, kind: str) -> bool:
        """Whether no option gives the least number of units of a type."""
        return getattr(self.config, self.kind.floors[kind]) is None

    def _is_share(self, kind: str) -> bool:
        return self.range is not None and kind == self.kind.in_proportion

    def floor(self, kind: str, total: int) -> int:
        """Return the least number of units of a type, of *total* in all; see :attr:`~.kinds.Kind.in_proportion`."""
        given: int | None = getattr(self.config, self.kind.floors[kind])
        own = sum(self.shape[kind])
        most = self.range.high if self.range and self._is_share(kind) else total
        if given is None:  # a model of one type needs no floor
            needed = self.selection.floors and own < self.units
            given = min(self.kind.default_floor(kind, most), own) if needed else 0
        return math.ceil(given * min(total, most) / most) if most else given

    def _training_budget(self, elapsed: int, generator: torch.Generator) -> Budget:
        if self.range:
            return self.budget_of(self.range.draw(self._least(elapsed), self.units, generator))
        counts = self._counts_at(elapsed)
        if counts is None:
            return self.budget
        uniform = self._option("uniform")
        return Budget.grouped(ranges(self._all), counts) if uniform else self.budget_of(counts[0])

    def _count(self, name: str | None, available: int, value: int | None = None) -> int:
        """Return a number of units, by default an option's, and by its default all; refuse one out of range."""
        if value is None and name is not None:
            value = getattr(self.config, name)
        if value is None:
            return available
        if not 0 <= value <= available:
            raise ValueError(
                f"{flag(str(name))} is {value}, but there are {available} such {self.kind.units}: give a number from 0 "
                f"to {available}"
            )
        return int(value)
