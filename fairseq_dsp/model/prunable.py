"""What every model with gated attention heads has, whatever its architecture."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any, ClassVar

from fairseq.dataclass import FairseqDataclass
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import BaseFairseqModel, register_model_architecture
from omegaconf import DictConfig, open_dict
from torch import Tensor

from ..errors import UserError
from ..version import __version__
from . import dictionaries
from .config import IN_FORCE, PruningConfig, flag, flatten, model_namespace
from .encoder import PrunableEncoder
from .pruner import HeadPruner
from .sets import HeadSet
from .units import HEADS, Architecture, modules_in, modules_of, shape_of

_WITHOUT_GATES = {
    "quant_noise_scalar": "puts other layers in place of those whose heads have gates",
    "base_layers": "puts other layers in place of those whose heads have gates",
    "mha_heads_to_keep": "is fairseq's own way to remove heads, which the gates do not know",
}
"""Options of fairseq's models that gates do not go with, and why."""


class PrunableModel(BaseFairseqModel):
    """Stands before a model of fairseq, and gives it options, gates and a compact form.

    Without a budget it is the stock model, with the same parameters and results.
    """

    architecture: ClassVar[Architecture]
    """Where the attention modules are."""

    own_options: ClassVar[tuple[type[FairseqDataclass], ...]] = (PruningConfig,)
    """The options that the stock model does not have."""

    pruner: HeadPruner | None = None
    """What sets the gates; None once the other heads are gone."""

    kept_heads: HeadSet | None = None
    """The heads that are left, among those of the unpruned model; None while there are gates."""

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
    def namespace(cls, config: Namespace | DictConfig) -> Namespace:
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
            if options.kept_heads:
                # the set itself goes into the checkpoints, not the name of a file that others do not have
                _set(config, args, kept_heads=HeadSet.read(options.kept_heads).to_json())
                options.kept_heads = args.kept_heads
            for part in cls.own_options:
                part.from_namespace(args).check()
            if len(cls.architecture.places) == 1:
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
                model.pruner = model.first.pruner = HeadPruner(model, options)
                if model.pruner.plan.prunes and _is_sharded(args):
                    raise ValueError(
                        "--ddp-backend fully_sharded gives each process a part of the parameters, but the gates need "
                        "whole ones: leave it out, or train with --ddp-backend pytorch_ddp"
                    )
                in_force = {"version": __version__, **model.pruner.plan.resolved()}
                _set(config, args, **{IN_FORCE: json.dumps(in_force)})
        except ValueError as error:
            raise UserError(str(error)) from error
        return model

    def remove_closed_heads(self) -> None:
        """Remove the heads that evaluation does not keep and the gates, for good, if no option needs them all."""
        if self.pruner is not None and all(attention.can_skip_heads for attention in self.pruner.attentions):
            self._remove_heads(self.pruner.kept())

    def _remove_heads(self, kept: HeadSet) -> None:
        """Replace each attention module by one of the kept heads only, in place.

        :raises ValueError: if the heads are not the model's, or an attention module needs all its heads.
        """
        modules = list(modules_of(self))
        kept.to_gates(shape_of(modules))  # raises if they do not fit
        layers = (layer for kind in HEADS.types for layer in kept.of(kind))
        for module, heads in zip(modules, layers, strict=True):
            module.module.remove(module, heads)
        self.kept_heads = kept
        self.pruner = self.first.pruner = None
        self._modules.pop(HEADS.name, None)
        # a module that reads both sides needs the encoder's output for each beam
        self.first.compact = all(m.module.self_attention or m.module.encoder_decoder_attention for m in modules)

    def train(self, mode: bool = True) -> Any:
        """Enter training or evaluation mode; fairseq's trainer enters training mode before every update.

        :raises UserError: if training cannot do what the pruning options say.
        """
        if mode and self.pruner is not None:
            self.pruner.check_training()
        return super().train(mode)

    def set_num_updates(self, num_updates: int) -> None:
        """Take the number of updates made so far from the trainer: the schedules are functions of it."""
        super().set_num_updates(num_updates)
        if self.pruner is not None:
            self.pruner.end_update(num_updates)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Complete the state dict of a stock model, or of an earlier version, with the choice of heads."""
        super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}." if name else ""
        self._check_heads(state_dict, prefix)
        if self.pruner is not None:
            self.pruner.complete(state_dict, prefix)
            left = {stack: getattr(self.args, f"{stack}_layers_to_keep", None) for stack in ("encoder", "decoder")}
            if any(left.values()):
                dictionaries.compare(self, state_dict, prefix)  # fairseq goes on without the metadata
                names = [key.removeprefix(prefix) for key in state_dict if key.startswith(prefix)]
                self.pruner.leave_out_layers(state_dict, prefix, modules_in(names, self.args), left)

    def _check_heads(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Raise a `UserError` that names the first attention module with another number of heads than this model's."""
        for module in modules_of(self):
            weight = state_dict.get(f"{prefix}{module.name}.out_proj.weight")
            bias = state_dict.get(f"{prefix}{module.name}.out_proj.bias")
            if bias is None or bias.shape != (module.module.embed_dim,):
                continue  # another kind of model: fairseq says what differs
            width = 0 if weight is None else weight.shape[1]
            if width == module.units * module.width:
                continue
            if self.kept_heads is None:
                advice = "it is compact: give --compact --kept-heads FILE with the heads that it has"
            else:
                advice = "give --kept-heads FILE with its heads, or make it compact with fairseq-dsp compact"
            raise UserError(
                f"{module.name} has {width / module.width:g} heads in the checkpoint, but {module.units} in this "
                f"model: if the checkpoint is the one you mean, {advice}"
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
