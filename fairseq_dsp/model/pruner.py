"""The gates of one model: from the importance of all its heads to a gate in each attention module."""

from __future__ import annotations

import logging

import torch
from torch import Tensor, nn

from .config import PruningConfig
from .gate import GatedProjection
from .heads import TYPES, AttentionModule, HeadSet, attention_modules
from .plan import PruningPlan

logger = logging.getLogger(__name__)


class HeadPruner:
    """Sets the gates of a model before each forward pass.

    In training they are a sample of the selection at the current update; in evaluation the hard choice of exactly K
    heads, without noise. It is no module: it owns no parameter and leaves no trace in the state dict.

    :param model: an encoder–decoder Transformer; its attention modules' output projections become gated.
    :param config: the pruning options.
    :raises ValueError: if the options do not fit each other or the model.
    """

    def __init__(self, model: nn.Module, config: PruningConfig) -> None:
        self.modules: list[AttentionModule] = list(attention_modules(model))
        self.plan = PruningPlan(config, {t: [m.heads for m in self.modules if m.type == t] for t in TYPES})
        self.gates: list[GatedProjection] = []
        for module in self.modules:
            gate = GatedProjection(module.attention.out_proj, module.heads)  # type: ignore[arg-type]
            gate.importance.requires_grad_(self.plan.learns)
            gate.importance.optim_overrides = {"importance": {"lr": config.pruning_lr}}  # type: ignore[attr-defined]
            module.attention.out_proj = gate
            self.gates.append(gate)
        if config.freeze_weights:
            self._freeze(model)
        self.seed = torch.initial_seed()  # what fairseq was given with --seed: the same on every process
        self.update = 0
        self.sampled: Tensor | None = None
        self._bounded_seen = 0

    @property
    def importance(self) -> Tensor:
        """The importance of all heads. *Shape:* (N)"""
        return torch.cat([gate.importance for gate in self.gates])

    @property
    def temperature(self) -> float:
        """The temperature at the current update."""
        return self.plan.selection.annealing(self.update)

    def kept(self) -> HeadSet:
        """Return the heads that evaluation keeps."""
        return HeadSet.from_gates(self.plan.keep(self.importance), self.plan.shape)

    def refresh(self, training: bool) -> None:
        """Set the gates of the coming forward pass."""
        if not self.plan.prunes:
            return
        if training:
            self._report_bound()
            gates = self.plan.sample(self.importance, self.update, self.seed)
            self.sampled = gates.detach()
        else:
            gates = self.plan.keep(self.importance)
        for gate, values in zip(self.gates, gates.split([m.heads for m in self.modules]), strict=True):
            gate.gate = values

    def expected_open(self) -> Tensor:
        """Return the expected number of open gates of a penalised selection, differentiable; a scalar.

        :raises ValueError: if no penalty was given.
        """
        config = self.plan.config
        if config.l0_penalty is None:
            raise ValueError(f"--head-selection {config.head_selection} needs --l0-penalty, but none is given")
        return self.plan.selection.expected_open(self.importance)

    def statistics(self) -> dict[str, float]:
        """Return what to log of the last training forward pass.

        The temperature; for each attention type, the number of heads that evaluation would keep; and the softness of
        the gates, the mean distance of a gate from the nearer of 0 and 1.
        """
        kept = self.kept()
        stats = {"temperature": self.temperature}
        stats |= {f"heads_{kind}": float(sum(map(len, kept.of(kind)))) for kind in TYPES}
        if self.sampled is not None:
            gates = self.sampled.float()
            stats["gate_softness"] = float(torch.minimum(gates.abs(), (1 - gates).abs()).mean())
        return stats

    def _freeze(self, model: nn.Module) -> None:
        if not self.plan.learns:
            raise ValueError(
                "--freeze-weights trains the importance variables only, but with these options there are none to "
                "train: give --heads-to-keep, and a --head-selection that learns"
            )
        importance = {id(gate.importance) for gate in self.gates}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in importance)

    def _report_bound(self) -> None:
        """Say in the log that the gradient bound acted, the more rarely the more often it does."""
        record = self.plan.selection.gradients
        if record.bounded > 0 and record.bounded >= 2 * self._bounded_seen:
            self._bounded_seen = record.bounded
            logger.info(
                "the gradient of the importance variables was scaled down to its bound in %d of %d backward passes so "
                "far; the temperature is now %.3g", record.bounded, record.calls, self.temperature,
            )  # fmt: skip
