"""Sets of heads: which ones of an unpruned model are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .units import TYPES

VERSION = 2
"""Of the JSON form; files without a version are of version 1, which has the same keys otherwise."""

Layers = tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class HeadSet:
    """A set of heads of an unpruned model: for each type and layer, the indices kept, ascending from 0.

    :param total: number of heads of the unpruned model.
    """

    total: int
    encoder_self: Layers
    decoder_self: Layers
    cross: Layers

    @property
    def kept(self) -> int:
        """Number of heads in the set."""
        return sum(len(layer) for kind in TYPES for layer in self.of(kind))

    def of(self, kind: str) -> Layers:
        """The kept heads of each layer for one of :data:`TYPES`."""
        layers: Layers = getattr(self, kind)
        return layers

    @staticmethod
    def from_gates(gates: Tensor, shape: Mapping[str, Sequence[int]]) -> HeadSet:
        """The heads whose gate is not zero.

        :param gates: *Shape:* (N), heads numbered by type, layer and index.
        :param shape: for each type, the number of heads of each layer.
        """
        values = iter(gates.tolist())
        layers = {kind: tuple(tuple(h for h in range(n) if next(values)) for n in shape[kind]) for kind in TYPES}
        return HeadSet(total=gates.numel(), **layers)

    def to_gates(self, shape: Mapping[str, Sequence[int]]) -> Tensor:
        """Return the set as 0/1 gates. *Shape:* (N).

        :param shape: for each type, the number of heads of each layer of the model.
        :raises ValueError: if the set is not one of heads of such a model.
        """
        total = sum(sum(layers) for layers in shape.values())
        if self.total != total:
            raise ValueError(f"the set of heads is for a model of {self.total} heads, but this model has {total}")
        gates: list[float] = []
        for kind in TYPES:
            if len(self.of(kind)) != len(shape[kind]):
                raise ValueError(
                    f"the set of heads has {len(self.of(kind))} layers of {kind} attention, "
                    f"but this model has {len(shape[kind])}"
                )
            for i, (kept, heads) in enumerate(zip(self.of(kind), shape[kind], strict=True)):
                unknown = [h for h in kept if not 0 <= h < heads]
                if unknown:
                    raise ValueError(
                        f"the set of heads keeps head {unknown[0]} of {kind} layer {i}, "
                        f"but that module has heads 0 to {heads - 1}"
                    )
                gates += [float(h in kept) for h in range(heads)]
        return torch.tensor(gates)

    def to_json(self) -> str:
        """Return the set as one JSON object on one line."""
        lists = {kind: [list(layer) for layer in self.of(kind)] for kind in TYPES}
        return json.dumps({"version": VERSION, "total": self.total, "kept": self.kept, **lists})

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
            raise ValueError(f"the set of heads {path} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise ValueError(f"the set of heads {path} is not JSON: {error}") from error
        try:
            return HeadSet.from_json(content)
        except ValueError as error:
            raise ValueError(f"the set of heads {path} is not usable: {error}") from error

    @staticmethod
    def from_json(content: Any) -> HeadSet:
        """Return the set that a parsed JSON object describes.

        :raises ValueError: if it lacks a key, is of a later version, lists a head twice, or its counts disagree with
            its lists.
        """
        if isinstance(content, dict) and content.get("version", 1) not in (1, VERSION):
            raise ValueError(
                f"it is of version {content['version']}, but this package reads versions 1 to {VERSION}: write it with "
                "this version of the package, or use a later one"
            )
        if not isinstance(content, dict) or set(content) - {"version"} != {"total", "kept", *TYPES}:
            raise ValueError(f"an object with exactly the keys total, kept, {', '.join(TYPES)} is expected")
        layers: dict[str, Layers] = {}
        for kind in TYPES:
            value = content[kind]
            if not isinstance(value, list) or not all(isinstance(layer, list) for layer in value):
                raise ValueError(f"{kind} must be a list with a list of head indices for each layer")
            for i, layer in enumerate(value):
                if not all(isinstance(h, int) and not isinstance(h, bool) for h in layer):
                    raise ValueError(f"{kind} layer {i} must hold whole numbers, but holds {layer}")
                if len(set(layer)) != len(layer):
                    raise ValueError(f"{kind} layer {i} lists a head twice: {layer}")
            layers[kind] = tuple(tuple(sorted(layer)) for layer in value)
        heads = HeadSet(total=content["total"], **layers)
        if heads.kept != content["kept"]:
            raise ValueError(f"it says that {content['kept']} heads are kept, but lists {heads.kept}")
        return heads
