"""The gates of one model: from the importance of all its heads to a gate in each attention module."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..subset import SELECTIONS, Annealing, Budget, shrink
from .config import PruningConfig, flag
from .gate import GatedProjection
from .heads import TYPES, AttentionModule, HeadSet, attention_modules

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
        config.check()
        self.config = config
        self.modules: list[AttentionModule] = list(attention_modules(model))
        self.gates: list[GatedProjection] = []
        for module in self.modules:
            gate = GatedProjection(module.attention.out_proj, module.attention.num_heads)  # type: ignore[arg-type]
            module.attention.out_proj = gate
            self.gates.append(gate)
        self.shape = {t: [m.attention.num_heads for m in self.modules if m.type == t] for t in TYPES}
        self.heads = sum(map(sum, self.shape.values()))
        self.budget = self._budget(config.heads_to_keep)
        for name in ("heads_to_keep_start", "heads_to_keep_low", "heads_to_keep_high"):
            if getattr(config, name) is not None:
                self._checked(name, self.heads)
        if config.heads_to_keep_start is not None and config.heads_to_keep_start < self.budget.total:
            raise ValueError(
                f"--heads-to-keep-start {config.heads_to_keep_start} is below the budget of {self.budget.total} heads "
                "to which it is to shrink"
            )
        low, high = config.heads_to_keep_low, config.heads_to_keep_high
        if low is not None and high is not None and low > high:
            raise ValueError(f"--heads-to-keep-low {low} is above --heads-to-keep-high {high}")
        kept = HeadSet.read(config.kept_heads).to_gates(self.shape) if config.kept_heads else None
        self.selection = SELECTIONS[config.head_selection](
            Annealing(config.initial_temperature, config.final_temperature, config.cooldown_updates), kept
        )
        # every process has the same seed here; the noise of an update then depends on nothing but its number
        self.seed = torch.initial_seed()
        self.update = 0
        self.sampled: Tensor | None = None
        self._bounded_seen = 0
        for gate in self.gates:
            gate.importance.requires_grad_(self.learns)
            gate.importance.optim_overrides = {"importance": {"lr": config.pruning_lr}}  # type: ignore[attr-defined]
        if config.freeze_weights:
            self._freeze(model)

    def _freeze(self, model: nn.Module) -> None:
        if not self.learns:
            raise ValueError(
                "--freeze-weights trains the importance variables only, but with these options there are none to "
                "train: give --heads-to-keep, and a --head-selection that learns"
            )
        importance = {id(gate.importance) for gate in self.gates}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in importance)

    @property
    def prunes(self) -> bool:
        """Whether any gate may differ from 1."""
        return (
            not self.budget.keeps_all
            or self.selection.penalised
            or not self.selection.learns
            or self.config.heads_to_keep_low is not None
        )

    @property
    def learns(self) -> bool:
        """Whether training moves the importance."""
        return self.prunes and self.selection.learns

    @property
    def importance(self) -> Tensor:
        """The importance of all heads. *Shape:* (N)"""
        return torch.cat([gate.importance for gate in self.gates])

    @property
    def temperature(self) -> float:
        """The temperature at the current update."""
        return self.selection.annealing(self.update)

    def expected_open(self) -> Tensor:
        """Return the expected number of open gates of a penalised selection, differentiable; a scalar.

        :raises ValueError: if no penalty was given.
        """
        if self.config.l0_penalty is None:
            raise ValueError(f"--head-selection {self.config.head_selection} needs --l0-penalty, but none is given")
        return self.selection.expected_open(self.importance)

    def kept(self) -> Tensor:
        """Return the 0/1 gates of evaluation. *Shape:* (N)"""
        with torch.no_grad():
            if not self.prunes:
                return torch.ones_like(self.importance)
            return self.selection.keep(self.importance, self.budget)

    def head_set(self) -> HeadSet:
        """Return the heads that evaluation keeps."""
        return HeadSet.from_gates(self.kept(), self.shape)

    def refresh(self, training: bool) -> None:
        """Set the gates of the coming forward pass."""
        if not self.prunes:
            return
        self._report_bound()
        gates = self._sample() if training else self.kept()
        self.sampled = gates.detach() if training else None
        for gate, values in zip(self.gates, gates.split([g.importance.numel() for g in self.gates]), strict=True):
            gate.gate = values

    def statistics(self) -> dict[str, float]:
        """Return what to log of the last training forward pass: temperature, heads kept, distance of gates from hard.

        ``gate_softness`` is the mean distance of a gate from the nearer of 0 and 1.
        """
        stats = {"temperature": self.temperature}
        kept = self.kept().cpu()
        for kind, part in zip(TYPES, kept.split([sum(self.shape[t]) for t in TYPES]), strict=True):
            stats[f"heads_{kind}"] = float(part.sum())
        if self.sampled is not None:
            gates = self.sampled.cpu()
            stats["gate_softness"] = float(torch.minimum(gates.abs(), (1 - gates).abs()).mean())
        return stats

    def _sample(self) -> Tensor:
        generator = torch.Generator().manual_seed((self.seed * 1_000_003 + self.update) % 2**63)
        budget = self._training_budget(generator)
        importance = self.importance
        if budget.keeps_all and not self.selection.penalised and self.selection.learns:
            return 1 + 0 * importance  # exactly 1, but every importance has a gradient, as other processes expect
        return self.selection.sample(importance, budget, self.update, generator)

    def _training_budget(self, generator: torch.Generator) -> Budget:
        c = self.config
        if c.heads_to_keep_start is not None and c.heads_to_keep_updates is not None:
            total = shrink(self.update, c.heads_to_keep_start, self.budget.total, c.heads_to_keep_updates)
            return self._budget(total)
        if c.heads_to_keep_low is not None and c.heads_to_keep_high is not None:
            span = c.heads_to_keep_high - c.heads_to_keep_low + 1
            return self._budget(c.heads_to_keep_low + int(torch.randint(span, (), generator=generator)))
        return self.budget

    def _budget(self, total: int | None) -> Budget:
        c = self.config
        sizes = {t: sum(self.shape[t]) for t in TYPES}
        offsets = {t: sum(sizes[s] for s in TYPES[: TYPES.index(t)]) for t in TYPES}
        flags = {
            "encoder_self": "encoder_heads_to_keep",
            "decoder_self": "decoder_heads_to_keep",
            "cross": "cross_heads_to_keep",
        }
        groups: list[Sequence[int]] = [range(offsets[t], offsets[t] + sizes[t]) for t in TYPES]
        counts = [self._checked(flags[t], sizes[t]) for t in TYPES]
        if all(getattr(c, name) is None for name in flags.values()):
            groups, counts = [range(self.heads)], [self._checked("heads_to_keep", self.heads, total)]
        modules, first = [], 0
        for module in self.modules:
            modules.append(range(first, first + module.attention.num_heads))  # type: ignore[operator,arg-type]
            first += module.attention.num_heads  # type: ignore[operator,assignment]
        return Budget.grouped(groups, counts, modules=modules, floor=c.min_heads_per_module)

    def _checked(self, name: str, available: int, value: int | None = None) -> int:
        value = getattr(self.config, name) if value is None else value
        if value is None:
            return available
        if not 0 <= value <= available:
            raise ValueError(f"{flag(name)} is {value}, but there are {available} heads: give a number from 0 to {available}")
        return int(value)

    def _report_bound(self) -> None:
        """Say in the log that the gradient bound acted, the more rarely the more often it does."""
        bounded = self.selection.gradients.bounded
        if bounded > 0 and bounded >= 2 * self._bounded_seen:
            self._bounded_seen = bounded
            logger.info(
                "the gradient of the importance variables was scaled down to its bound in %d of %d backward passes so "
                "far (temperature now %.3g)", bounded, self.selection.gradients.calls, self.temperature,
            )  # fmt: skip
