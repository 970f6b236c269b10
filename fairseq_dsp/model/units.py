"""Where the units of a model are: its architecture, and the modules of each kind."""

from __future__ import annotations

from collections.abc import Collection, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from fairseq.models import ARCH_MODEL_NAME_REGISTRY
from torch import Tensor, nn

from .attention_heads import HEADS
from .kinds import KINDS, Kind, UnitModule


@dataclass(frozen=True)
class Architecture:
    """Where the models of an architecture have their layers.

    :param model: the name of this package's model; all its sizes begin with it.
    :param stock: the name of fairseq's own model, which has the same parameters.
    :param stacks: for ``encoder`` and ``decoder``, where the architecture has one, its list of layers.
    """

    model: str
    stock: str
    stacks: Mapping[str, str]

    def types(self, kind: Kind) -> list[str]:
        """Return the types of modules of a kind that the architecture has."""
        return [name for name, (stack, _) in kind.places.items() if stack in self.stacks]

    def sized(self, given: str) -> str:
        """Return the size of this package's model that is like *given*, the model itself where there is none.

        :param given: the name of a size of either model.
        """
        from fairseq.models import ARCH_CONFIG_REGISTRY

        name = given if given.startswith(self.model) else given.replace(self.stock, self.model, 1)
        return name if name in ARCH_CONFIG_REGISTRY else self.model

    def place(self, kind: Kind, of_type: str, layer: int) -> str:
        """Return the name of a module in the state dict."""
        stack, attribute = kind.places[of_type]
        return f"{self.stacks[stack]}.{layer}" + f".{attribute}" * bool(attribute)


TRANSFORMER = Architecture(
    model="transformer_dsp",
    stock="transformer",
    stacks={"encoder": "encoder.layers", "decoder": "decoder.layers"},
)

ROBERTA = Architecture(
    model="roberta_dsp",
    stock="roberta",
    stacks={"encoder": "encoder.sentence_encoder.layers"},
)

ARCHITECTURES = {architecture.model: architecture for architecture in (TRANSFORMER, ROBERTA)}
"""The architectures whose units can be pruned, by the name of this package's model."""


def architecture_of(names: Collection[str]) -> Architecture:
    """Return the architecture that has modules or parameters of these names; the Transformer if none has."""
    for architecture in ARCHITECTURES.values():
        stacks = tuple(f"{stack}." for stack in architecture.stacks.values())
        if any(name.startswith(stacks) for name in names):
            return architecture
    return TRANSFORMER


def modules_of(model: nn.Module, kind: Kind = HEADS, options: Any = None) -> Iterator[UnitModule]:
    """Yield the modules of a kind in a model, stock or not, in the order in which units are numbered.

    :param options: the model's, where they say how wide a unit is.
    """
    architecture = architecture_of([name for name, _ in model.named_modules()])
    for of_type in architecture.types(kind):
        stack, attribute = kind.places[of_type]
        layers: Any = model.get_submodule(architecture.stacks[stack])
        for i in range(len(layers)):  # by index: iterating a stack with LayerDrop skips layers at random
            module = getattr(layers[i], attribute) if attribute else layers[i]
            if module is not None:
                yield kind.describe(of_type, i, architecture.place(kind, of_type, i), module, options)


def modules_in(names: Collection[str], options: Any, kind: Kind = HEADS) -> list[UnitModule]:
    """Return the modules of a kind in a checkpoint, in the order in which units are numbered.

    :param names: of its parameters.
    :param options: the model's, with ``encoder_attention_heads``, ``decoder_embed_dim`` and the like.
    """
    architecture, found = architecture_of(names), []
    for of_type in architecture.types(kind):
        layer = 0
        while module := kind.find(of_type, layer, architecture.place(kind, of_type, layer), names, options):
            found.append(module)
            layer += 1
    return found


class _EveryName(Container[str]):
    """The parameters of a model that is not built: all there could be."""

    def __contains__(self, name: object) -> bool:
        return True


def model_of(arch: str) -> str:
    """Return the name of the model that an architecture of fairseq's gives sizes to."""
    return str(ARCH_MODEL_NAME_REGISTRY.get(arch, arch))


def modules_by(options: Any, kind: Kind = HEADS) -> list[UnitModule]:
    """Return the modules of a kind of the model that some options build, in the order in which units are numbered."""
    architecture, found = ARCHITECTURES[model_of(str(options.arch))], list[UnitModule | None]()
    for of_type in architecture.types(kind):
        for layer in range(int(getattr(options, f"{kind.places[of_type][0]}_layers"))):
            found.append(kind.find(of_type, layer, architecture.place(kind, of_type, layer), _EveryName(), options))
    return [module for module in found if module is not None]


def shape_by(options: Any, kind: Kind = HEADS) -> dict[str, list[int]]:
    """Return for each type the number of units of each layer of the model that some options build."""
    return shape_of(modules_by(options, kind), kind)


_SHARED = "embed_tokens.weight", "output_projection.weight"
"""Ends of the names of what models may share; copies of a checkpoint, such as averages, hold each apart."""

_UNREAD = ".lm_head."


def is_weight(name: str) -> bool:
    """Whether an entry of a state dict is a weight of the stock model, and not what choosing or fairseq keeps there."""
    bookkeeping = (".version", "_float_tensor", "out_proj.importance")  # the last is version 0.1's
    return not (name.startswith(tuple(f"{kind}." for kind in KINDS)) or name.endswith(bookkeeping))


def count_parameters(state: Mapping[str, Tensor]) -> int:
    """Return the number of parameters of a state dict, where an embedding under several names counts once.

    The head of the language model that a pretrained classifier has does not count: nothing reads it.
    """
    weights = {name: weight for name, weight in sharing(state).items() if is_weight(name) and _UNREAD not in name}
    embeddings = {id(weight): weight for name, weight in weights.items() if name.endswith(_SHARED)}
    others = [weight for name, weight in weights.items() if not name.endswith(_SHARED)]
    return sum(weight.numel() for weight in (*embeddings.values(), *others))


def sharing(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict in which an embedding that is there under several names is one tensor, as in the model."""
    result = dict(state)
    seen: list[Tensor] = []
    for name, weight in state.items():
        if name.endswith(_SHARED):
            equal = (one for one in seen if one.shape == weight.shape and torch.equal(one, weight))
            result[name] = next(equal, weight)
            seen.append(result[name])
    return result


def shape_of(modules: Sequence[UnitModule], kind: Kind = HEADS) -> dict[str, list[int]]:
    """Return for each type of a kind the number of units of each of its modules, by layer."""
    return {name: [m.units for m in modules if m.type == name] for name in kind.types}


def ranges(sizes: Sequence[int]) -> list[range]:
    """Return consecutive ranges of the given sizes, from 0."""
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return [range(end - size, end) for size, end in zip(sizes, ends, strict=True)]
