"""Prunable units: what they are, which parameters belong to them, and removing them.

A *unit* is what a gate switches on or off: an attention head, for example. Units of one *kind* share an importance
vector, a budget and a selection; a *module* holds several of them, side by side along one dimension of its parameters.
Gating a unit is scaling the columns of the module's last projection that read it. So a kind is described by its types
of modules and by the dimension along which each parameter holds the units, and everything else (budgets, sets of units,
compact models, exports, reports) follows from that. Another kind is another :class:`Kind`; another architecture is an
:class:`Architecture`, which says where the modules of each type are. A type of which it has none has no units.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from torch import Tensor, nn


@dataclass(frozen=True)
class Kind:
    """A kind of prunable units.

    :param name: what options, logs and checkpoints call its units, such as ``heads``.
    :param titles: for each type of modules, in the order in which units are numbered, what people call it.
    :param budgets: for each type, the option that gives it a budget of its own.
    :param floors: for some types, the option that gives the least number of units of all its modules together. The
        first has its units first.
    """

    name: str
    titles: Mapping[str, str]
    budgets: Mapping[str, str]
    floors: Mapping[str, str]

    @property
    def types(self) -> tuple[str, ...]:
        """The types of modules, in the order in which units are numbered."""
        return tuple(self.titles)

    def default_floor(self, kind: str, total: int) -> int:
        """The least number of units of a type in a budget of *total*, for a selection that chooses early.

        The decoder learns from its own words before it looks at the source, so an early choice of few heads may leave
        none in cross-attention; and the worth of the encoder's heads shows last.
        """
        return {"cross": 1, "encoder_self": round(total / 9)}.get(kind, 0)


HEADS = Kind(
    name="heads",
    titles={
        "encoder_self": "encoder self-attention",
        "decoder_self": "decoder self-attention",
        "cross": "cross-attention",
    },
    budgets={
        "encoder_self": "encoder_heads_to_keep",
        "decoder_self": "decoder_heads_to_keep",
        "cross": "cross_heads_to_keep",
    },
    floors={"cross": "min_cross_heads", "encoder_self": "min_encoder_heads"},
)

TYPES = HEADS.types
"""The attention types, in the order in which heads are numbered."""


@dataclass(frozen=True)
class Architecture:
    """Where the models of an architecture have their attention modules.

    :param model: the name of this package's model; all its sizes begin with it.
    :param stock: the name of fairseq's own model, which has the same parameters.
    :param places: for each type of modules that the architecture has, its list of layers and the attribute of a layer.
    """

    model: str
    stock: str
    places: Mapping[str, tuple[str, str]]

    def place(self, kind: str, layer: int) -> str:
        """Return the name of a module in the state dict."""
        stack, attribute = self.places[kind]
        return f"{stack}.{layer}.{attribute}"


TRANSFORMER = Architecture(
    model="transformer_dsp",
    stock="transformer",
    places={
        "encoder_self": ("encoder.layers", "self_attn"),
        "decoder_self": ("decoder.layers", "self_attn"),
        "cross": ("decoder.layers", "encoder_attn"),
    },
)

ROBERTA = Architecture(
    model="roberta_dsp",
    stock="roberta",
    places={"encoder_self": ("encoder.sentence_encoder.layers", "self_attn")},
)

ARCHITECTURES = {architecture.model: architecture for architecture in (TRANSFORMER, ROBERTA)}
"""The architectures whose heads can be pruned, by the name of this package's model."""


def architecture_of(names: Collection[str]) -> Architecture:
    """Return the architecture that has modules or parameters of these names; the Transformer if none has."""
    for architecture in ARCHITECTURES.values():
        stacks = tuple(f"{stack}." for stack, _ in architecture.places.values())
        if any(name.startswith(stacks) for name in names):
            return architecture
    return TRANSFORMER


@dataclass(frozen=True)
class UnitModule:
    """A module whose units are pruned.

    :param type: one of its kind's types.
    :param layer: index of its layer in the encoder or decoder, counted from 0.
    :param name: its name in the state dict, such as ``encoder.layers.0.self_attn``.
    :param units: number of units of the unpruned module.
    :param width: rows or columns of each unit.
    :param parameters: each parameter that belongs to units → the dimension along which they lie, and its shape in the
        unpruned module. All other parameters of the module stay, even without any unit.
    :param module: the module, if it was found in a model.
    """

    type: str
    layer: int
    name: str
    units: int
    width: int
    parameters: Mapping[str, tuple[int, tuple[int, ...]]]
    module: Any = field(default=None, compare=False, repr=False)

    @property
    def stack(self) -> str:
        """``encoder`` or ``decoder``: where it is."""
        return self.name.partition(".")[0]

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


def modules_of(model: nn.Module) -> Iterator[UnitModule]:
    """Yield the attention modules of a model, stock or not, in the order in which heads are numbered."""
    architecture = architecture_of([name for name, _ in model.named_modules()])
    for kind, (stack, attribute) in architecture.places.items():
        layers: Any = model.get_submodule(stack)
        for i in range(len(layers)):  # by index: iterating a stack with LayerDrop skips layers at random
            attention = getattr(layers[i], attribute)
            if attention is not None:
                sizes = attention.num_heads, attention.head_dim, attention.embed_dim, attention.kdim
                yield attention_module(kind, i, architecture.place(kind, i), *sizes, module=attention)


def modules_in(names: Collection[str], options: Any) -> list[UnitModule]:
    """Return the attention modules of a checkpoint in the order in which heads are numbered.

    :param names: of its parameters.
    :param options: the model's, with ``encoder_attention_heads``, ``decoder_embed_dim`` and the like.
    """
    architecture = architecture_of(names)
    found = []
    for kind, (stack, _) in architecture.places.items():
        side = stack.partition(".")[0]
        heads, width = getattr(options, f"{side}_attention_heads"), getattr(options, f"{side}_embed_dim")
        key_width = options.encoder_embed_dim if kind == "cross" else width
        i = 0
        while f"{architecture.place(kind, i)}.out_proj.bias" in names:
            found.append(
                attention_module(kind, i, architecture.place(kind, i), heads, width // heads, width, key_width)
            )
            i += 1
    return found


def shape_by(options: Any) -> dict[str, list[int]]:
    """Return for each type the number of heads of each layer of the model that some options build."""
    arch = str(options.arch)
    places = ARCHITECTURES[ARCH_MODEL_NAME_REGISTRY.get(arch, arch)].places
    sides = {kind: places[kind][0].partition(".")[0] for kind in HEADS.types if kind in places}
    shape: dict[str, list[int]] = {kind: [] for kind in HEADS.types}
    for kind, side in sides.items():
        shape[kind] = [int(getattr(options, f"{side}_attention_heads"))] * int(getattr(options, f"{side}_layers"))
    return shape


def attention_module(
    kind: str, layer: int, name: str, heads: int, head_dim: int, width: int, key_width: int, *, module: Any = None
) -> UnitModule:
    """Return the description of an attention module: the rows of its projections and the columns of the last."""
    inner = heads * head_dim
    parameters: dict[str, tuple[int, tuple[int, ...]]] = {}
    for part, read in (("q", width), ("k", key_width), ("v", key_width)):
        parameters |= {f"{part}_proj.weight": (0, (inner, read)), f"{part}_proj.bias": (0, (inner,))}
    parameters["out_proj.weight"] = (1, (width, inner))
    return UnitModule(kind, layer, name, heads, head_dim, parameters, module)


def is_weight(name: str) -> bool:
    """Whether an entry of a state dict is a weight of the stock model, and not what choosing or fairseq keeps there."""
    bookkeeping = (".version", "_float_tensor", "out_proj.importance")  # the last is version 0.1's
    return not (name.startswith(f"{HEADS.name}.") or name.endswith(bookkeeping))


def shape_of(modules: Sequence[UnitModule], kind: Kind = HEADS) -> dict[str, list[int]]:
    """Return for each type the number of units of each of its modules, by layer."""
    return {name: [m.units for m in modules if m.type == name] for name in kind.types}
