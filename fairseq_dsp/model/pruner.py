"""The gates of one model: from the importance of all its heads to a gate in each attention module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .config import PruningConfig
from .gate import GatedProjection
from .heads import TYPES, AttentionModule, HeadSet, attention_modules
from .monitor import GradientMonitor
from .plan import PruningPlan


class HeadPruner:
    """Sets the gates of a model before each forward pass.

    In training they are a sample of the selection at the current update; in evaluation the hard choice of exactly K
    heads, without noise. It is no module and owns no parameter: the importance is the attention modules'.

    :param model: an encoder–decoder Transformer; its attention modules' output projections become gated.
    :param config: the pruning options.
    :raises ValueError: if the options do not fit each other or the model.
    """

    def __init__(self, model: nn.Module, config: PruningConfig) -> None:
        self.modules: list[AttentionModule] = list(attention_modules(model))
        self.plan = PruningPlan(config, {t: [m.heads for m in self.modules if m.type == t] for t in TYPES})
        self.gates: list[GatedProjection] = []
        self._rate = {"lr": config.pruning_lr}  # of the importance, at the current update: the optimiser reads it
        for module in self.modules:
            gate = GatedProjection(module.attention.out_proj, module.heads)  # type: ignore[arg-type]
            gate.importance.requires_grad_(self.plan.learns)
            gate.importance.optim_overrides = {"importance": self._rate}  # type: ignore[attr-defined]
            module.attention.out_proj = gate
            self.gates.append(gate)
        if config.freeze_weights:
            self._freeze(model)
        self.seed = torch.initial_seed()  # what fairseq was given with --seed: the same on every process
        self.sampled: Tensor | None = None
        self._seen: Tensor | None = None  # the importance that it was sampled from
        self.monitor = GradientMonitor()
        model.register_load_state_dict_pre_hook(self._before_loading)
        self.update = 0
        """The number of updates made so far: an update that overflowed is none."""
        self._loaded = False
        self._penalty_due = self._penalty_taken = False

    @property
    def importance(self) -> Tensor:
        """The importance of all heads. *Shape:* (N)"""
        return torch.cat([gate.importance for gate in self.gates])

    @property
    def penalised(self) -> bool:
        """Whether the options put a penalty on the gates into the loss of a training update."""
        return self.plan.prunes and (self.plan.config.module_penalty > 0 or self.plan.penalised)

    @property
    def temperature(self) -> float:
        """The temperature at the current update."""
        return self.plan.temperature(self.update)

    def kept(self) -> HeadSet:
        """Return the heads that evaluation keeps."""
        return self._kept_by(self.importance)

    def refresh(self, training: bool) -> None:
        """Set the gates of the coming forward pass."""
        if not self.plan.prunes:
            return
        device = self.gates[0].importance.device
        # all that chooses is on the CPU: the gates and their gradient travel, and nothing waits for a GPU in between
        importance = self.importance.cpu()
        decides = training and self.plan.decides(self.update)
        if training:
            gates = self.plan.sample(importance, self.update, self.seed)
            self.sampled, self._seen = gates.detach(), importance.detach()
            self._penalty_due = self.penalised
            self._rate["lr"] = self.plan.config.pruning_lr if decides else 0.0
            if decides:
                self.monitor.watch(importance, gates)
                self.monitor.report(self.temperature, self.plan.selection.when_vanished)
        else:
            gates = self.plan.keep(importance)
        parts = gates.to(device).split([m.heads for m in self.modules])
        for i, (gate, values) in enumerate(zip(self.gates, parts, strict=True)):
            # of fixed heads, the gates of one module suffice to give every importance its gradient, which is 0
            gate.gate = values if decides or i == 0 else values.detach()

    def expected_open(self) -> Tensor:
        """Return the expected number of open gates of a penalised selection, differentiable; a scalar."""
        selection: Any = self.plan.selection  # one that takes a penalty
        return selection.expected_open(self.importance)

    def open_modules(self) -> Tensor:
        """Return how many attention modules the gates now in force leave open, differentiable; a scalar.

        Σ_m (1 − Π_h (1 − g_h)) over the modules m and their heads h, of gates within 0 and 1: the number of modules
        with an open gate where all are 0 or 1. So a gate costs nothing beside another one that is open.
        """
        total = torch.zeros((), device=self.gates[0].importance.device)
        for gate in self.gates:
            assert gate.gate is not None
            # relaxed gates may exceed 1: they count as 1, but learn
            closed = 1 - gate.gate - (gate.gate.clamp(0, 1) - gate.gate).detach()
            total = total + 1 - closed.prod()
        return total

    def penalty(self) -> Tensor:
        """Return what the loss of the current training update grows by for each target token; a scalar.

        λ · E[number of open gates] for a penalised selection (Voita et al. 2019, section 5.1), and, while heads are
        being chosen, ``module_penalty`` · :meth:`open_modules`.
        """
        self._penalty_taken = True
        config = self.plan.config
        total = torch.zeros((), device=self.gates[0].importance.device)
        if config.l0_penalty is not None:
            total = total + config.l0_penalty * self.expected_open()
        if config.module_penalty and self.plan.decides(self.update):
            total = total + config.module_penalty * self.open_modules()
        return total

    def before_training(self) -> None:
        """Refuse a training that cannot do what its options say; called before every update.

        :raises UserError: if the frozen weights are random ones, or the loss goes without its penalty.
        """
        if self.plan.config.freeze_weights and not self._loaded:
            raise UserError(
                "--freeze-weights trains the importance variables of a trained model, but no checkpoint was loaded to "
                "start from: give one with --finetune-from-model (hydra: checkpoint.finetune_from_model)"
            )
        if self._penalty_due and not self._penalty_taken:
            given = "--l0-penalty" if self.plan.penalised else "--module-penalty"
            raise UserError(
                f"{given} is a part of the loss, but this criterion does not add it: use --criterion "
                "label_smoothed_cross_entropy_dsp"
            )

    def statistics(self) -> dict[str, float]:
        """Return what to log of the last training forward pass.

        The temperature; for each attention type, the number of heads that evaluation would keep, and in how many
        modules they are; and the softness of the gates, the mean distance of a gate from the nearer of 0 and 1. For
        gates that close at random, how many of them were open.
        """
        kept = self.kept() if self._seen is None else self._kept_by(self._seen)
        stats = {"temperature": self.temperature}
        stats |= {f"heads_{kind}": float(sum(map(len, kept.of(kind)))) for kind in TYPES}
        stats["kept_modules"] = float(sum(bool(heads) for kind in TYPES for heads in kept.of(kind)))
        if self.sampled is not None:
            gates = self.sampled.float()
            stats["gate_softness"] = float(torch.minimum(gates.abs(), (1 - gates).abs()).mean())
            if self.plan.selection.takes_penalty:
                stats["open_heads"] = float((gates > 0).sum())
        return stats

    def _kept_by(self, importance: Tensor) -> HeadSet:
        return HeadSet.from_gates(self.plan.keep(importance), self.plan.shape)

    def _freeze(self, model: nn.Module) -> None:
        if not self.plan.learns:
            raise ValueError(
                "--freeze-weights trains the importance variables only, but with these options there are none to "
                "train: give --heads-to-keep, and a --head-selection that learns"
            )
        importance = {id(gate.importance) for gate in self.gates}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in importance)

    def _before_loading(self, model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Refuse an importance that orders no heads."""
        self._loaded = True
        for name, value in state.items():
            if name.startswith(prefix) and name.endswith(".importance") and not torch.isfinite(value).all():
                raise UserError(
                    f"{name} in the checkpoint holds a NaN or an infinity, but every head needs a finite importance: "
                    "load an earlier checkpoint of that run"
                )
