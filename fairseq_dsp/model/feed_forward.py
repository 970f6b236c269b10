"""Feed-forward units: neighbouring hidden neurons of a layer as a kind of prunable units.

A unit is rows of ``fc1`` and its bias, and the columns of ``fc2`` that read them; ``fc2``'s bias stays. Both remain the
linear layers that fairseq built, hooks included. fairseq reads the types of options at run time and knows
``Optional[X]`` only, hence no postponed annotations here.
"""

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import torch.nn.functional as F
from fairseq.dataclass import FairseqDataclass
from torch import Tensor, nn

from .gates import scale_columns
from .kinds import Kind, UnitModule, register
from .sets import given_units

SHARE = 16
"""A layer has so many units by default."""


@dataclass
class FeedForwardOptions(FairseqDataclass):
    """How many feed-forward units stay; each field is a flag of the same name with dashes."""

    ffn_units_to_keep: Optional[int] = field(
        default=None,
        metadata={"help": "F: feed-forward units kept in all, of encoder and decoder (default: all, no pruning)"},
    )
    ffn_unit_width: Optional[int] = field(
        default=None,
        metadata={
            "help": "number of neighbouring hidden neurons in a unit (default: a sixteenth of the layer, or of the "
            "greatest common divisor of layers of two sizes)"
        },
    )


class _FeedForwardUnits(Kind):
    def is_chosen(self, options: Any) -> bool:
        return super().is_chosen(options) or given_units(options, self) is not None

    def unit_width(self, options: Any) -> int:
        sizes = {side: getattr(options, f"{side}_ffn_embed_dim", None) for side in ("encoder", "decoder")}
        units, width = given_units(options, self), self.option(options, "width")
        if units is not None and width not in (None, units.width):
            raise ValueError(
                f"--ffn-unit-width is {width}, but the units of --kept-heads are {units.width} neurons wide: give a "
                "set of units of that width, or train with another one"
            )
        given = "--ffn-unit-width is" if units is None else "the units of --kept-heads have the width"
        width = width or (None if units is None else units.width)
        if width is None:
            common = math.gcd(*filter(None, sizes.values()))
            if common % SHARE:
                raise ValueError(
                    f"the feed-forward layers have {' and '.join(map(str, sorted(set(filter(None, sizes.values())))))} "
                    f"hidden neurons, which do not make {SHARE} equal units: give --ffn-unit-width W that divides them"
                )
            return common // SHARE
        for side, size in sizes.items():
            if size and (width < 1 or size % width):
                raise ValueError(
                    f"{given} {width}, but the {side}'s feed-forward layers have {size} hidden neurons: "
                    "give a width that divides them"
                )
        return int(width)

    def describe(self, kind: str, layer: int, name: str, module: Any, options: Any) -> UnitModule:
        width = self.unit_width(options) if self.is_chosen(options) else 1
        inside = getattr(module.fc1, "out_features", 0)  # without units it is no linear layer any more
        return _module(kind, layer, name, module.fc2.bias.numel(), inside, width, FeedForward(module, width))

    def find(self, kind: str, layer: int, name: str, names: Container[str], options: Any) -> UnitModule | None:
        if f"{name}.fc2.bias" not in names:
            return None
        side, _ = self.places[kind]
        sizes = getattr(options, f"{side}_embed_dim"), getattr(options, f"{side}_ffn_embed_dim")
        return _module(kind, layer, name, *sizes, self.unit_width(options))


FFN = register(
    _FeedForwardUnits(
        name="ffn",
        units="feed-forward units",
        titles={"encoder": "encoder feed-forward", "decoder": "decoder feed-forward"},
        places={"encoder": ("encoder", ""), "decoder": ("decoder", "")},
        options={"to_keep": "ffn_units_to_keep", "width": "ffn_unit_width", "updates": "heads_to_keep_updates"},
    )
)


def _module(
    kind: str, layer: int, name: str, outside: int, inside: int, width: int, module: "FeedForward | None" = None
) -> UnitModule:
    parameters: dict[str, tuple[int, tuple[int, ...]]] = {
        "fc1.weight": (0, (inside, outside)),
        "fc1.bias": (0, (inside,)),
        "fc2.weight": (1, (outside, inside)),
    }
    return UnitModule(FFN, kind, layer, name, inside // width, width, parameters, module)


class FeedForward:
    """The feed-forward part of a layer, whose units can be gated or left out; see :class:`~.kinds.GatedModule`.

    It has no state of its own: that is in the layer's ``fc1`` and ``fc2``, which are torch's linear layers until there
    is some.

    :param layer: a layer that fairseq built.
    :param width: number of hidden neurons of a unit.
    """

    can_skip_units = True
    together = ("fc1.weight",), ("fc1.bias",), ("fc2.weight",)

    def __init__(self, layer: Any, width: int) -> None:
        self.layer = layer
        self.width = width

    def _begin(self) -> None:
        for name, own in (("fc1", _First), ("fc2", _Last)):
            if type(linear := getattr(self.layer, name)) is nn.Linear:
                linear.__class__ = own

    @property
    def owner(self) -> nn.Module:
        """The layer, which has the parameters."""
        owner: nn.Module = self.layer
        return owner

    @property
    def given(self) -> tuple[Tensor, ...]:
        """What it computes with in place of its own parameters; see :class:`~.kinds.GatedModule`."""
        given: tuple[Tensor, ...] = (*getattr(self.layer.fc1, "given", ()), *getattr(self.layer.fc2, "given", ()))
        return given

    @given.setter
    def given(self, given: tuple[Tensor, ...]) -> None:
        if given or self.given:
            self._begin()
            self.layer.fc1.given, self.layer.fc2.given = given[:-1], given[-1:]

    @property
    def is_noisy(self) -> bool:
        """Whether training changes the parameters where they are called, as quantisation noise does."""
        return bool(self.layer.fc2._forward_pre_hooks)

    @property
    def training(self) -> bool:
        """Whether the layer is in training mode."""
        return bool(self.layer.training)

    @property
    def gate(self) -> Tensor | None:
        """What multiplies each unit; None for 1. *Shape:* (units)"""
        gate: Tensor | None = getattr(self.layer.fc2, "gate", None)
        return gate

    @gate.setter
    def gate(self, gate: Tensor | None) -> None:
        if gate is not None or self.gate is not None:
            self._begin()
            self.layer.fc2.gate = gate

    @property
    def kept(self) -> tuple[int, ...] | None:
        """The only units to compute; None for all there are parameters for."""
        kept: tuple[int, ...] | None = getattr(self.layer.fc1, "kept", None)
        return kept

    @kept.setter
    def kept(self, kept: Sequence[int] | None) -> None:
        first, last = self.layer.fc1, self.layer.fc2
        kept = None if kept is None or len(kept) * self.width == first.out_features else tuple(kept)
        if kept == self.kept:
            return
        self._begin()
        for linear in (first, last):
            linear.kept = kept
            linear.weight.at_rest = kept == ()  # the optimiser leaves it as it is

    def remove(self, description: UnitModule, kept: Sequence[int]) -> None:
        """Remove the parameters of all units that are not *kept*, for good; without units, only the last bias stays."""
        layers = {name: getattr(self.layer, name) for name in ("fc1", "fc2")}
        self.gate, self.kept, self.given = None, None, ()
        trained = layers["fc2"].bias.requires_grad
        both = {f"{name}.{part}": w for name, layer in layers.items() for part, w in layer.state_dict().items()}
        left = {n: nn.Parameter(w, requires_grad=trained) for n, w in description.remove(both, kept).items()}
        if not kept:
            self.layer.fc1, self.layer.fc2 = _NoNeurons(), _OnlyBias(left["fc2.bias"])
            return
        for name, layer in layers.items():
            layer.weight, layer.bias = left[f"{name}.weight"], left[f"{name}.bias"]
            layer.out_features, layer.in_features = layer.weight.shape


class _Skipping(nn.Linear):
    """A linear layer that can leave out units, of which it computes or reads the neurons."""

    kept: tuple[int, ...] | None = None
    given: tuple[Tensor, ...] = ()


class _First(_Skipping):
    """The layer whose rows are the hidden neurons."""

    def forward(self, x: Tensor) -> Tensor:
        if self.kept is None:
            return super().forward(x)
        # without units with gradients of 0, as other processes expect
        return F.linear(x, *(self.given if self.kept else (self.weight[:0], self.bias[:0])))


class _Last(_Skipping):
    """The layer that reads the hidden neurons."""

    gate: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.gate is not None:
            return F.linear(x, scale_columns(self.weight, self.gate), self.bias)
        if self.kept == ():
            return F.linear(x, self.weight[:, :0], self.bias)
        return F.linear(x, self.given[0], self.bias) if self.given else super().forward(x)


class _NoNeurons(nn.Module):
    """In place of the first layer where no unit is left."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., :0]


class _OnlyBias(nn.Module):
    """In place of the last layer where no unit is left."""

    def __init__(self, bias: nn.Parameter) -> None:
        super().__init__()
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(*x.shape[:-1], -1)
