"""A trained model as its checkpoint describes it: which units it keeps, its weights with and without the others."""

from __future__ import annotations

import argparse
import logging
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from itertools import chain
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.models import MODEL_REGISTRY
from omegaconf import OmegaConf
from torch import Tensor

from ..errors import UserError
from ..model import HEADS, KINDS, HeadSet, PrunableModel, PruningConfig, PruningPlan, UnitModule, UnitSet
from ..model.cost_budget import CostBudget, KindOfBudget
from ..model.finite import check_finite
from ..model.flat_options import IN_FORCE, NO_FILES, config_of, in_force
from ..model.gates import ALL, UnitChoice
from ..model.kinds import flag
from ..model.units import ARCHITECTURES, ROBERTA, count_parameters, model_of, modules_in, shape_of, sharing

logger = logging.getLogger(__name__)


@dataclass
class TrainedModel:
    """A checkpoint of one of this package's models; building it takes its dictionaries, reading this does not.

    :param path: where it was read from.
    :param state: what fairseq loaded.
    :param options: the model's options.
    :param heads: the heads and units to keep.
    :param modules: the modules of each kind, in the order in which units are numbered.
    :param importance: of all units of each kind that has one, by the kind's name; None for a compact model.
    :param chosen: whether anything, in training or now, chose some units over others.
    """

    path: str
    state: dict[str, Any]
    options: Namespace
    heads: HeadSet
    modules: list[UnitModule]
    importance: dict[str, Tensor] | None
    chosen: bool

    @staticmethod
    def read(path: str, *, kept_heads: str | None = None, **totals: int | None) -> TrainedModel:
        """Read a checkpoint.

        :param kept_heads: JSON file with the heads, and maybe units of other kinds, to keep, whatever their importance.
        :param totals: ``heads_to_keep=K`` and the like: another budget of a kind than the one of training.
        :raises UserError: if it is no checkpoint of one of this package's models, or the units asked for do not fit it.
        """
        state = checkpoint_utils.load_checkpoint_to_cpu(path)
        config = config_of(state)
        arch = getattr(config, "_name", None) or getattr(config, "arch", None)
        name = model_of(str(arch))
        if name not in ARCHITECTURES:
            given = f"is of the architecture {arch}" if arch else "does not say its architecture"
            ours = next((own.model for own in ARCHITECTURES.values() if own.stock == name), "transformer_dsp")
            raise UserError(
                f"the checkpoint {path} {given}, but one of {' or '.join(ARCHITECTURES)} or their sizes is expected: "
                f"train with --arch {ours}…, or go on from this one with --finetune-from-model {path}"
            )
        try:
            options = MODEL_REGISTRY[name].namespace(config)
            vars(options).update(NO_FILES)
            pruning = PruningConfig.from_namespace(options)
            parameters = state["model"]
            if pruning.compact and (kept_heads is not None or any(total is not None for total in totals.values())):
                raise ValueError(
                    "it is compact already, so no other heads or units can be chosen: give the checkpoint it was made "
                    "from"
                )
            importance = None if pruning.compact else _importance(parameters, modules_in(parameters, options))
            file = str(pruning.kept_heads) if pruning.compact else kept_heads
            modules: list[UnitModule] = []
            sets: list[UnitSet] = []
            shared = {} if pruning.cost is None else _parts_of_budget(pruning, options, parameters)
            chosen = file is not None
            for kind in KINDS.values():
                wanted = None if file is None else HeadSet.read(file).set_of(kind)
                total = totals.get(kind.options["to_keep"])
                # what is given says how wide a unit is, where it is one of those that are given
                about = options if wanted is None else Namespace(**{**vars(options), "kept_heads": file})
                if not kind.is_chosen(about):
                    if total is not None:
                        raise ValueError(f"it was trained without a choice of {kind.units}: train with one")
                    continue
                own = modules_in(parameters, about, kind)
                if wanted is None:
                    plan = PruningPlan(pruning, shape_of(own, kind), kind)
                    chosen_by = shared.get(kind.name, plan) if total is None else plan
                    wanted = _kept(parameters, importance or {}, plan, chosen_by, total, kind.unit_width(options))
                    chosen = chosen or plan.prunes or total is not None
                elif total is not None:
                    raise ValueError(
                        f"{flag(kind.options['to_keep'])} {total} is given, and --kept-heads says which {kind.units} "
                        "to keep: give one of them"
                    )
                wanted.to_gates(shape_of(own, kind))
                modules += own
                sets.append(wanted)
            heads = HeadSet(HEADS, sets[0].total, sets[0].layers, others=tuple(sets[1:]))
            return TrainedModel(path, state, options, heads, modules, importance, chosen)
        except KeyError as error:
            raise UserError(
                f"the checkpoint {path} has no {error.args[0]}: give one that fairseq-train wrote"
            ) from error
        except ValueError as error:
            raise UserError(f"the checkpoint {path} cannot be used: {error}") from error

    @property
    def is_compact(self) -> bool:
        """Whether the other units are gone already."""
        return self.importance is None

    @property
    def range(self) -> tuple[int, int] | None:
        """The least and the largest number of heads, if it was trained for all of a range."""
        low, high = self.options.heads_to_keep_low, self.options.heads_to_keep_high
        return None if low is None or high is None else (low, high)

    def alignment_heads(self, reader: str) -> int:
        """Return the number of heads left that alignments are read from; 0 for a model without cross-attention.

        :param reader: what reads them, for the warning if there are none: the others' attention is uniform.
        """
        heads = self.heads.alignment_heads
        if heads == 0:
            logger.warning(
                "%s has no heads left in the last layer's cross-attention, which alignments are read from: %s would "
                "give the same weight to every word; train with --min-heads-per-module 1 for alignments",
                self.path, reader,
            )  # fmt: skip
        return heads or 0

    @property
    def architecture(self) -> str:
        """The name for ``--arch``."""
        return str(getattr(self.options, "arch", None) or getattr(self.options, "_name", None))

    @property
    def model_class(self) -> type[PrunableModel]:
        """The class of the model."""
        found: type[PrunableModel] = MODEL_REGISTRY[model_of(self.architecture)]
        return found

    @property
    def classifies(self) -> bool:
        """Whether it classifies sentences; otherwise it translates."""
        return self.model_class.architecture is ROBERTA

    def compact_parameters(self) -> dict[str, Tensor]:
        """Return the state dict of the compact model, with each shared embedding once; averages hold copies.

        :raises UserError: if attention of any number of heads cannot compute what the model does, or a weight is not
            finite.
        """
        for name in ("encoder_xformers_att_config", "decoder_xformers_att_config"):
            if getattr(self.options, name, None):
                raise UserError(
                    f"the checkpoint {self.path} was trained with {flag(name)}, and such attention cannot be made "
                    "compact: use the checkpoint as it is, or export it with fairseq-dsp export-fairseq"
                )
        if self.is_compact:
            return sharing(self.finite(dict(self.state["model"])))
        return sharing(self.finite(self._with_units(UnitModule.remove)))

    def parameters_left(self) -> int:
        """Return the number of parameters without those of the units that do not stay."""
        return count_parameters(self.state["model"] if self.is_compact else self._with_units(UnitModule.remove))

    def full_parameters(self) -> dict[str, Tensor]:
        """Return the state dict of a stock model that computes the same: the other units are zeros.

        :raises UserError: if a weight is not finite.
        """

        def full(module: UnitModule, part: dict[str, Tensor], kept: tuple[int, ...]) -> dict[str, Tensor]:
            return module.restore(part if self.is_compact else module.remove(part, kept), kept)

        return self.finite(self._with_units(full))

    def compact_options(self) -> Namespace:
        """Return the options of the compact model: the units in, everything about choosing them out."""
        options = Namespace(**vars(self.options))
        defaults = PruningConfig()
        for field in fields(PruningConfig):
            if not field.name.startswith("_"):
                setattr(options, field.name, getattr(defaults, field.name))
        options.compact, options.kept_heads = True, self.heads.to_json()
        setattr(options, IN_FORCE, in_force())
        return options

    def state_with(self, parameters: dict[str, Tensor], options: Namespace | dict[str, Any]) -> dict[str, Any]:
        """Return what to save: the state with other parameters and options, without what only resuming needs."""
        config = OmegaConf.create(self.state["cfg"], flags={"allow_objects": True})
        container: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
        container["model"] = options
        history = {k: v for k, v in self.state["optimizer_history"][-1].items() if k != "lr_scheduler_state"}
        return {
            "args": None,
            "cfg": container,
            "model": parameters,
            "criterion": self.state.get("criterion"),
            "optimizer_history": [{**history, "lr_scheduler_state": {}}],
            "task_state": self.state.get("task_state", {}),
            "extra_state": {"train_iterator": {"epoch": 1}},
            "last_optimizer_state": None,
        }

    def _with_units(self, change: Callable[..., dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return the state dict with each module's parameters changed, and without the choice."""
        choices = tuple(f"{kind}." for kind in KINDS)
        parameters = {k: v for k, v in self.state["model"].items() if not k.startswith(choices)}
        for module, kept in self.kept_by_module():
            prefix = f"{module.name}."
            part = {k.removeprefix(prefix): parameters.pop(k) for k in list(parameters) if k.startswith(prefix)}
            part.pop("out_proj.importance", None)  # of version 0.1
            parameters |= {prefix + key: value for key, value in change(module, part, kept).items()}
        return parameters

    def finite(self, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return weights made of the checkpoint's.

        :raises UserError: if one is a NaN or an infinity.
        """
        check_finite(parameters, f"the checkpoint {self.path}")
        return parameters

    def kept_by_module(self) -> Iterator[tuple[UnitModule, tuple[int, ...]]]:
        """Yield each module with the units that it keeps."""
        yield from zip(self.modules, (k for units in self.heads.all for k in chain(*units.layers)), strict=True)


def _importance(parameters: dict[str, Tensor], modules: list[UnitModule]) -> dict[str, Tensor]:
    """Return the importance of all units of each kind that has one, numbered by type, layer and index.

    :param modules: the attention modules.
    """
    name = f"{HEADS.name}.importance"
    if name not in parameters and modules and f"{modules[0].name}.out_proj.importance" in parameters:  # version 0.1
        return {HEADS.name: torch.cat([parameters[f"{module.name}.out_proj.importance"] for module in modules]).float()}
    others = [kind for kind in KINDS if f"{kind}.importance" in parameters]
    return {kind: parameters[f"{kind}.importance"].float() for kind in dict.fromkeys([HEADS.name, *others])}


def _parts_of_budget(pruning: PruningConfig, options: Namespace, parameters: dict[str, Any]) -> dict[str, KindOfBudget]:
    """Return each kind's part of a budget of cost, as a checkpoint says it."""
    kinds = [kind for kind in KINDS.values() if kind.is_chosen(options)]
    modules = [modules_in(parameters, options, kind) for kind in kinds]
    plans = [PruningPlan(pruning, shape_of(own, kind), kind) for own, kind in zip(modules, kinds, strict=True)]
    choices = [UnitChoice(plan.units) for plan in plans]
    for kind, choice in zip(kinds, choices, strict=True):
        choice.importance.data = parameters[f"{kind.name}.importance"].float()
        choice.kept = parameters[f"{kind.name}.kept"]
    budget = CostBudget(plans, modules)
    return {kind.name: KindOfBudget(budget, place, choices) for place, kind in enumerate(kinds)}


def _kept(
    parameters: dict[str, Tensor],
    importance: dict[str, Tensor],
    plan: PruningPlan,
    chosen_by: PruningPlan | KindOfBudget,
    total: int | None,
    width: int | None,
) -> UnitSet:
    """Return the units of a kind that a checkpoint keeps, or the best ones in another budget than training's."""
    own, units = importance[plan.kind.name], plan.kind.units
    if len(own) != plan.units:
        raise ValueError(f"it has {plan.units} {units}, but an importance of {len(own)}: give an earlier checkpoint")
    alike = bool((own == own[:1]).all())
    gates = parameters.get(f"{plan.kind.name}.kept")
    if total is not None:
        if not plan.prunes and 0 < total < len(own) and alike:
            raise ValueError(
                f"{flag(plan.kind.options['to_keep'])} {total} is given, but it was trained without pruning, and all "
                f"{len(own)} {units} have the same importance: train with "
                f"{flag(plan.kind.options['to_keep'])}, or give --kept-heads FILE with {units} scored by "
                "fairseq-dsp score-heads"
            )
        gates = plan.keep(own, total)
    elif gates is None or not chosen_by.allows(gates):
        gates = chosen_by.keep(own)  # else they stay, whatever rule would choose today
    undecided = alike and plan.given is None and parameters.get(f"{plan.kind.name}.phase") == ALL
    if undecided and 0 < int(gates.sum()) < len(own):
        logger.warning("no %s have been chosen yet in this checkpoint, so the first ones by number are kept", units)
    return UnitSet.from_gates(gates, plan.shape, plan.kind, width)


def add_budgets(parser: argparse.ArgumentParser) -> None:
    """Add an option for another budget than the one of training, for each kind of units."""
    for kind in KINDS.values():
        meaning = f"keep the best K {kind.units} (default: as many as validation kept)"
        parser.add_argument(flag(kind.options["to_keep"]), type=int, metavar="K", help=meaning)


def budgets(args: argparse.Namespace) -> dict[str, Any]:
    """Return what these options say, for :meth:`TrainedModel.read`."""
    return {kind.options["to_keep"]: getattr(args, kind.options["to_keep"]) for kind in KINDS.values()}
