"""What every model with gated heads and feed-forward units has, whatever its architecture."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import BaseFairseqModel, register_model_architecture
from omegaconf import DictConfig, open_dict
from torch import Tensor

from ..errors import UserError
from . import dictionaries
from .attention_heads import HEADS, check_heads
from .cost_budget import CostBudget, KindOfBudget, check_countable
from .encoder import PrunableEncoder
from .flat_options import IN_FORCE, flatten, in_force, model_namespace
from .kinds import COSTS, KINDS, flag
from .pruner import UnitPruner
from .pruning_options import PruningConfig
from .sets import HeadSet
from .units import Architecture, modules_in, modules_of, shape_of

_WITHOUT_GATES = {
    "quant_noise_scalar": "puts other layers in place of those whose heads have gates",
    "base_layers": "puts other layers in place of those whose heads have gates",
    "mha_heads_to_keep": "is fairseq's own way to remove heads, which the gates do not know",
    "ffn_blocks_to_remove": "is fairseq's own way to remove feed-forward units, which the gates do not know",
}
"""Options of fairseq's models that gates do not go with, and why."""


class PrunableModel(BaseFairseqModel):
    """Stands before a model of fairseq, and gives it options, gates and a compact form.

    Without a budget it is the stock model, with the same parameters and results.
    """

    architecture: ClassVar[Architecture]
    """Where the layers are."""

    own_options: ClassVar[tuple[type[FairseqDataclass], ...]] = (PruningConfig,)
    """The options that the stock model does not have."""

    pruners: Mapping[str, UnitPruner] = MappingProxyType({})
    """What sets the gates, by the name of the kind; none once the other units are gone."""

    kept_heads: HeadSet | None = None
    """The heads and units that are left, among those of the unpruned model; None while there are gates."""

    @property
    def pruner(self) -> UnitPruner | None:
        """What sets the gates of the heads; None once the other heads are gone."""
        return self.pruners.get(HEADS.name)

    @property
    def first(self) -> PrunableEncoder:
        """The part with which every forward pass begins."""
        return self.encoder

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """Add the stock model's options and this package's to a parser."""
        super().add_args(parser)
        for options in cls.own_options:
            gen_parser_from_dataclass(parser, options())

    @classmethod
    def known_options(cls) -> set[str]:
        """Return the flat names of all options."""
        parser = ArgumentParser(add_help=False)
        cls.add_args(parser)
        return {action.dest for action in parser._actions}

    @classmethod
    def namespace(cls, config: Namespace | DictConfig | dict[str, Any]) -> Namespace:
        """Return the options of a model of this class as a flat namespace; see :func:`model_namespace`.

        :raises ValueError: for an unknown key, or a value of another type, in a hydra config.
        """
        return model_namespace(config, cls.known_options(), cls.own_options)

    @classmethod
    def build_model(cls, args: Any, task: Any) -> Any:
        """Build a model from a namespace or a hydra config.

        :raises UserError: if an option is unknown or does not fit the others.
        """
        config = args
        try:
            args = cls.namespace(config)
            options = PruningConfig.from_namespace(args)
            check_heads(args)
            if options.kept_heads:
                # the set itself goes into the checkpoints, not the name of a file that others do not have
                _set(config, args, kept_heads=HeadSet.read(options.kept_heads).to_json())
                options.kept_heads = args.kept_heads
            if not options.compact:  # a width that nobody gave is the same when the training goes on
                with_width = (kind for kind in KINDS.values() if kind.has_width and kind.is_chosen(args))
                _set(config, args, **{kind.options["width"]: kind.unit_width(args) for kind in with_width})
            for part in cls.own_options:
                part.from_namespace(args).check()
            if len(cls.architecture.types(HEADS)) == 1:
                options.check_single_type()
            for name, reason in _WITHOUT_GATES.items():
                if getattr(args, name, None) not in (None, False, 0, -1):
                    raise ValueError(
                        f"{flag(name)} {getattr(args, name)} {reason}: leave it out, or train with fairseq's own "
                        f"--arch {cls.architecture.stock}"
                    )
        except ValueError as error:
            raise UserError(str(error)) from error
        model = super().build_model(args, task)
        dictionaries.tie(model)
        try:
            if options.compact:
                model._remove_heads(HeadSet.read(str(options.kept_heads)))
            else:
                model._add_gates(options, args)
                if any(pruner.plan.prunes for pruner in model.pruners.values()) and _is_sharded(args):
                    raise ValueError(
                        "--ddp-backend fully_sharded gives each process a part of the parameters, but the gates need "
                        "whole ones: leave it out, or train with --ddp-backend pytorch_ddp"
                    )
        except ValueError as error:
            raise UserError(str(error)) from error
        _set(config, args, **{IN_FORCE: in_force()})
        return model

    def _add_gates(self, options: PruningConfig, args: Any) -> None:
        """Give the units of each kind gates.

        :raises ValueError: if the options do not fit each other or the model.
        """
        chosen = [kind for kind in KINDS.values() if kind.is_chosen(args)]
        pruners = [UnitPruner(self, options, kind, args) for kind in chosen]
        if options.cost is not None:
            check_countable(options, args)
            budget = CostBudget([pruner.plan for pruner in pruners], [pruner.modules for pruner in pruners])
            for place, pruner in enumerate(pruners):
                pruner.chosen_by = KindOfBudget(budget, place, [other.choice for other in pruners])
        self.pruners = self.first.pruners = {pruner.kind.name: pruner for pruner in pruners}
        if options.freeze_weights:
            learnt = [pruner.importance for pruner in self.pruners.values() if pruner.plan.learns]
            if not learnt:
                raise ValueError(
                    "--freeze-weights trains the importance variables only, but with these options there are none to "
                    "train: give --heads-to-keep, and a --head-selection that learns"
                )
            for parameter in self.parameters():
                parameter.requires_grad_(any(parameter is one for one in learnt))

    def kept(self) -> HeadSet:
        """Return the heads and units that evaluation keeps."""
        if self.kept_heads is not None:
            return self.kept_heads
        heads, *others = (pruner.kept() for pruner in self.pruners.values())
        return HeadSet(heads.kind, heads.total, heads.layers, others=tuple(others))

    def remove_closed_heads(self) -> None:
        """Remove the units that evaluation does not keep and the gates, for good, if no option needs them all."""
        if self.pruners and all(gated.can_skip_units for pruner in self.pruners.values() for gated in pruner.gated):
            self._remove_heads(self.kept())

    def _remove_heads(self, kept: HeadSet) -> None:
        """Replace each module by one of the kept units only, in place.

        :raises ValueError: if the units are not the model's, or a module needs all of them.
        """
        attentions = list(modules_of(self))
        for units in kept.all:
            modules = list(modules_of(self, units.kind, self.args))
            units.to_gates(shape_of(modules, units.kind))  # raises if they do not fit
            layers = (layer for layers in units.layers for layer in layers)
            for module, left in zip(modules, layers, strict=True):
                module.module.remove(module, left)
        self.kept_heads = kept
        for name in KINDS:
            self._modules.pop(name, None)
        self.pruners = self.first.pruners = {}
        # a module that reads both sides needs the encoder's output for each beam
        self.first.compact = all(m.module.self_attention or m.module.encoder_decoder_attention for m in attentions)

    def train(self, mode: bool = True) -> Any:
        """Enter training or evaluation mode; fairseq's trainer enters training mode before every update.

        :raises UserError: if training cannot do what the pruning options say.
        """
        if mode:
            for pruner in self.pruners.values():
                pruner.check_training()
        return super().train(mode)

    def set_num_updates(self, num_updates: int) -> None:
        """Take the number of updates made so far from the trainer: the schedules are functions of it."""
        super().set_num_updates(num_updates)
        for pruner in self.pruners.values():
            pruner.end_update(num_updates)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Complete the state dict of a stock model, or of an earlier version, with the choice of units."""
        super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}." if name else ""
        self._forget_choices_of_all(state_dict, prefix)
        self._check_units(state_dict, prefix)
        for kind, pruner in self.pruners.items():
            pruner.complete(state_dict, prefix)
            left = {stack: getattr(self.args, f"{stack}_layers_to_keep", None) for stack in ("encoder", "decoder")}
            if any(left.values()):
                dictionaries.compare(self, state_dict, prefix)  # fairseq goes on without the metadata
                names = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
                pruner.leave_out_layers(state_dict, prefix, modules_in(names, self.args, KINDS[kind]), left)

    def _forget_choices_of_all(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Take what there is of a choice of all units, which is none, out of a state dict where it does not fit."""
        for kind in KINDS.values():
            start, own = f"{prefix}{kind.name}.", self.pruners.get(kind.name)
            kept = state_dict.get(f"{start}kept")
            if kept is None or not kind.has_width or not (kept > 0).all():
                continue
            if own is None or len(kept) != own.plan.units:
                for name in [name for name in state_dict if name.startswith(start)]:
                    del state_dict[name]

    def _check_units(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Raise a `UserError` that names the first module with other units than this model's."""
        for kind in KINDS.values():
            if self.pruners and kind.name not in self.pruners and f"{prefix}{kind.name}.importance" in state_dict:
                raise UserError(
                    f"the checkpoint has a choice of {kind.units}, but this model has none: give "
                    f"{flag(kind.options['to_keep'])} K, or {' or '.join(map(flag, COSTS))}, as it was trained with, "
                    f"or --kept-heads with a set that says which {kind.units} stay"
                )
            for module in modules_of(self, kind, self.args):
                weight = state_dict.get(f"{prefix}{module.name}.{module.last}")
                bias = state_dict.get(f"{prefix}{module.name}.{module.last.replace('weight', 'bias')}")
                _, (outside, inside) = module.parameters[module.last]
                if bias is None or bias.shape != (outside,):
                    continue  # another kind of model: fairseq says what differs
                width = 0 if weight is None else weight.shape[1]
                if width == inside:
                    continue
                if self.kept_heads is not None:
                    advice = "give --kept-heads FILE with its heads, or make it compact with fairseq-dsp compact"
                elif any(pruner.plan.prunes for pruner in self.pruners.values()):
                    advice = (
                        "it is compact, and nothing more can be chosen in it: prune the checkpoint that it was made "
                        "from or, to train it on as it is, give --compact --kept-heads FILE with the heads that it "
                        "has, and no budget"
                    )
                else:
                    advice = "it is compact: give --compact --kept-heads FILE with the heads that it has"
                units = kind.units if kind.is_chosen(self.args) else f"columns of {module.last}"
                raise UserError(
                    f"{module.name} has {width / module.width:g} {units} in the checkpoint, but {module.units} in "
                    f"this model: if the checkpoint is the one you mean, {advice}"
                )


def _is_sharded(args: Namespace) -> bool:
    """Whether the model is built for fairscale's FSDP; a hydra config of a model does not say so."""
    wrapping = getattr(sys.modules.get("fairscale.nn.wrap.auto_wrap"), "ConfigAutoWrap", None)
    return getattr(args, "ddp_backend", None) == "fully_sharded" or getattr(wrapping, "in_autowrap_context", False)


def _set(config: Any, args: Namespace, **values: Any) -> None:
    """Set options both in the namespace that the model reads and in the config that goes into its checkpoints."""
    vars(args).update(values)
    if isinstance(config, DictConfig):
        with open_dict(config):
            config.update(values)


def register_sizes(architecture: Architecture, name: str, sizes: Callable[[Any], None]) -> None:
    """Register the stock architecture function *sizes* under a name of this package's model."""

    @register_model_architecture(architecture.model, name)
    def apply(args: Namespace | DictConfig) -> None:
        flatten(args)  # before the sizes that are not given are filled in
        sizes(args)
