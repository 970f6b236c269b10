"""A budget of cost that all kinds of units share: how many of each stay, by what they cost and what they are worth.

Importances of different kinds are compared through a price. A unit's importance says what it is worth for each
parameter (or operation) that it costs, and a unit stays where that is above the price λ; see :func:`find_price`. The
price follows from the importances: it is the one at which the units that stay cost what the budget allows. Units of one
kind and one cost form a group, whose number of units that the price says is rounded so that the budget holds exactly;
see :func:`whole_numbers`. Which units of the group stay is then the selection's to say, as with a number that is given.

Everything follows from the importances and the number of updates: there is no state besides. The price is computed on
the CPU, so while units are being chosen a GPU waits a few times an update.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..subset import GRADIENT_BOUND, Budget, Draw
from ..subset.device import beside
from ..subset.price import Group, Numbers, find_price, in_order, numbers_at, sigmoid, whole_numbers
from ..subset.topk import check_vector
from .gates import UnitChoice
from .kinds import COSTS, KINDS, UnitModule, flag
from .plan import PruningPlan
from .pruning_options import PruningConfig
from .units import modules_by, ranges, shape_of

LEFT_OVER = 0.005
"""The most that may be left of a budget, as a share of the cost of all units, or the cost of the cheapest unit."""


class CostBudget:
    """The budget that ``--parameters-to-keep`` or ``--flops-to-keep`` gives the units of all kinds together.

    :param plans: of all kinds of the model.
    :param modules: of each of these kinds, unpruned.
    :raises ValueError: if there are more least numbers of units than the budget can pay, or units so expensive that
        none of them can be exchanged for others.
    """

    def __init__(self, plans: Sequence[PruningPlan], modules: Sequence[Sequence[UnitModule]]) -> None:
        given = plans[0].config.cost
        assert given is not None
        self.plans = tuple(plans)
        option, self.share = given
        self.what, cost_of = COSTS[option]
        groups: dict[tuple[int, int], list[int]] = {}
        for place, own in enumerate(modules):
            for module, units in zip(own, ranges([module.units for module in own]), strict=True):
                groups.setdefault((place, cost_of(module)), []).extend(units)
        found = [Group(place, tuple(units), cost) for (place, cost), units in groups.items()]
        self.whole = sum(g.cost * len(g.units) for g in found)
        """What all units cost."""
        for given_alone in (False, True):  # a small budget has not the default floors
            self._floors = [_floors(plan, given=given_alone) for plan in plans]
            self.groups = [Group(g.place, g.units, g.cost, _least(g, self._floors)) for g in found]
            if self._least_cost() <= self.at(self.share):
                break
        else:
            raise ValueError(
                f"{flag(option)} is {self.share}, but the least numbers of units that are asked for have "
                f"{self._least_cost() / self.whole:.3f} of the {self.what}: raise it, or lower "
                f"{' and '.join(name for plan in plans for name in self._asked_floors(plan))}"
            )
        self.left_over = max(min(g.cost for g in self.groups), math.floor(LEFT_OVER * self.whole))
        """How much less than the budget the units that stay may cost."""
        self._check_exchange(option)
        self._group_of = np.concatenate([self._groups_of(place) for place in range(len(plans))])
        self._costs = np.array([g.cost for g in self.groups], dtype=np.float64)
        self._known: dict[tuple[bytes, float, int], tuple[float, Numbers, tuple[int, ...]]] = {}

    def at(self, share: float) -> int:
        """Return the cost that a share of the whole is."""
        return math.floor(share * self.whole + 1e-6)  # 0.29 × 100 is 29

    # --- what evaluation keeps --------------------------------------------------------------------------------------

    def keep(self, place: int, importances: Sequence[Tensor]) -> Tensor:
        """Return the 0/1 gates of evaluation of a kind. *Shape:* (N of that kind)

        :param place: of the kind among the plans.
        :param importances: of the units of each kind.
        """
        final = self.plans[place].selection.annealing.final
        _, _, counts = self._split(importances, final, self.at(self.share))
        return self.plans[place].keep(importances[place], budget=self._budget(place, counts))

    def allows(self, kept: Sequence[Tensor]) -> bool:
        """Whether evaluation may keep these units: within the budget, and above the floors that options give.

        :param kept: of each kind, 1 for each unit that is kept, 0 otherwise.
        """
        if any(not torch.equal(units, (units > 0).to(units)) for units in kept):
            return False
        counts = tuple(int(kept[g.place][list(g.units)].sum()) for g in self.groups)
        cost = sum(count * g.cost for count, g in zip(counts, self.groups, strict=True))
        if not self.at(self.share) - self.left_over <= cost <= self.at(self.share):
            return False
        floors = [_floors(plan, given=True) for plan in self.plans]  # by default another version had others
        if any(count < _least(g, floors) for count, g in zip(counts, self.groups, strict=True)):
            return False
        budgets = [self._budget(place, counts, own) for place, own in enumerate(floors)]
        rows = zip(self.plans, kept, budgets, strict=True)
        return all(torch.equal(plan.keep(2 * units - 1, budget=own), units) for plan, units, own in rows)

    # --- training ---------------------------------------------------------------------------------------------------

    def sample(self, place: int, importances: Sequence[Tensor], update: int, seed: int) -> Tensor:
        """Return the gates of a kind in a training update, differentiable in all importances. *Shape:* (N of the kind)

        See :meth:`PruningPlan.sample`, which draws them once the numbers of units are found. What it lets reach the
        importances says which units of a group are worth more than others; to this comes the gradient of the numbers,
        which says whether the units of one group are worth more than those of another. A unit's part in that is
        v = p (1 − p), the more the nearer its importance is to the price.
        """
        plan = self.plans[place]
        elapsed = plan.elapsed(update)
        temperature = plan.selection.annealing(max(0, elapsed))
        price, numbers, counts = self._split(importances, temperature, self.at(plan.share(max(0, elapsed))))
        own = importances[place]
        members = beside(torch.from_numpy(np.eye(len(self.groups))[:, self._groups_of(place)]), own.device)
        # what a selection gives a whole group alike is none of a choice within it
        mean = (members @ own.double() / members.sum(1).clamp_min(1)) @ members
        gates = plan.sample(own - (mean - mean.detach()).to(own), update, seed, self._budget(place, counts))
        slopes = self._slopes(importances, temperature, price, numbers)
        v, charge, part = beside(torch.from_numpy(slopes), own.device)
        steps = torch.cat([(one - one.detach()).double() for one in importances])  # zeros that have a gradient
        steps = steps * min(1 / temperature, GRADIENT_BOUND)
        changes = v * (steps - (charge * steps).sum())  # ∂λ follows from Σ c ∂p = 0
        lengths = [len(one) for one in importances]
        mine = changes.split(lengths)[place], part.split(lengths)[place]
        return gates + (mine[1] * ((members @ mine[0]) @ members)).to(gates)

    def _slopes(self, importances: Sequence[Tensor], temperature: float, price: float, numbers: Numbers) -> Numbers:
        """Return for each unit v; its part in what a change of the price costs; its part of its group's v."""
        p = sigmoid(_scores(importances, temperature) - price)
        least = np.array([g.least for g in self.groups])
        v = p * (1 - p) * (numbers > least)[self._group_of]  # a group at its least does not follow the price
        cost = self._costs[self._group_of] * v
        of_groups = np.bincount(self._group_of, v, minlength=len(self.groups))[self._group_of]
        tiny = np.finfo(np.float64).tiny
        return np.stack([v, cost / max(cost.sum(), tiny), v / np.maximum(of_groups, tiny)])

    # --- how many units stay ----------------------------------------------------------------------------------------

    def _split(
        self, importances: Sequence[Tensor], temperature: float, budget: int
    ) -> tuple[float, Numbers, tuple[int, ...]]:
        """Return the price, how many units of each group it says, and how many stay."""
        scores = _scores(importances, temperature)
        key = scores.tobytes(), temperature, budget
        if key not in self._known:
            least = [g.least for g in self.groups]
            price = find_price(scores, self._group_of, self._costs, least, budget)
            numbers = numbers_at(price, scores, self._group_of, least)
            if len(self._known) > 8:
                self._known.clear()
            self._known[key] = price, numbers, whole_numbers(numbers, self.groups, budget, self.left_over)
        return self._known[key]

    def _budget(self, place: int, counts: tuple[int, ...], floors: Sequence[Draw] | None = None) -> Budget:
        own = [(g, count) for g, count in zip(self.groups, counts, strict=True) if g.place == place]
        units, numbers = tuple(g.units for g, _ in own), tuple(count for _, count in own)
        return _grouped(units, numbers, tuple(self._floors[place] if floors is None else floors))

    def _groups_of(self, place: int) -> NDArray[np.intp]:
        """Return the group of each unit of a kind."""
        found = np.zeros(self.plans[place].units, dtype=np.intp)
        for i, group in enumerate(self.groups):
            if group.place == place:
                found[list(group.units)] = i
        return found

    # --- what cannot be ---------------------------------------------------------------------------------------------

    def _least_cost(self) -> int:
        return sum(g.least * g.cost for g in self.groups)

    @staticmethod
    def _asked_floors(plan: PruningPlan) -> list[str]:
        names = [*plan.kind.floors.values(), *filter(None, [plan.kind.options.get("per_module")])]
        return [flag(name) for name in names if getattr(plan.config, name)]

    def _check_exchange(self, option: str) -> None:
        """Raise a ``ValueError`` if all cheaper units together could not make up for one of a group."""
        order = in_order(self.groups)
        for i, group in enumerate(order):
            free = sum(g.cost * (len(g.units) - g.least) for g in order[i + 1 :])
            if free + self.left_over + 1 < group.cost and self.share < 1:
                names = [flag(plan.kind.options["to_keep"]) for plan in self.plans]
                raise ValueError(
                    f"{flag(option)} {self.share} cannot be kept to {self.left_over:,} of {self.whole:,} {self.what}: "
                    f"one of the {self.plans[group.place].kind.units} has {group.cost:,}, and all that are smaller "
                    f"{free:,}: give {' and '.join(names)} instead"
                )


class KindOfBudget:
    """One kind's part of a budget of cost, with the methods of its :class:`PruningPlan` that choose units.

    :param place: of the kind among the plans.
    :param choices: of all kinds, in a model.
    """

    def __init__(self, budget: CostBudget, place: int, choices: Sequence[UnitChoice]) -> None:
        self._budget, self._place, self._choices = budget, place, list(choices)

    def keep(self, importance: Tensor) -> Tensor:
        """See :meth:`CostBudget.keep`."""
        with torch.no_grad():
            return self._budget.keep(self._place, self._with([one.importance for one in self._choices], importance))

    def sample(self, importance: Tensor, update: int, seed: int) -> Tensor:
        """See :meth:`CostBudget.sample`."""
        importances = self._with([one.importance for one in self._choices], importance)
        return self._budget.sample(self._place, importances, update, seed)

    def allows(self, kept: Tensor) -> bool:
        """See :meth:`CostBudget.allows`."""
        return self._budget.allows(self._with([one.kept for one in self._choices], kept))

    def _with(self, values: Sequence[Tensor], own: Tensor) -> list[Tensor]:
        return [*values[: self._place], own, *values[self._place + 1 :]]


def check_countable(config: PruningConfig, options: Any) -> None:
    """Check that what a unit costs is known.

    :raises ValueError: if not.
    """
    if config.flops_to_keep is not None and getattr(options, "cross_self_attention", False):
        raise ValueError(
            f"--flops-to-keep {config.flops_to_keep} counts the operations of self-attention and cross-attention, "
            "which --cross-self-attention joins: give --parameters-to-keep, or numbers of heads and units"
        )


def plans_of(config: PruningConfig, options: Any) -> list[PruningPlan]:
    """Return how the units of each kind are chosen in the model that some options build.

    :param config: the pruning options.
    :param options: all options of the model.
    :raises ValueError: if they do not fit each other.
    """
    kinds = [kind for kind in KINDS.values() if kind.is_chosen(options)]
    modules = [modules_by(options, kind) for kind in kinds]
    plans = [PruningPlan(config, shape_of(own, kind), kind) for own, kind in zip(modules, kinds, strict=True)]
    if config.cost is not None:
        check_countable(config, options)
        CostBudget(plans, modules)
    return plans


def _least(group: Group, floors: Sequence[Sequence[Draw]]) -> int:
    return sum(draw.count for draw in Budget.least(group.units, floors[group.place]))


def _floors(plan: PruningPlan, *, given: bool = False) -> list[Draw]:
    """Return the least numbers of units of a kind: those given, and by default those of about as many units.

    :param given: those given alone.
    """
    total, floors, types = plan.budget.total, plan.module_floors(), plan.kind.types
    for name, units in zip(types, ranges([sum(plan.shape[name]) for name in types]), strict=True):
        if name in plan.kind.floors and not (given and plan.floor_is_default(name)):
            least = plan.floor(name, total)
            floors.append(Draw(tuple(units), min(least, total) if plan.floor_is_default(name) else least))
    return floors


def _scores(importances: Sequence[Tensor], temperature: float) -> Numbers:
    joined = torch.cat([one.detach() for one in importances]).cpu().double()
    check_vector(joined, "importance")
    scores: Numbers = joined.numpy() / temperature
    return scores


@lru_cache(maxsize=256)
def _grouped(groups: tuple[tuple[int, ...], ...], counts: tuple[int, ...], floors: tuple[Draw, ...]) -> Budget:
    return Budget.grouped(groups, counts, floors)
