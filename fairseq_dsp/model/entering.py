"""What modules compute with in place of their parameters, made for all of them at once as a forward pass begins.

A GPU launches a few operations for this, whatever the number of modules. Modules read leaves, which have no graph. They
may use them anywhere in the forward pass, activation checkpointing included, which goes backward through each layer by
itself. The gradients that they leave there go on once in each backward pass, where the forward pass began.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..subset.device import beside
from .gates import scale_columns
from .kinds import UnitModule


class Entering(Protocol):
    """What the modules compute with in one forward pass."""

    @property
    def sources(self) -> Sequence[Tensor]:
        """What it was made from."""

    def gradients(self) -> Sequence[Tensor | None]:
        """Take the gradients that the modules have left, and return those of the sources."""


class Graph:
    """Lives for as long as something can go backward through a forward pass, and has not."""


def enter(x: Tensor, entering: Entering, graph: Graph | None = None) -> Tensor:
    """Return *x*, with which a forward pass begins: the sources get their gradients when it gets its own.

    autograd works through its nodes from the last made to the first: all modules have left their gradients by then.
    """
    if torch.is_grad_enabled() and any(source.requires_grad for source in entering.sources):
        x = _Enter.apply(x, entering, graph, *entering.sources)
    return x


class _Enter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, entering: Entering, graph: Graph | None, *sources: Tensor) -> Tensor:
        ctx.entering, ctx.graph = entering, graph
        return x.view_as(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ctx.graph = None
        return grad if ctx.needs_input_grad[0] else None, None, None, *ctx.entering.gradients()


def with_gradients(x: Tensor, *others: Tensor) -> Tensor:
    """Return *x*; the others, which it is not computed from, get gradients of 0, as other processes expect.

    Parameters at rest get none where there is no other process: the zeros of a matrix cost time to write, to scale and
    to clip.
    """
    result: Tensor = _WithGradients.apply(x, *others)
    return result


class _WithGradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *others: Tensor) -> Tensor:
        ctx.others = others
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
        zero = grad.new_zeros(())
        zeros = (
            None
            if not other.requires_grad or (alone and getattr(other, "at_rest", False))
            else zero.to(other).expand_as(other)
            for other in ctx.others
        )
        return grad, *zeros


class NoGradient:
    """A parameter that nothing reads: its gradient is 0, as other processes expect one."""

    def __init__(self, parameter: Tensor) -> None:
        self.sources = (parameter,)

    def gradients(self) -> Sequence[Tensor]:
        """Return zeros."""
        return [torch.zeros_like(source) for source in self.sources]


class Gates:
    """The gates of each module, which it scales the columns of its last matrix by.

    :param modules: what gets them.
    :param columns: the gate of each column, module after module; float32. *Shape:* (sum of columns)
    """

    def __init__(self, modules: Sequence[UnitModule], columns: Tensor) -> None:
        self.sources = (columns,)
        self._leaves = columns.detach().split([module.units * module.width for module in modules])
        for module, leaf in zip(modules, self._leaves, strict=True):
            module.module.gate = leaf.requires_grad_(columns.requires_grad and torch.is_grad_enabled())

    def gradients(self) -> Sequence[Tensor]:
        """Return those of the columns. *Shape:* (sum of columns)"""
        taken = zip(_take(self._leaves), self._leaves, strict=True)
        return [torch.cat([torch.zeros_like(leaf) if own is None else own for own, leaf in taken])]


class ScaledColumns:
    """The last matrix of each module, its columns scaled by gates; see :func:`~.gates.scale_columns`.

    :param modules: what gets them.
    :param columns: the gate of each column, module after module; float32. *Shape:* (sum of columns)
    """

    def __init__(self, modules: Sequence[UnitModule], columns: Tensor) -> None:
        weights = [module.parameter(module.last) for module in modules]
        self.sources = (columns, *weights)
        self._factors = columns.detach().split([weight.shape[1] for weight in weights])
        self._groups = _grouped((weight.shape, weight.dtype, weight.requires_grad) for weight in weights)
        self._leaves = list(weights)
        learning = torch.is_grad_enabled()
        with torch.no_grad():
            for group in self._groups:
                learns = learning and (columns.requires_grad or weights[group[0]].requires_grad)
                for i, scaled in zip(group, scale_columns(*self._stacked(group)).unbind(), strict=True):
                    self._leaves[i] = scaled.requires_grad_(learns)
        for module, leaf in zip(modules, self._leaves, strict=True):
            module.module.given = (leaf,)

    def _stacked(self, group: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return the matrices of a group and their gates. *Shapes:* (M, C, columns), (M, 1, columns)"""
        weights = torch.stack([self.sources[1 + i] for i in group])
        return weights, torch.stack([self._factors[i] for i in group]).unsqueeze(1)

    @torch.no_grad()
    def gradients(self) -> Sequence[Tensor | None]:
        """Return those of the columns, *Shape:* (sum of columns), and of the matrices."""
        columns, *weights = self.sources
        of_leaves = {i: own for i, own in enumerate(_take(self._leaves)) if own is not None}
        of_columns = [f if i in of_leaves else torch.zeros_like(f) for i, f in enumerate(self._factors)]
        of_weights: list[Tensor | None] = [None] * len(weights)
        for group in self._groups:
            read = [i for i in group if i in of_leaves]
            if not read:
                continue
            gradients = torch.stack([of_leaves[i] for i in read])
            own, factors = self._stacked(read)
            if columns.requires_grad:
                exact = gradients.to(torch.promote_types(gradients.dtype, factors.dtype))
                for i, gradient in zip(read, (exact * own).sum(1).unbind(), strict=True):
                    of_columns[i] = gradient
            if weights[group[0]].requires_grad:
                for i, gradient in zip(read, scale_columns(gradients, factors).unbind(), strict=True):
                    of_weights[i] = gradient
        return torch.cat(of_columns) if columns.requires_grad else None, *of_weights


@dataclass(frozen=True)
class _Leaf:
    """What a module reads as one tensor: its place there, how many rows or columns it has, and its sources."""

    module: UnitModule
    place: int
    size: int
    sources: range


@dataclass(frozen=True)
class _Slab:
    """Leaves cut from parameters of one shape, side by side.

    :param dim: 0 for rows, 1 for columns.
    :param shape: of each parameter.
    :param leaves: in order.
    :param runs: for each piece of neighbours, its parameter among the sources, the first row or column, and how many.
    :param index: for each row or column, its parameter among those of the slab, and its place there.
    """

    dim: int
    shape: torch.Size
    leaves: Sequence[_Leaf]
    runs: Sequence[tuple[int, int, int]]
    index: tuple[Tensor, Tensor]


class KeptParts:
    """Which rows and columns belong to the kept units, as each module reads them; cut anew in each forward pass.

    :param modules: the modules; one without kept units, or with all of them kept, gets nothing.
    :param kept: the units to compute, for each module.
    """

    def __init__(self, modules: Sequence[UnitModule], kept: Sequence[Sequence[int]]) -> None:
        self.names: list[tuple[UnitModule, str]] = []
        leaves, runs, rows, keys = [], [], [], []
        for module, units in zip(modules, kept, strict=True):
            if not 0 < len(units) < module.units:
                continue
            own = module.rows(units).tolist()
            for place, names in enumerate(module.module.together):
                sources = range(len(self.names), len(self.names) + len(names))
                self.names += [(module, name) for name in names]
                leaves.append(_Leaf(module, place, len(names) * len(own), sources))
                pieces = [(first * module.width, number * module.width) for first, number in _runs(units)]
                runs.append([(source, *piece) for source in sources for piece in pieces])
                rows.append(own)
                parameter = module.parameter(names[0])
                keys.append((module.parameters[names[0]][0], parameter.shape, parameter.dtype))
        self.slabs = []
        for group in _grouped(keys):
            dim, shape, _ = keys[group[0]]
            of_parameters = [rows[i] for i in group for _ in leaves[i].sources]
            index = torch.tensor([(i, row) for i, own in enumerate(of_parameters) for row in own])
            first, second = beside(index.t().contiguous(), parameter.device).unbind()
            slab = [leaves[i] for i in group]
            self.slabs.append(_Slab(dim, shape, slab, [run for i in group for run in runs[i]], (first, second)))

    def cut(self) -> Entering:
        """Give each module its parts of the parameters, as these are now."""
        return _CutParts(self)


class _CutParts:
    def __init__(self, parts: KeptParts) -> None:
        self.sources = [module.parameter(name) for module, name in parts.names]
        self._slabs = [(slab, self._cut(slab)) for slab in parts.slabs]
        given: dict[str, dict[int, Tensor]] = {}
        for slab, leaves in self._slabs:
            for described, leaf in zip(slab.leaves, leaves, strict=True):
                given.setdefault(described.module.name, {})[described.place] = leaf
        for module, _ in parts.names:
            module.module.given = tuple(leaf for _, leaf in sorted(given[module.name].items()))

    def _cut(self, slab: _Slab) -> tuple[Tensor, ...]:
        with torch.no_grad():
            pieces = [self.sources[source].narrow(slab.dim, first, number) for source, first, number in slab.runs]
            leaves = torch.cat(pieces, slab.dim).split([leaf.size for leaf in slab.leaves], slab.dim)
        for described, leaf in zip(slab.leaves, leaves, strict=True):
            learns = any(self.sources[source].requires_grad for source in described.sources)
            leaf.requires_grad_(learns and torch.is_grad_enabled())
        return leaves

    @torch.no_grad()
    def gradients(self) -> Sequence[Tensor | None]:
        """Return those of the parameters: 0 for what was not computed, None for modules that were not used."""
        found: list[Tensor | None] = [None] * len(self.sources)
        for slab, leaves in self._slabs:
            taken = _take(leaves)
            if all(gradient is None for gradient in taken):
                continue
            pieces = [torch.zeros_like(leaf) if own is None else own for leaf, own in zip(leaves, taken, strict=True)]
            gradient = torch.cat(pieces, slab.dim)
            sources = [source for leaf in slab.leaves for source in leaf.sources]
            whole = gradient.new_zeros(len(sources), *slab.shape)
            if slab.dim:
                whole.transpose(1, 2)[slab.index] = gradient.t()
            else:
                whole[slab.index] = gradient
            used = [own is not None for leaf, own in zip(slab.leaves, taken, strict=True) for _ in leaf.sources]
            for source, own, is_used in zip(sources, whole.unbind(), used, strict=True):
                found[source] = own if is_used else None
        return found


def _take(leaves: Iterable[Tensor]) -> list[Tensor | None]:
    taken = []
    for leaf in leaves:
        taken.append(leaf.grad)
        leaf.grad = None
    return taken


def _grouped(keys: Iterable[Hashable]) -> list[list[int]]:
    """Return the numbers of equal keys together."""
    groups: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        groups.setdefault(key, []).append(i)
    return list(groups.values())


def _runs(units: Sequence[int]) -> list[tuple[int, int]]:
    """Return the pieces of neighbours in increasing numbers: the first of each, and how many it has."""
    found: list[tuple[int, int]] = []
    for unit in units:
        if found and sum(found[-1]) == unit:
            found[-1] = found[-1][0], found[-1][1] + 1
        else:
            found.append((unit, 1))
    return found
