"""The gate: an attention module's output projection that scales each head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class GatedProjection(nn.Linear):
    """The output projection W_o of an attention module, with an importance and a gate for each head.

    Gating head h's output by g_h before the projection is scaling by g_h the columns of W_o that read that head. So
    reading :attr:`weight` gives the scaled matrix while a gate is set, whoever reads it — the fused attention path or
    the incremental one — and the stock attention computes the gated one. The parameters keep their stock names.

    :param projection: the projection to take the place of; its parameters are shared, not copied.
    :param heads: number of heads H that it reads, each ``in_features / H`` columns wide.
    """

    importance: nn.Parameter
    """One number a head, in float32 whatever the model: half precision would make ties. *Shape:* (H)"""

    def __init__(self, projection: nn.Linear, heads: int) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = projection.in_features, projection.out_features
        self.register_parameter("weight", projection._parameters["weight"])
        self.register_parameter("bias", projection._parameters["bias"])
        self.importance = nn.Parameter(torch.zeros(heads))
        self._gate: Tensor | None = None
        self._scaled: Tensor | None = None

    @property
    def gate(self) -> Tensor | None:
        """The gates now in force, or None for gates of exactly 1. *Shape:* (H)"""
        return self._gate

    @gate.setter
    def gate(self, gate: Tensor | None) -> None:
        self._gate, self._scaled = gate, None

    def __getattr__(self, name: str) -> Any:
        # nn.Module resolves parameters here; state dicts and optimisers read them elsewhere and see the stock matrix
        value: Any = super().__getattr__(name)
        if name != "weight" or self._gate is None:
            return value
        if torch.is_grad_enabled():
            return _ScaledColumns.apply(value, self._gate)
        if self._scaled is None:  # decoding reads it at every step
            self._scaled = _scaled_columns(value, self._gate)
        return self._scaled

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> GatedProjection:
        exact = self.importance.data
        super()._apply(fn, recurse)
        if self.importance.dtype != exact.dtype:
            self.importance.data = exact.to(self.importance.device)
        self.gate = None
        return self

    def __getstate__(self) -> dict[str, Any]:
        # gates belong to one forward pass; a sampled one carries a graph, which can be neither copied nor pickled
        return {**self.__dict__, "_gate": None, "_scaled": None}


class _ScaledColumns(torch.autograd.Function):
    """:func:`_scaled_columns`, in few operations: a GPU launches each of them in every module at every update."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, gate: Tensor) -> Tensor:
        ctx.save_for_backward(weight, gate)
        return _scaled_columns(weight, gate)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        weight, gate = ctx.saved_tensors
        to_weight = _scaled_columns(grad, gate) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return to_weight, None
        # in float32: it sums over a whole block of the matrix, which half precision may overflow
        columns = (grad.float() * weight).sum(0)
        return to_weight, columns.view(gate.numel(), -1).sum(1).to(gate)


def _scaled_columns(matrix: Tensor, gate: Tensor) -> Tensor:
    """Return the matrix with the columns of head h times g_h, rounded once to its own precision."""
    heads = matrix.unflatten(1, (gate.numel(), -1))
    factors = gate.to(matrix.device).unsqueeze(1)
    return torch.mul(heads, factors, out=torch.empty_like(heads)).flatten(1)
