"""Prunable units: what they are, which parameters belong to them, and removing them.

A *unit* is what a gate switches on or off: an attention head, for example. Units of one *kind* share an importance
vector, a budget and a selection; a *module* holds several of them, side by side along one dimension of its parameters.
Gating a unit is scaling the columns of the module's last projection that read it. So a kind is described by its types
of modules and by the dimension along which each parameter holds the units, and everything else (budgets, sets of units,
compact models, exports, reports) follows from that. Another kind is another :class:`Kind`, which says of which layers
its modules are a part; another architecture is an :class:`Architecture`, which says where its layers are. A type of
which it has none has no units.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch import Tensor, nn

LENGTH, BEAM = 25, 5
"""Of a sentence whose floating-point operations are counted: subwords of it and of its translation; the beam size."""


@dataclass(frozen=True)
class Kind(ABC):
    """A kind of prunable units.

    :param name: what logs, checkpoints and sets of units call it, such as ``heads``.
    :param units: what people call its units, such as ``heads``.
    :param titles: for each type of modules, in the order in which units are numbered, what people call it.
    :param places: for each type, the stack whose layers hold such modules, and the attribute of a layer; an empty one
        is the layer itself.
    :param options: the options about its units, by what they are about: ``to_keep``, and, where it has them, ``width``,
        ``updates``, ``low``, ``high``, ``per_module``, ``uniform`` and ``l0_penalty``.
    :param budgets: for some types, the option that gives it a budget of its own.
    :param floors: for some types, the option that gives the least number of units of all its modules together. The
        first has its units first.
    :param in_proportion: the type, if any, whose floor is that of the largest number of a range; smaller numbers have
        their share of it. Of one type only, or the units of a number may not be among those of a larger one.
    :param crossing: the type, if any, whose modules read the encoder from the decoder.
    """

    name: str
    units: str
    titles: Mapping[str, str]
    places: Mapping[str, tuple[str, str]]
    options: Mapping[str, str]
    budgets: Mapping[str, str] = field(default_factory=dict)
    floors: Mapping[str, str] = field(default_factory=dict)
    in_proportion: str | None = None
    crossing: str = ""

    def __reduce__(self) -> Any:
        return _kind, (self.name,)  # a copy of a model has the same kinds

    @property
    def types(self) -> tuple[str, ...]:
        """The types of modules, in the order in which units are numbered."""
        return tuple(self.titles)

    def option(self, options: Any, role: str) -> Any:
        """Return the value of the option of a role, None where the kind has none."""
        return getattr(options, self.options[role], None) if role in self.options else None

    @property
    def unit(self) -> str:
        """What people call one of its units."""
        return self.units.removesuffix("s")

    @property
    def has_width(self) -> bool:
        """Whether an option, not the shape of the model, says how wide a unit is."""
        return "width" in self.options

    @property
    def choice(self) -> tuple[str, ...]:
        """The options that say how many of its units stay, and of which."""
        others = ("width", "l0_penalty")
        roles = (name for role, name in self.options.items() if role not in others)
        return (*roles, *self.budgets.values(), *self.floors.values())

    def has_budget(self, options: Any) -> bool:
        """Whether a number of its units to keep is given, or the least of a range."""
        names = (self.options["to_keep"], *self.budgets.values())
        return self.option(options, "low") is not None or any(getattr(options, name) is not None for name in names)

    def check(self, options: Any) -> None:
        """Raise a ``ValueError`` for options about its units that make no sense together, whatever the model."""
        width = self.option(options, "width")
        if width is None:
            return
        if width < 1:
            raise ValueError(f"{flag(self.options['width'])} is {width}, but it must be 1 or more")
        if not (options.cost or self.has_budget(options) or options.kept_heads):
            raise ValueError(
                f"{flag(self.options['width'])} {width} is about {self.units}, but none are chosen: leave it out, or "
                f"give {flag(self.options['to_keep'])}"
            )

    def default_floor(self, kind: str, total: int, *, trained: bool = False) -> int:
        """The least number of units of a type in a budget of *total*, for a selection that chooses early.

        :param trained: whether a trained model is pruned.
        """
        return 0

    def is_chosen(self, options: Any) -> bool:
        """Whether a model of these options has a choice of such units, even if it is of all of them."""
        return any(getattr(options, name, None) is not None for name in (*COSTS, self.options["to_keep"]))

    def unit_flops(self, module: UnitModule, source: int, steps: int, beam: int) -> int:
        """Return the floating-point operations of one unit's matrix products in translating a sentence.

        :param module: one of the kind's, unpruned.
        :param source: number of source subwords, which the encoder reads once.
        :param steps: how often the decoder is called, each time for *beam* subwords.
        """
        return 2 * module.matrix_entries * (source if module.stack == "encoder" else steps * beam)

    @abstractmethod
    def unit_width(self, options: Any) -> int | None:
        """Return the rows or columns of a unit of a model of *options*, None where its shape says it.

        :raises ValueError: if a width that is given does not fit the layers, or no unit can be left out of them.
        """

    @abstractmethod
    def describe(self, kind: str, layer: int, name: str, module: Any, options: Any) -> UnitModule:
        """Return the description of a module of a model, stock or not."""

    @abstractmethod
    def find(self, kind: str, layer: int, name: str, names: Container[str], options: Any) -> UnitModule | None:
        """Return the description of a module of a checkpoint with parameters of these names, None if it has none."""


def flag(name: str) -> str:
    """Return the command-line flag of an option."""
    return "--" + name.replace("_", "-")


KINDS: dict[str, Kind] = {}
"""The kinds by name, in the order in which their options are checked and their gates are set."""


def _kind(name: str) -> Kind:
    return KINDS[name]


def register(kind: Kind) -> Kind:
    """Make a kind known."""
    KINDS[kind.name] = kind
    return kind


@dataclass(frozen=True)
class UnitModule:
    """A module whose units are pruned.

    :param kind: the kind of its units.
    :param type: one of its kind's types.
    :param layer: index of its layer in the encoder or decoder, counted from 0.
    :param name: its name in the state dict, such as ``encoder.layers.0.self_attn``.
    :param units: number of units of the unpruned module.
    :param width: rows or columns of each unit.
    :param parameters: each parameter that belongs to units → the dimension along which they lie, and its shape in the
        unpruned module. All other parameters of the module stay, even without any unit.
    :param module: what sets its gates, if it was found in a model; see :class:`GatedModule`.
    """

    kind: Kind
    type: str
    layer: int
    name: str
    units: int
    width: int
    parameters: Mapping[str, tuple[int, tuple[int, ...]]]
    module: Any = field(default=None, compare=False, repr=False)

    @property
    def last(self) -> str:
        """The weight whose columns read the units."""
        return next(name for name, (dim, _) in self.parameters.items() if dim == 1)

    @property
    def unit_parameters(self) -> int:
        """Number of parameters of one unit of the unpruned module."""
        return sum(math.prod(shape) for _, shape in self.parameters.values()) // self.units

    @property
    def matrix_entries(self) -> int:
        """How many of these are in matrices."""
        return sum(math.prod(shape) for _, shape in self.parameters.values() if len(shape) > 1) // self.units

    @property
    def stack(self) -> str:
        """``encoder`` or ``decoder``: where it is."""
        return self.name.partition(".")[0]

    def parameter(self, name: str) -> Tensor:
        """Return a parameter of the module in a model."""
        owner, _, attribute = name.rpartition(".")
        found: Tensor = getattr(getattr(self.module.owner, owner), attribute)
        return found

    def rows(self, kept: Sequence[int]) -> Tensor:
        """Return the rows or columns of the *kept* units. *Shape:* (len(kept) · width)"""
        return torch.tensor([unit * self.width + i for unit in kept for i in range(self.width)], dtype=torch.long)

    def resized(self, units: int) -> UnitModule:
        """Return the description of such a module with another number of units."""
        size = units * self.width
        parameters = {
            name: (dim, (*shape[:dim], size, *shape[dim + 1 :])) for name, (dim, shape) in self.parameters.items()
        }
        return replace(self, units=units, parameters=parameters)

    def remove(self, parameters: Mapping[str, Tensor], kept: Sequence[int]) -> dict[str, Tensor]:
        """Return the module's parameters without those of units that are not *kept*; without units, what is left."""
        others = {name: value for name, value in parameters.items() if name not in self.parameters}
        if not kept:
            return others
        rows = self.rows(kept)
        return others | {
            name: parameters[name].index_select(dim, rows.to(parameters[name].device))
            for name, (dim, _) in self.parameters.items()
        }

    def restore(self, parameters: Mapping[str, Tensor], kept: Sequence[int]) -> dict[str, Tensor]:
        """Return parameters of the unpruned shape that compute the same: `remove` turned round, with zeros."""
        full = {name: value for name, value in parameters.items() if name not in self.parameters}
        like, rows = next(iter(full.values())), self.rows(kept)
        for name, (dim, shape) in self.parameters.items():
            full[name] = like.new_zeros(shape)
            if kept:
                full[name].index_copy_(dim, rows.to(like.device), parameters[name])
        return full


COSTS: Mapping[str, tuple[str, Callable[[UnitModule], int]]] = {
    "parameters_to_keep": ("parameters", lambda module: module.unit_parameters),
    # the end of a sentence is one step more
    "flops_to_keep": ("FLOPs", lambda module: module.kind.unit_flops(module, LENGTH, LENGTH + 1, BEAM)),
}
"""The options that give all kinds one budget of cost, what that is a cost in, and what a unit of a module costs."""


class GatedModule(Protocol):
    """What the module of a :class:`UnitModule` can do."""

    gate: Tensor | None
    """What multiplies each column that reads a unit: the unit's gate; None for 1. *Shape:* (units · width)"""

    kept: tuple[int, ...] | None
    """The only units to compute; None for all that there are parameters for."""

    given: tuple[Tensor, ...]
    """What it computes with in place of its own parameters. Where all units are computed, the last matrix, its columns
    scaled by gates, if anything; where some but not all of them are, their parts of each of `together`."""

    @property
    def owner(self) -> nn.Module:
        """What has the parameters."""

    @property
    def together(self) -> tuple[tuple[str, ...], ...]:
        """The names of its units' parameters, those together which it reads as one tensor, side by side."""

    @property
    def can_skip_units(self) -> bool:
        """Whether some of the units can be left out; other options of the stock module may need them all."""

    @property
    def is_noisy(self) -> bool:
        """Whether training changes the parameters where they are called, as quantisation noise does."""

    @property
    def training(self) -> bool:
        """Whether it is in training mode."""

    def remove(self, description: UnitModule, kept: Sequence[int]) -> None:
        """Remove the parameters of all units that are not *kept*, for good.

        :raises ValueError: if it needs all its units.
        """
