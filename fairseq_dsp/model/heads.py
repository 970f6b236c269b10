"""Which attention heads a model has, and sets of them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

TYPES = ("encoder_self", "decoder_self", "cross")
"""The attention types, in the order in which heads are numbered."""


@dataclass(frozen=True)
class AttentionModule:
    """One attention module of a model.

    :param type: one of :data:`TYPES`.
    :param layer: index of its layer in the encoder or decoder, counted from 0.
    :param name: its name in the state dict, such as ``encoder.layers.0.self_attn``.
    :param attention: the module.
    """

    type: str
    layer: int
    name: str
    attention: nn.Module

    @property
    def heads(self) -> int:
        """Number of heads of the module."""
        return int(self.attention.num_heads)  # type: ignore[arg-type]


def attention_modules(model: nn.Module) -> Iterator[AttentionModule]:
    """Yield the attention modules of an encoder–decoder Transformer in the order in which heads are numbered."""
    places = {
        "encoder_self": ("encoder", "self_attn"),
        "decoder_self": ("decoder", "self_attn"),
        "cross": ("decoder", "encoder_attn"),
    }
    for kind in TYPES:
        stack, attribute = places[kind]
        layers = getattr(model, stack).layers
        # by index: iterating a stack with LayerDrop skips layers at random
        for i in range(len(layers)):
            attention = getattr(layers[i], attribute)
            if attention is not None:
                yield AttentionModule(kind, i, f"{stack}.layers.{i}.{attribute}", attention)


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
        return json.dumps({"total": self.total, "kept": self.kept, **lists})

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

        :raises ValueError: if it lacks a key, lists a head twice, or its counts disagree with its lists.
        """
        if not isinstance(content, dict) or set(content) != {"total", "kept", *TYPES}:
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
