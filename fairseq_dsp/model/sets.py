"""Sets of units: which ones of an unpruned model are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from .attention_heads import HEADS
from .kinds import KINDS, Kind

VERSION = 2
"""Of the JSON form; files without a version are of version 1, which has the same keys otherwise."""

Layers = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class UnitSet:
    """A set of units of one kind: for each type and layer, the indices kept, counted from 0 in the unpruned model.

    :param kind: of the units.
    :param total: number of units of the unpruned model.
    :param layers: for each type of the kind, in its order, the kept units of each layer, ascending.
    :param width: rows or columns of a unit, where an option says that.
    """

    kind: Kind
    total: int
    layers: tuple[Layers, ...]
    width: int | None = None

    @property
    def kept(self) -> int:
        """Number of units in the set."""
        return sum(len(layer) for layers in self.layers for layer in layers)

    def of(self, kind: str) -> Layers:
        """The kept units of each layer for one of the kind's types."""
        return self.layers[self.kind.types.index(kind)]

    @classmethod
    def from_gates(
        cls, gates: Tensor, shape: Mapping[str, Sequence[int]], kind: Kind = HEADS, width: int | None = None
    ) -> Self:
        """Return the units whose gate is not zero, as a set of this class.

        :param gates: *Shape:* (N), units numbered by type, layer and index.
        :param shape: for each type, the number of units of each layer.
        """
        values = iter(gates.tolist())
        layers = tuple(tuple(tuple(u for u in range(n) if next(values)) for n in shape[name]) for name in kind.types)
        return cls(kind, gates.numel(), layers, width)

    def to_gates(self, shape: Mapping[str, Sequence[int]]) -> Tensor:
        """Return the set as 0/1 gates. *Shape:* (N).

        :param shape: for each type, the number of units of each layer of the model.
        :raises ValueError: if the set is not one of units of such a model.
        """
        units, unit = self.kind.units, self.kind.unit
        total = sum(sum(layers) for layers in shape.values())
        if self.total != total:
            raise ValueError(
                f"the set of {units} is for a model of {self.total} {units}, but this model has {total}: give a set "
                "that was made for it"
            )
        gates: list[float] = []
        for kind in self.kind.types:
            if len(self.of(kind)) != len(shape[kind]):
                raise ValueError(
                    f"the set of {units} has {len(self.of(kind))} layers of {self.kind.titles[kind]}, "
                    f"but this model has {len(shape[kind])}: give a set that was made for it"
                )
            for i, (kept, size) in enumerate(zip(self.of(kind), shape[kind], strict=True)):
                unknown = [u for u in kept if not 0 <= u < size]
                if unknown:
                    raise ValueError(
                        f"the set of {units} keeps {unit} {unknown[0]} of {kind} layer {i}, "
                        f"but that module has {units} 0 to {size - 1}: give a set that was made for this model"
                    )
                gates += [float(u in kept) for u in range(size)]
        return torch.tensor(gates)

    def content(self) -> dict[str, Any]:
        """Return the set as a JSON object."""
        lists = {kind: [list(layer) for layer in self.of(kind)] for kind in self.kind.types}
        width = {} if self.width is None else {"width": self.width}
        return {**width, "total": self.total, "kept": self.kept, **lists}

    @classmethod
    def parsed(cls, content: Any, kind: Kind, *others: str) -> Self:
        """Return the set that a parsed JSON object describes, as one of this class.

        :param others: keys that it may have besides.
        :raises ValueError: if it lacks a key, lists a unit twice, or its counts disagree with its lists.
        """
        units = kind.units
        keys = [*(["width"] if kind.has_width else []), "total", "kept", *kind.types]
        if not isinstance(content, dict) or set(content) - set(others) != set(keys):
            raise ValueError(f"an object with exactly the keys {', '.join(keys)} is expected")
        layers: list[Layers] = []
        for name in kind.types:
            value = content[name]
            if not isinstance(value, list) or not all(isinstance(layer, list) for layer in value):
                raise ValueError(f"{name} must be a list with a list of {kind.unit} indices for each layer")
            for i, layer in enumerate(value):
                if not all(isinstance(u, int) and not isinstance(u, bool) for u in layer):
                    raise ValueError(f"{name} layer {i} must hold whole numbers, but holds {layer}")
                if len(set(layer)) != len(layer):
                    raise ValueError(f"{name} layer {i} lists a {kind.unit} twice: {layer}")
            layers.append(tuple(tuple(sorted(layer)) for layer in value))
        width = content.get("width") if kind.has_width else None
        if kind.has_width and not (isinstance(width, int) and width > 0):
            raise ValueError(f"the width of its {units} is {width!r}, but a number from 1 on is expected")
        total = content["total"]
        if not isinstance(total, int) or isinstance(total, bool):
            raise ValueError(f"the total of its {units} is {total!r}, but a whole number is expected")
        found = cls(kind, total, tuple(layers), width)
        if found.kept != content["kept"]:
            raise ValueError(f"it says that {content['kept']} {units} are kept, but lists {found.kept}")
        return found


@dataclass(frozen=True)
class HeadSet(UnitSet):
    """A set of heads, and beside it sets of units of other kinds, where a model has a choice of those.

    :param others: the sets of other kinds.
    """

    others: tuple[UnitSet, ...] = ()

    @property
    def all(self) -> tuple[UnitSet, ...]:
        """The sets of all kinds."""
        return (self, *self.others)

    @property
    def alignment_heads(self) -> int | None:
        """The number of heads left in the last layer's cross-attention, from which alignments are read; None for a
        model without cross-attention."""
        layers = self.of(HEADS.crossing)
        return len(layers[-1]) if layers else None

    def set_of(self, kind: Kind) -> UnitSet | None:
        """Return the set of units of a kind; None if it says nothing of them, which means all."""
        return next((units for units in self.all if units.kind is kind), None)

    def counts(self) -> str:
        """Return how many of how many units it has, for people."""
        return " and ".join(f"{units.kept} of {units.total} {units.kind.units}" for units in self.all)

    def to_json(self) -> str:
        """Return the set as one JSON object on one line."""
        others = {units.kind.name: units.content() for units in self.others}
        return json.dumps({"version": VERSION, **self.content(), **others})

    @staticmethod
    def read(path: str | Path) -> HeadSet:
        """Read a set of heads from a JSON file.

        :param path: the file, or the JSON object itself as text: checkpoints hold that.
        :raises ValueError: if the file is missing or does not hold a set of heads.
        """
        try:
            is_object = isinstance(path, str) and path.lstrip().startswith("{")
            content = json.loads(str(path) if is_object else Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ValueError(
                f"the set of heads {path} cannot be read ({error.strerror}): give a JSON file of heads"
            ) from error
        except ValueError as error:
            raise ValueError(
                f"the set of heads {path} is not JSON ({error}): give what fairseq-dsp heads or score-heads wrote"
            ) from error
        try:
            return HeadSet.from_json(content)
        except ValueError as error:
            raise ValueError(
                f"the set of heads {path} cannot be used ({error}): give what fairseq-dsp heads or score-heads wrote"
            ) from error

    @staticmethod
    def from_json(content: Any) -> HeadSet:
        """Return the set that a parsed JSON object describes.

        :raises ValueError: if it lacks a key, is of a later version, lists a unit twice, or its counts disagree with
            its lists.
        """
        if isinstance(content, dict) and content.get("version", 1) not in (1, VERSION):
            raise ValueError(f"it is of version {content['version']}, but this package reads versions 1 to {VERSION}")
        names = [name for name in KINDS if name != HEADS.name]
        heads = HeadSet.parsed(content, HEADS, "version", *names)
        others = []
        for name in names:
            if name in content:
                try:
                    others.append(UnitSet.parsed(content[name], KINDS[name]))
                except ValueError as error:
                    raise ValueError(f"in {name}, {error}") from error
        return replace(heads, others=tuple(others))


def given_units(options: Any, kind: Kind) -> UnitSet | None:
    """Return the units of a kind in the set of ``--kept-heads``, None without one."""
    file = getattr(options, "kept_heads", None)
    return HeadSet.read(file).set_of(kind) if file else None
