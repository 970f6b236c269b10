"""The gates of one model: from the importance of all its units of a kind to a gate in each module."""

from __future__ import annotations

import weakref
from collections.abc import Hashable
from itertools import compress
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError
from ..subset.device import beside
from .attention import PrunableAttention
from .attention_heads import HEADS
from .cost_budget import KindOfBudget
from .entering import Entering, Gates, Graph, KeptParts, NoGradient, ScaledColumns, enter
from .gates import ALL, CHOOSING, FIXED, UnitChoice, to_columns
from .kinds import GatedModule, Kind, UnitModule, flag
from .monitor import GradientMonitor, UnitCounter
from .plan import PruningPlan
from .pruning_options import PruningConfig
from .sets import HeadSet, UnitSet
from .units import modules_of, shape_of


class UnitPruner:
    """Sets the gates of a model's units of one kind at the begin of each forward pass.

    In training they are a sample of the selection at the current update, or, once no unit can come back, only the kept
    units are computed; in evaluation the hard choice of exactly K units, without noise. It is no module and owns no
    parameter: the importance is the model's.

    :param model: a model with modules of the kind; gets a :class:`~.gates.UnitChoice`.
    :param config: the pruning options.
    :param kind: of the units.
    :param options: the model's, where they say how wide a unit is.
    :raises ValueError: if the options do not fit each other or the model.
    """

    def __init__(self, model: nn.Module, config: PruningConfig, kind: Kind = HEADS, options: Any = None) -> None:
        self.kind = kind
        self.modules: list[UnitModule] = list(modules_of(model, kind, options))
        self.gated: list[GatedModule] = [module.module for module in self.modules]
        self.width = kind.unit_width(options)
        self.plan = PruningPlan(config, shape_of(self.modules, kind), kind)
        attentions = [module for module in model.modules() if isinstance(module, PrunableAttention)]
        if hasattr(model, "decoder") and all(attention.self_attention for attention in attentions):
            # nothing goes backward through the encoder, where the gates are entered: they are in the decoder too
            model.decoder.dropout_module.register_forward_hook(self._enter_decoder)  # type: ignore[union-attr]
        places: dict[Any, int] = {module: place for place, module in enumerate(model.modules())}
        order = sorted(range(len(self.modules)), key=lambda i: places[self.gated[i].owner])
        of_modules = torch.arange(self.plan.units).split([self.modules[i].units for i in order])
        self._order_of_0_1 = torch.cat([of_modules[order.index(i)] for i in range(len(self.modules))])
        self.choice = UnitChoice(self.plan.units)
        model.add_module(kind.name, self.choice)
        self._optimiser: dict[str, Any] = {
            "lr": config.pruning_lr,
            "active": self.plan.learns,
        }  # what the optimiser reads
        self.importance.requires_grad_(self.plan.learns)
        self.importance.optim_overrides = {"importance": self._optimiser}  # type: ignore[attr-defined]
        self.seed = torch.initial_seed()  # what fairseq was given with --seed: the same on every process
        self._fixed_gates: tuple[UnitSet, Tensor] | None = None  # the same as 0/1
        self._counter = UnitCounter(kind, self.modules)
        self.chosen_by: PruningPlan | KindOfBudget = self.plan
        """What draws the units: the plan, or its part of a budget that it shares with those of other kinds."""
        self.sampled: Tensor | None = None
        """The gates of the last training forward pass. *Shape:* (N)"""
        self._entered: list[Entering] = []  # what the modules compute with in the current update
        self.monitor = GradientMonitor()
        self.update = 0
        """The number of updates made so far: an update that overflowed is none."""
        # the units that a checkpoint said, until training goes on, or that no update can change any more
        self._fixed: UnitSet | None = None
        self._nested: dict[int, tuple[UnitSet, Tensor]] = {}  # those of each number, and 0/1, once their order is fixed
        self._parts: dict[Hashable, KeptParts] = {}  # of these units
        self._left: UnitSet | None = None  # the trained units of a model of which layers are left out
        self._loaded = False
        self._penalty_taken: bool | None = None  # in the loss of this update; None before its first pass
        self._recomputes = any(getattr(options, f"{name}_activations", False) for name in ("checkpoint", "offload"))
        self._graph: weakref.ref[Graph] | None = None  # of the last training pass
        model.register_load_state_dict_pre_hook(self._before_loading)
        model.register_load_state_dict_post_hook(self._after_loading)
        model.register_state_dict_pre_hook(self._before_saving)

    @property
    def importance(self) -> nn.Parameter:
        """The importance of all units. *Shape:* (N)"""
        return self.choice.importance

    @property
    def penalised(self) -> bool:
        """Whether the options put a penalty on the gates into the loss of a training update."""
        return self.plan.prunes and self.plan.penalised

    @property
    def temperature(self) -> float:
        """The temperature at the current update."""
        return self.plan.temperature(self.update)

    def kept(self) -> UnitSet:
        """Return the units that evaluation keeps."""
        return self._fixed or self._set_of(self.chosen_by.keep(self.importance))

    def _set_of(self, gates: Tensor) -> UnitSet:
        """Return the units whose gate is not zero."""
        of_heads = HeadSet if self.kind is HEADS else UnitSet
        return of_heads.from_gates(gates, self.plan.shape, self.kind, self.width)

    def _kept_gates(self) -> Tensor:
        """Return 1 for each unit that evaluation keeps and 0 for the others, beside the importance. *Shape:* (N)"""
        if self._fixed is None:
            return self.chosen_by.keep(self.importance)
        known, device = self._fixed_gates, self.importance.device
        if known is None or known[0] is not self._fixed or known[1].device != device:
            self._fixed_gates = known = self._fixed, beside(self._fixed.to_gates(self.plan.shape), device)
        return known[1]

    def begin(self, x: Tensor, training: bool) -> Tensor:
        """Begin a forward pass: set the gates of all modules.

        :param x: what the first layer will read; returned unchanged.
        """
        if not self.plan.prunes:
            return x
        if not training:
            if self._fixed is None:
                return self._set_gates(x, self.chosen_by.keep(self.importance))
            return self._set_fixed(x, self._fixed)
        if self._recomputes and self._graph and self._graph():
            raise UserError(
                "two forward passes were made before a backward pass, but with --checkpoint-activations each layer is "
                "computed again from what the last one set: leave it out, or go backward after each pass"
            )
        phase = self.plan.phase(self.update)
        if phase != FIXED:
            self._fixed = None
            self._nested.clear()
        elif self._fixed is None:
            self._fixed = self.kept()
        self._optimiser["active"] = phase == CHOOSING
        if phase == CHOOSING:
            importance = self.importance.view(-1)  # no leaf: what watches its gradient goes with this pass
            gates = self.chosen_by.sample(importance, self.update, self.seed)
            self.sampled = gates.detach()
            self._penalty_taken = bool(self._penalty_taken)
            self.monitor.watch(importance, gates)
            self.monitor.report(self.temperature, self.plan.selection.when_vanished)
            return self._set_gates(x, gates)
        if phase == ALL:
            self.sampled = torch.ones_like(self.importance)
            self._leave()
        else:
            units, self.sampled = self._of_update()
            if self.plan.config.freeze_weights:  # nothing is trained any more, but the loss must go backward somewhere
                return self._set_gates(x, self.sampled + 0 * self.importance)
            x = self._set_fixed(x, units)
        return self._enter(x, NoGradient(self.importance))

    def end_update(self, updates: int) -> None:
        """End a training update: *updates* have been made in all.

        :raises UserError: if the loss went without its penalty.
        """
        if self.penalised and self._penalty_taken is False:
            raise UserError(
                "--l0-penalty is a part of the loss, but this criterion does not add it: use --criterion "
                "label_smoothed_cross_entropy_dsp, or sentence_prediction_dsp for classification"
            )
        self._penalty_taken, self.update = None, updates
        self._entered.clear()

    def __getstate__(self) -> dict[str, Any]:
        # they carry or name a graph, which can be neither copied nor pickled
        return {**self.__dict__, "_penalty_taken": None, "_entered": [], "_parts": {}, "_graph": None}

    def _enter_decoder(self, _: nn.Module, __: Any, x: Tensor) -> Tensor:
        for entering in self._entered:
            x = enter(x, entering)
        return x

    def _enter(self, x: Tensor, entering: Entering) -> Tensor:
        self._entered.append(entering)
        graph = Graph()
        self._graph = weakref.ref(graph)
        return enter(x, entering, graph)

    def _set_gates(self, x: Tensor, gates: Tensor) -> Tensor:
        self._leave()
        columns = to_columns(gates, self.modules)
        # noise changes the matrix that is scaled, at each call
        noisy = any(module.is_noisy and module.training for module in self.gated)
        return self._enter(x, (Gates if noisy else ScaledColumns)(self.modules, columns))

    def _of_update(self) -> tuple[UnitSet, Tensor]:
        """Return the units of an update in which none can come back, the best where their number is drawn; as 0/1."""
        assert self._fixed is not None
        total = self.plan.drawn(self.update, self.seed)
        if total is None:
            return self._fixed, self._kept_gates()
        if total not in self._nested:
            gates = self.plan.keep(self.importance, total)
            self._nested[total] = self._set_of(gates), gates
        return self._nested[total]

    def _set_fixed(self, x: Tensor, units: UnitSet) -> Tensor:
        """Have each module compute these units only or, where an option needs them all, gate the others with 0."""
        self._entered.clear()
        device = self.importance.device
        layers = [layer for layers in units.layers for layer in layers]
        skipping = [module.can_skip_units and not (module.is_noisy and module.training) for module in self.gated]
        for module, described, kept, skips in zip(self.gated, self.modules, layers, skipping, strict=True):
            module.gate, module.kept, module.given = None, kept if skips else None, ()
            if not skips:
                gate = torch.zeros(described.units * described.width)
                gate[described.rows(kept)] = 1.0
                module.gate = beside(gate, device)
        key = units.layers, tuple(skipping), device
        if key not in self._parts:
            self._parts[key] = KeptParts(list(compress(self.modules, skipping)), list(compress(layers, skipping)))
        return self._enter(x, self._parts[key].cut())

    def _leave(self) -> None:
        """Have each module compute all its units with its own parameters."""
        self._entered.clear()
        for module in self.gated:
            module.gate, module.kept, module.given = None, None, ()

    def expected_open(self) -> Tensor:
        """Return the expected number of open gates of a penalised selection, differentiable; a scalar."""
        selection: Any = self.plan.selection  # one that takes a penalty
        return selection.expected_open(self.importance)

    def penalty(self) -> Tensor:
        """Return what the loss of a training update of a penalised selection grows by for each target token; a scalar.

        λ · E[number of open gates] (Voita et al. 2019, section 5.1).
        """
        self._penalty_taken = True
        return self.kind.option(self.plan.config, "l0_penalty") * self.expected_open()

    def measured(self) -> tuple[list[str], Tensor]:
        """Return what to log of the last training forward pass; see :meth:`~.monitor.UnitCounter.count`."""
        open_ones = self.plan.selection.takes_penalty
        return self._counter.count(self._kept_gates(), self.sampled, open_ones=open_ones)

    def check_training(self) -> None:
        """Refuse, before the first update, to train the importance of weights that are random.

        :raises UserError: if the frozen weights were not loaded.
        """
        if self.plan.config.freeze_weights and not self._loaded:
            raise UserError(
                "--freeze-weights trains the importance variables of a trained model, but no checkpoint was loaded to "
                "start from: give one with --finetune-from-model (hydra: checkpoint.finetune_from_model)"
            )

    def complete(self, state: dict[str, Tensor], prefix: str) -> None:
        """Add what a state dict of the stock model, or of version 0.1, lacks of the choice of units."""
        importance = f"{prefix}{self.kind.name}.importance"
        if importance not in state:
            names = [f"{prefix}{module.name}.out_proj.importance" for module in self.modules]  # version 0.1
            parts = [state.pop(name, None) for name in names]
            if all(part is not None for part in parts):
                state[importance] = torch.cat(parts).float()  # type: ignore[arg-type]
                self._optimiser["order_of_0_1"] = self._order_of_0_1
        for name, value in self.choice.state_dict().items():
            if f"{prefix}{self.kind.name}.{name}" not in state:
                if name == "kept" and len(state.get(importance, ())) == self.plan.units:
                    value = self.chosen_by.keep(state[importance])
                state[f"{prefix}{self.kind.name}.{name}"] = value.detach().clone()

    def leave_out_layers(
        self, state: dict[str, Tensor], prefix: str, trained: list[UnitModule], left: dict[str, str | None]
    ) -> None:
        """Keep the trained model's units of the layers that are left of it (LayerDrop), and choose none anew.

        :param state: state dict of the trained model, completed; what it says of the choice is cut to these layers.
        :param trained: the trained model's modules of the kind.
        :param left: for ``encoder`` and ``decoder``, the layers left, such as ``0,2``, or None for all.
        """
        importance, kept = (f"{prefix}{self.kind.name}.{name}" for name in ("importance", "kept"))
        sizes = [module.units for module in trained]
        if len(state[importance]) != sum(sizes):
            return  # made from the model at hand: the checkpoint says nothing of a choice
        plan = PruningPlan(self.plan.config, shape_of(trained, self.kind), self.kind)
        said = state[kept].float()
        if self.chosen_by is not self.plan:  # of an average of models, the mean number
            said = plan.keep(state[importance] if (said % 1).any() else said, round(float(said.sum())))
        elif len(said) != sum(sizes) or not plan.allows(said):
            said = plan.keep(state[importance])
        stays = [
            left[module.stack] is None or str(module.layer) in str(left[module.stack]).split(",") for module in trained
        ]
        for name, values in ((importance, state[importance]), (kept, said)):
            state[name] = torch.cat([v for v, stay in zip(values.split(sizes), stays, strict=True) if stay])
        if plan.prunes:
            self._left = self._set_of(state[kept])

    def _before_loading(self, model: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        """Refuse an importance that orders no units, or other ones."""
        self._loaded, self._fixed = True, None
        self._nested.clear()
        name = f"{prefix}{self.kind.name}.importance"
        if name in state and not torch.isfinite(state[name]).all():
            raise UserError(
                f"{name} in the checkpoint holds a NaN or an infinity, but every {self.kind.unit} needs a finite "
                "importance: load an earlier checkpoint of that run"
            )
        if self.kind.has_width and name in state and len(state[name]) != self.plan.units:
            raise UserError(
                f"the checkpoint has {len(state[name])} {self.kind.units}, but this model has {self.plan.units}: give "
                f"the {flag(self.kind.options['width'])} that it was trained with"
            )

    def _after_loading(self, *_: Any) -> None:
        """Keep the units that a checkpoint says, whatever rule would choose them today, unless others are asked for."""
        if self._left is not None:
            self._fixed = self._left
        elif self.plan.prunes and self.chosen_by.allows(self.choice.kept):
            self._fixed = self._set_of(self.choice.kept)

    def _before_saving(self, *_: Any) -> None:
        """Bring what a checkpoint says of the choice up to date."""
        with torch.no_grad():
            self.choice.kept.copy_(self._kept_gates())
            self.choice.phase.fill_(self.plan.phase(self.update))
