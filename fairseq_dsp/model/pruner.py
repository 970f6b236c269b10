"""The gates of one model: from the importance of all its heads to a gate in each attention module."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from .attention import PrunableAttention
from .config import PruningConfig
from .gates import ALL, CHOOSING, FIXED, UnitChoice, enter_again, enter_gates
from .monitor import GradientMonitor
from .plan import PruningPlan
from .sets import HeadSet
from .units import HEADS, UnitModule, modules_of, shape_of


class HeadPruner:
    """Sets the gates of a model at the begin of each forward pass.

    In training they are a sample of the selection at the current update, or, once no head can come back, only the kept
    heads are computed; in evaluation the hard choice of exactly K heads, without noise. It is no module and owns no
    parameter: the importance is the model's.

    :param model: a model with `PrunableAttention`; gets a :class:`~.gates.UnitChoice`.
    :param config: the pruning options.
    :raises ValueError: if the options do not fit each other or the model.
    """

    def __init__(self, model: nn.Module, config: PruningConfig) -> None:
        self.modules: list[UnitModule] = list(modules_of(model))
        self.attentions: list[PrunableAttention] = [module.module for module in self.modules]
        self.plan = PruningPlan(config, shape_of(self.modules))
        if hasattr(model, "decoder") and not any(attention.reads_encoder for attention in self.attentions):
            # nothing goes backward through the encoder, where the gates are entered: they are in the decoder too
            model.decoder.dropout_module.register_forward_hook(self._enter_decoder)  # type: ignore[union-attr]
        self.choice = UnitChoice(self.plan.heads)
        layers = [name for name, module in model.named_modules() if isinstance(module, PrunableAttention)]
        of_layers = torch.arange(self.plan.heads).split(
            [module.units for module in sorted(self.modules, key=lambda module: layers.index(module.name))]
        )
        self._order_of_0_1 = torch.cat([of_layers[layers.index(module.name)] for module in self.modules])
        model.add_module(HEADS.name, self.choice)
        self._optimiser: dict[str, Any] = {
            "lr": config.pruning_lr,
            "active": self.plan.learns,
        }  # what the optimiser reads
        self.importance.requires_grad_(self.plan.learns)
        self.importance.optim_overrides = {"importance": self._optimiser}  # type: ignore[attr-defined]
        if config.freeze_weights:
            self._freeze(model)
        self.seed = torch.initial_seed()  # what fairseq was given with --seed: the same on every process
        self.sampled: Tensor | None = None
        """The gates of the last training forward pass. *Shape:* (N)"""
        self._entered: tuple[Tensor, tuple[Tensor, ...]] | None = None  # the gates and leaves of `enter_gates`
        self._gates: Tensor | None = None  # the same with their graph, for a penalty in the loss
        self.monitor = GradientMonitor()
        self.update = 0
        """The number of updates made so far: an update that overflowed is none."""
        # the heads that a checkpoint said, until training goes on, or that no update can change any more
        self._fixed: HeadSet | None = None
        self._left: HeadSet | None = None  # the trained heads of a model of which layers are left out
        self._loaded = False
        self._penalty_taken = False
        model.register_load_state_dict_pre_hook(self._before_loading)
        model.register_load_state_dict_post_hook(self._after_loading)
        model.register_state_dict_pre_hook(self._before_saving)

    @property
    def importance(self) -> nn.Parameter:
        """The importance of all heads. *Shape:* (N)"""
        return self.choice.importance

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
        return self._fixed or HeadSet.from_gates(self.plan.keep(self.importance), self.plan.shape)

    def begin(self, x: Tensor, training: bool) -> Tensor:
        """Begin a forward pass: set the gates of all modules.

        :param x: what the first layer will read; returned unchanged.
        """
        if not self.plan.prunes:
            return x
        if not training:
            if self._fixed is None:
                return self._set_gates(x, self.plan.keep(self.importance))
            self._set_fixed()
            return x
        phase = self.plan.phase(self.update)
        if phase != FIXED:
            self._fixed = None
        elif self._fixed is None:
            self._fixed = self.kept()
        self._optimiser["active"] = phase == CHOOSING
        if phase == CHOOSING:
            importance = self.importance.view(-1)  # no leaf: what watches its gradient goes with this pass
            self._gates = gates = self.plan.sample(importance, self.update, self.seed)
            self.sampled = gates.detach()
            self.monitor.watch(importance, gates)
            self.monitor.report(self.temperature, self.plan.selection.when_vanished)
            return self._set_gates(x, gates)
        self._gates = None
        if phase == ALL:
            self.sampled = torch.ones_like(self.importance)
            self._set(None, None)
        else:
            self.sampled = self._fixed.to_gates(self.plan.shape).to(self.importance)  # type: ignore[union-attr]
            if self.plan.config.freeze_weights:  # nothing is trained any more, but the loss must go backward somewhere
                return self._set_gates(x, self.sampled + 0 * self.importance)
            self._set_fixed()
        if self.importance.requires_grad:  # a gradient, as other processes expect, but of 0
            gates = 0 * self.importance
            x, parts = enter_gates(x, gates, [self.plan.heads])
            self._entered = (gates, parts)
        return x

    def end_update(self, updates: int) -> None:
        """End a training update: *updates* have been made in all.

        :raises UserError: if the loss went without its penalty.
        """
        if self._gates is not None and self.penalised and not self._penalty_taken:
            given = "--l0-penalty" if self.plan.penalised else "--module-penalty"
            raise UserError(
                f"{given} is a part of the loss, but this criterion does not add it: use --criterion "
                "label_smoothed_cross_entropy_dsp, or sentence_prediction_dsp for classification"
            )
        self._penalty_taken, self._gates, self._entered, self.update = False, None, None, updates

    def __getstate__(self) -> dict[str, Any]:
        # they carry a graph, which can be neither copied nor pickled
        return {**self.__dict__, "_gates": None, "_entered": None}

    def _enter_decoder(self, _: nn.Module, __: Any, x: Tensor) -> Tensor:
        if self._entered is None or not torch.is_grad_enabled():
            return x
        return enter_again(x, *self._entered)

    def _set_gates(self, x: Tensor, gates: Tensor) -> Tensor:
        x, parts = enter_gates(x, gates, [module.units for module in self.modules])
        self._entered = (gates, parts) if gates.requires_grad else None
        for attention, part in zip(self.attentions, parts, strict=True):
            attention.gate, attention.kept = part, None
        return x

    def _set_fixed(self) -> None:
        """Have each module compute its fixed heads only or, where an option needs them all, gate the others with 0."""
        assert self._fixed is not None
        layers = (layer for kind in HEADS.types for layer in self._fixed.of(kind))
        for attention, kept in zip(self.attentions, layers, strict=True):
            if attention.can_skip_heads and not (attention.is_noisy and attention.training):
                attention.gate, attention.kept = None, kept
            else:
                gate = torch.zeros(attention.num_heads, device=self.importance.device)
                gate[list(kept)] = 1.0
                attention.gate, attention.kept = gate, None

    def _set(self, gate: Tensor | None, kept: tuple[int, ...] | None) -> None:
        for attention in self.attentions:
            attention.gate, attention.kept = gate, kept

    def expected_open(self) -> Tensor:
        """Return the expected number of open gates of a penalised selection, differentiable; a scalar."""
        selection: Any = self.plan.selection  # one that takes a penalty
        return selection.expected_open(self.importance)

    def open_modules(self, gates: Tensor) -> Tensor:
        """Return how many attention modules some gates leave open, differentiable; a scalar.

        Σ_m (1 − Π_h (1 − g_h)) over the modules m and their heads h, of gates within 0 and 1: the number of modules
        with an open gate where all are 0 or 1. So a gate costs nothing beside another one that is open.
        """
        # relaxed gates may exceed 1: they count as 1, but learn
        closed = 1 - gates - (gates.clamp(0, 1) - gates).detach()
        parts = closed.split([module.units for module in self.modules])
        return len(parts) - torch.stack([part.prod() for part in parts]).sum()

    def penalty(self) -> Tensor:
        """Return what the loss of the current training update grows by for each target token; a scalar.

        λ · E[number of open gates] for a penalised selection (Voita et al. 2019, section 5.1), and, while heads are
        being chosen, ``module_penalty`` · :meth:`open_modules`.
        """
        self._penalty_taken = True
        config = self.plan.config
        total = torch.zeros((), device=self.importance.device)
        if config.l0_penalty is not None:
            total = total + config.l0_penalty * self.expected_open()
        if config.module_penalty and self._gates is not None:
            total = total + config.module_penalty * self.open_modules(self._gates)
        return total

    def statistics(self) -> dict[str, Any]:
        """Return what to log of the last training forward pass; nothing in it waits for a GPU.

        The temperature; for each attention type, the number of heads that evaluation would keep, and in how many
        modules they are; and the softness of the gates, the mean distance of a gate from the nearer of 0 and 1. For
        gates that close at random, how many of them were open.
        """
        stats: dict[str, Any] = {"temperature": self.temperature}
        kept = self.plan.keep(self.importance) if self._fixed is None else self._fixed.to_gates(self.plan.shape)
        counts = [part.sum() for part in kept.split([module.units for module in self.modules])]
        for kind in HEADS.types:
            of_type = [n for n, module in zip(counts, self.modules, strict=True) if module.type == kind]
            if of_type:
                stats[f"heads_{kind}"] = sum(of_type, torch.zeros((), device=kept.device))
        stats["kept_modules"] = (torch.stack(counts) > 0).sum()
        if self.sampled is not None:
            gates = self.sampled.float()
            stats["gate_softness"] = torch.minimum(gates.abs(), (1 - gates).abs()).mean()
            if self.plan.selection.takes_penalty:
                stats["open_heads"] = (gates > 0).sum()
        return stats

    def check_training(self) -> None:
        """Refuse, before the first update, to train the importance of weights that are random.

        :raises UserError: if the frozen weights were not loaded.
        """
        if self.plan.config.freeze_weights and not self._loaded:
            raise UserError(
                "--freeze-weights trains the importance variables of a trained model, but no checkpoint was loaded to "
                "start from: give one with --finetune-from-model (hydra: checkpoint.finetune_from_model)"
            )

    def _freeze(self, model: nn.Module) -> None:
        if not self.plan.learns:
            raise ValueError(
                "--freeze-weights trains the importance variables only, but with these options there are none to "
                "train: give --heads-to-keep, and a --head-selection that learns"
            )
        for parameter in model.parameters():
            parameter.requires_grad_(parameter is self.importance)

    def complete(self, state: dict[str, Tensor], prefix: str) -> None:
        """Add what a state dict of the stock model, or of version 0.1, lacks of the choice of heads."""
        importance = f"{prefix}{HEADS.name}.importance"
        if importance not in state:
            names = [f"{prefix}{module.name}.out_proj.importance" for module in self.modules]  # version 0.1
            parts = [state.pop(name, None) for name in names]
            if all(part is not None for part in parts):
                state[importance] = torch.cat(parts).float()  # type: ignore[arg-type]
                self._optimiser["order_of_0_1"] = self._order_of_0_1
        for name, value in self.choice.state_dict().items():
            if f"{prefix}{HEADS.name}.{name}" not in state:
                if name == "kept" and len(state.get(importance, ())) == self.plan.heads:
                    value = self.plan.keep(state[importance])
                state[f"{prefix}{HEADS.name}.{name}"] = value.detach().clone()

    def leave_out_layers(
        self, state: dict[str, Tensor], prefix: str, trained: list[UnitModule], left: dict[str, str | None]
    ) -> None:
        """Keep the trained model's heads of the layers that are left of it (LayerDrop), and choose none anew.

        :param state: state dict of the trained model, completed; what it says of the choice is cut to these layers.
        :param trained: the trained model's attention modules.
        :param left: for ``encoder`` and ``decoder``, the layers left, such as ``0,2``, or None for all.
        """
        importance, kept = (f"{prefix}{HEADS.name}.{name}" for name in ("importance", "kept"))
        sizes = [module.units for module in trained]
        if len(state[importance]) != sum(sizes):
            return  # made from the model at hand: the checkpoint says nothing of a choice
        plan = PruningPlan(self.plan.config, shape_of(trained))
        said = state[kept].float()
        if len(said) != sum(sizes) or not plan.allows(said):
            said = plan.keep(state[importance])
        stays = [
            left[module.stack] is None or str(module.layer) in str(left[module.stack]).split(",") for module in trained
        ]
        for name, values in ((importance, state[importance]), (kept, said)):
            state[name] = torch.cat([v for v, stay in zip(values.split(sizes), stays, strict=True) if stay])
        if plan.prunes:
            self._left = HeadSet.from_gates(state[kept], self.plan.shape)

    def _before_loading(self, model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Refuse an importance that orders no heads."""
        self._loaded, self._fixed = True, None
        name = f"{prefix}{HEADS.name}.importance"
        if name in state and not torch.isfinite(state[name]).all():
            raise UserError(
                f"{name} in the checkpoint holds a NaN or an infinity, but every head needs a finite importance: "
                "load an earlier checkpoint of that run"
            )

    def _after_loading(self, *_: Any) -> None:
        """Keep the heads that a checkpoint says, whatever rule would choose them today, unless others are asked for."""
        if self._left is not None:
            self._fixed = self._left
        elif self.plan.prunes and self.plan.allows(self.choice.kept):
            self._fixed = HeadSet.from_gates(self.choice.kept, self.plan.shape)

    def _before_saving(self, *_: Any) -> None:
        """Bring what a checkpoint says of the choice up to date."""
        with torch.no_grad():
            gates = self.plan.keep(self.importance) if self._fixed is None else self._fixed.to_gates(self.plan.shape)
            self.choice.kept.copy_(gates)
            self.choice.phase.fill_(self.plan.phase(self.update))
