"""The Transformer with gated attention heads, and its architectures."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from typing import Any

from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.distributed import fsdp_wrap
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerConfig, TransformerDecoder, TransformerEncoder, TransformerModel
from fairseq.models.transformer import transformer_legacy as stock
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase, TransformerEncoderLayerBase
from omegaconf import DictConfig, open_dict
from torch import Tensor

from ..errors import UserError
from ..version import __version__
from . import dictionaries
from .attention import SAVED, PrunableAttention, group_rows, lay_out_for_decoding
from .config import IN_FORCE, PruningConfig, flag, flatten, model_namespace
from .pruner import HeadPruner
from .sets import HeadSet
from .units import HEADS, modules_in, modules_of, shape_of


class _EncoderLayer(TransformerEncoderLayerBase):
    """The stock layer with `PrunableAttention`."""

    def build_self_attention(self, *args: Any, **kwargs: Any) -> PrunableAttention:
        return PrunableAttention.of(super().build_self_attention(*args, **kwargs))


class _DecoderLayer(TransformerDecoderLayerBase):
    """The stock layer with `PrunableAttention`."""

    def build_self_attention(self, *args: Any, **kwargs: Any) -> PrunableAttention:
        return PrunableAttention.of(super().build_self_attention(*args, **kwargs))

    def build_encoder_attention(self, *args: Any, **kwargs: Any) -> PrunableAttention:
        return PrunableAttention.of(super().build_encoder_attention(*args, **kwargs))


_WITHOUT_GATES = ("quant_noise_scalar", "base_layers")


class PrunableEncoder(TransformerEncoder):
    """The stock encoder; its forward pass, the first of every use of the model, sets the gates of the whole model."""

    pruner: HeadPruner | None = None
    compact = False

    def build_encoder_layer(self, args: Any) -> Any:
        """Build a layer with prunable attention, wrapped as the stock one is."""
        return _wrapped(_EncoderLayer(TransformerConfig.from_namespace(args), return_fc=self.return_fc), args)

    def forward_embedding(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Set the gates and embed; arguments and results are the stock encoder's."""
        x, embedded = super().forward_embedding(*args, **kwargs)
        if self.pruner is not None:
            x = self.pruner.begin(x, self.training)
        return x, embedded

    def reorder_encoder_out(self, encoder_out: dict[str, list[Any]], new_order: Tensor) -> dict[str, list[Any]]:
        """Return the encoder's output for the rows *new_order*: with compact attention once a sentence, not a beam."""
        if not self.compact:
            return super().reorder_encoder_out(encoder_out, new_order)
        (beams,) = encoder_out.get("beams", [1])
        sentences, beams = group_rows(new_order, beams, encoder_out["encoder_out"][0].shape[1])
        if sentences is not None:
            encoder_out = super().reorder_encoder_out(encoder_out, sentences)
        return {**encoder_out, "beams": [beams]}


class PrunableDecoder(TransformerDecoder):
    """The stock decoder; it reorders the beams without asking every module whether it has something to reorder."""

    def build_decoder_layer(self, args: Any, no_encoder_attn: bool = False) -> Any:
        """Build a layer with prunable attention, wrapped as the stock one is."""
        return _wrapped(_DecoderLayer(TransformerConfig.from_namespace(args), no_encoder_attn), args)

    def reorder_incremental_state_scripting(self, incremental_state: Any, new_order: Tensor) -> None:
        """Put what the attention modules saved into the order *new_order*: no other module saves anything."""
        groups: Any = None  # the same for the cross-attention of all layers
        for i in range(len(self.layers)):
            for attention in (self.layers[i].self_attn, self.layers[i].encoder_attn):
                saved = {} if attention is None else attention.saved(incremental_state)
                if saved and attention.encoder_decoder_attention:
                    groups = groups or group_rows(new_order, saved["beams"], saved[SAVED].shape[1])
                    attention.keep_sentences(incremental_state, *groups)
                elif attention is not None:
                    attention.reorder_incremental_state(incremental_state, new_order)


def _wrapped(layer: Any, args: Any) -> Any:
    """Wrap a layer for activation checkpointing and FSDP, as the options say."""
    cfg = TransformerConfig.from_namespace(args)
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
    return fsdp_wrap(layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap)


@register_model("transformer_dsp")
class PrunableTransformer(TransformerModel):
    """fairseq's Transformer with a subset gate on every attention head (Li et al. 2021).

    Without a budget it is the stock Transformer, with the same parameters and results. To generate, it removes the
    heads that it does not keep and joins what can be computed at once; with ``--compact`` it never had them.
    """

    pruner: HeadPruner | None = None
    """What sets the gates; None once the other heads are gone."""

    kept_heads: HeadSet | None = None
    """The heads that are left, among those of the unpruned model; None while there are gates."""

    @classmethod
    def add_args(cls, parser: ArgumentParser) -> None:
        """Add the stock Transformer's options and the pruning options to a parser."""
        super().add_args(parser)
        gen_parser_from_dataclass(parser, PruningConfig())

    @classmethod
    def build_model(cls, args: Any, task: Any) -> PrunableTransformer:
        """Build a model from a namespace or a hydra config.

        :raises UserError: if an option is unknown or does not fit the others.
        """
        config = args
        try:
            args = model_namespace(config)
            options = PruningConfig.from_namespace(args)
            if options.kept_heads:
                # the set itself goes into the checkpoints, not the name of a file that others do not have
                _set(config, args, kept_heads=HeadSet.read(options.kept_heads).to_json())
                options.kept_heads = args.kept_heads
            options.check()
            for name in _WITHOUT_GATES:
                if getattr(args, name, None):
                    raise ValueError(
                        f"{flag(name)} {getattr(args, name)} puts other layers in place of those whose heads have "
                        "gates: leave it out, or train with fairseq's own --arch transformer"
                    )
        except ValueError as error:
            raise UserError(str(error)) from error
        model: PrunableTransformer = super().build_model(args, task)
        dictionaries.tie(model)
        try:
            if options.compact:
                model._remove_heads(HeadSet.read(str(options.kept_heads)))
            else:
                model.pruner = model.encoder.pruner = HeadPruner(model, options)
                in_force = {"version": __version__, **model.pruner.plan.resolved()}
                _set(config, args, **{IN_FORCE: json.dumps(in_force)})
        except ValueError as error:
            raise UserError(str(error)) from error
        return model

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
        self.pruner = self.encoder.pruner = None
        self._modules.pop(HEADS.name, None)
        # a module that reads both sides needs the encoder's output for each beam
        self.encoder.compact = all(m.module.self_attention or m.module.encoder_decoder_attention for m in modules)

    @classmethod
    def build_encoder(cls, args: Any, src_dict: Any, embed_tokens: Any) -> PrunableEncoder:
        """Build the encoder."""
        return PrunableEncoder(args, src_dict, embed_tokens)

    @classmethod
    def build_decoder(cls, args: Any, tgt_dict: Any, embed_tokens: Any) -> PrunableDecoder:
        """Build the decoder."""
        no_encoder_attn = getattr(args, "no_cross_attention", False)
        return PrunableDecoder(args, tgt_dict, embed_tokens, no_encoder_attn=no_encoder_attn)

    def make_generation_fast_(self, **kwargs: Any) -> None:
        """Remove the heads that are not kept and the gates, for good; fairseq calls this before it generates."""
        if self.pruner is not None and all(attention.can_skip_heads for attention in self.pruner.attentions):
            self._remove_heads(self.pruner.kept())
        if self.kept_heads is not None and not self._is_generation_fast:
            lay_out_for_decoding(self)
        if kwargs.get("need_attn") and self.kept_heads is not None:
            *_, last = modules_of(self)  # the alignment is the last layer's
            if last.units == 0:
                raise UserError(
                    "an alignment is asked for, but the last layer's cross-attention, which it is read from, has no "
                    "heads left: leave out --print-alignment, or train with --min-heads-per-module 1"
                )
        super().make_generation_fast_(**kwargs)

    def train(self, mode: bool = True) -> PrunableTransformer:
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
        """Complete the state dict of a stock Transformer, or of an earlier version, with the choice of heads."""
        super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}." if name else ""
        self._check_heads(state_dict, prefix)
        if self.pruner is not None:
            self.pruner.complete(state_dict, prefix)
            left = {stack: getattr(self.args, f"{stack}_layers_to_keep", None) for stack in ("encoder", "decoder")}
            if any(left.values()):
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


def _set(config: Any, args: Namespace, **values: Any) -> None:
    """Set options both in the namespace that the model reads and in the config that goes into its checkpoints."""
    vars(args).update(values)
    if isinstance(config, DictConfig):
        with open_dict(config):
            config.update(values)


def _architecture(name: str, sizes: Any) -> None:
    """Register the stock architecture function *sizes* under a name of this model's."""

    @register_model_architecture("transformer_dsp", name)
    def apply(args: Namespace | DictConfig) -> None:
        flatten(args)  # before the sizes that are not given are filled in
        sizes(args)


_architecture("transformer_dsp", stock.base_architecture)
_architecture("transformer_dsp_tiny", stock.tiny_architecture)
_architecture("transformer_dsp_iwslt_de_en", stock.transformer_iwslt_de_en)
_architecture("transformer_dsp_wmt_en_de", stock.transformer_wmt_en_de)
_architecture("transformer_dsp_wmt_en_de_big", stock.transformer_wmt_en_de_big)
