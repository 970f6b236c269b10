"""What is logged of a choice: numbers of units, and whether the importance variables can learn."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from ..subset import GRADIENT_BOUND
from ..subset.device import beside
from .attention_heads import HEADS
from .kinds import Kind, UnitModule

logger = logging.getLogger(__name__)

WINDOW = 50
"""Backward passes looked at together; reading them one by one would make a GPU wait."""

VANISHED = 1e-6
"""A gradient of the importance that is shorter than this many times the gates' moves no head's rank in any run."""


class GradientMonitor:
    """Says in the log when the gradients of the importance vanish, or are cut to their bound, and how hot it is then.

    Each is said at the first window in which it happens, and then at the second, the fourth, the eighth …
    """

    def __init__(self) -> None:
        self._incoming: Tensor | None = None
        self._ratios: list[Tensor] = []
        self._windows = {"vanished": 0, "bounded": 0}

    def watch(self, importance: Tensor, gates: Tensor) -> None:
        """Measure the coming backward pass.

        :param importance: what the gates were sampled from, not a leaf. *Shape:* (N).
        :param gates: the sample. *Shape:* (N).
        """
        if importance.requires_grad and gates.requires_grad:
            gates.register_hook(self._at_gates)
            importance.register_hook(self._at_importance)

    def report(self, temperature: float, advice: str) -> None:
        """Log what the last :data:`WINDOW` backward passes showed, if there were so many since the last report.

        :param advice: what to say when the gradient vanished.
        """
        if len(self._ratios) < WINDOW:
            return
        ratios = torch.stack(self._ratios)  # a NaN, where half precision overflowed, is neither small nor large
        self._ratios.clear()
        vanished = int((ratios < VANISHED).sum())
        bounded = int((ratios > 0.99 * GRADIENT_BOUND).sum())
        if vanished > WINDOW / 2 and self._is_news("vanished"):
            logger.warning(
                "the importance variables hardly learn: in %d of the last %d backward passes their gradient vanished; "
                "the temperature is now %.3g: %s", vanished, WINDOW, temperature, advice,
            )  # fmt: skip
        if bounded and self._is_news("bounded"):
            logger.warning(
                "the gradient of the importance variables exploded and was scaled down to its bound, %g times the "
                "gates' gradient, in %d of the last %d backward passes; the temperature is now %.3g",
                GRADIENT_BOUND, bounded, WINDOW, temperature,
            )  # fmt: skip

    def _is_news(self, what: str) -> bool:
        self._windows[what] += 1
        return self._windows[what].bit_count() == 1

    def _at_gates(self, gradient: Tensor) -> None:
        self._incoming = gradient.float().norm()

    def _at_importance(self, gradient: Tensor) -> None:
        assert self._incoming is not None
        # no gradient at the gates says nothing about the selection: 0 / 0 is a NaN
        self._ratios.append(gradient.float().norm() / self._incoming)


class UnitCounter:
    """Counts the units of one kind, in few operations; nothing in it waits for a GPU.

    :param kind: of the units.
    :param modules: with such units, in the order in which they are numbered.
    """

    def __init__(self, kind: Kind, modules: Sequence[UnitModule]) -> None:
        self.kind = kind
        self._types = [type for type in kind.types if any(module.type == type for module in modules)]
        of_modules = torch.block_diag(*(torch.ones(1, module.units) for module in modules))
        of_types = torch.tensor([[float(module.type == type) for module in modules] for type in self._types])
        self._sums = torch.cat([of_types @ of_modules, of_modules])  # the units of each type, then of each module

    def count(self, kept: Tensor, sampled: Tensor | None, *, open_ones: bool) -> tuple[list[str], Tensor]:
        """Return what to log of a training forward pass.

        For each type, the number of units that evaluation would keep, and in how many modules they are; and the
        softness of the gates, the mean distance of a gate from the nearer of 0 and 1. For gates that close at random,
        how many of them were open.

        :param kept: 1 for each unit that evaluation would keep, 0 otherwise. *Shape:* (N)
        :param sampled: the gates, if there are any. *Shape:* (N)
        :param open_ones: whether gates close at random.
        :return: names, and their values. *Shape:* (number of names)
        """
        name, prefix, types = self.kind.name, "" if self.kind is HEADS else f"{self.kind.name}_", len(self._types)
        if self._sums.device != kept.device:
            self._sums = beside(self._sums, kept.device)
        counts = self._sums @ kept
        names = [*(f"{name}_{type}" for type in self._types), f"{prefix}kept_modules"]
        values = [counts[:types], (counts[types:] > 0).sum().view(1)]
        if sampled is not None:
            gates = sampled.float()
            names.append(f"{prefix}gate_softness")
            values.append(torch.minimum(gates.abs(), (1 - gates).abs()).mean().view(1))
            if open_ones:
                names.append(f"open_{name}")
                values.append((gates > 0).sum().view(1))
        return names, torch.cat(values)
