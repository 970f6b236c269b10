"""The Transformer with gated attention heads, and its architectures."""

from __future__ import annotations

import itertools
from argparse import ArgumentParser, Namespace
from typing import Any

import torch
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerDecoder, TransformerEncoder, TransformerModel
from fairseq.models.transformer import transformer_legacy as stock
from omegaconf import DictConfig, open_dict
from torch import Tensor

from ..errors import UserError
from . import dictionaries
from .compact import CompactAttention, can_be_compact, group_rows, lay_out_for_decoding, make_compact
from .config import PruningConfig, flatten, model_namespace
from .heads import TYPES, HeadSet, attention_modules
from .plan import PruningPlan
from .pruner import HeadPruner


class PrunableEncoder(TransformerEncoder):
    """The stock encoder; its forward pass, the first of every use of the model, sets the gates of the whole model."""

    pruner: HeadPruner | None = None
    compact = False

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, list[Tensor]]:
        """Set the gates, then encode; arguments and result are the stock encoder's."""
        if self.pruner is not None:
            self.pruner.refresh(self.training)
        return super().forward(*args, **kwargs)

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

    def reorder_incremental_state_scripting(self, incremental_state: Any, new_order: Tensor) -> None:
        """Put what the attention modules saved into the order *new_order*: no other module saves anything."""
        groups: Any = None  # the same for the cross-attention of all layers
        for i in range(len(self.layers)):
            for attention in (self.layers[i].self_attn, self.layers[i].encoder_attn):
                saved = attention._get_input_buffer(incremental_state) if attention is not None else None
                if not saved:
                    continue
                if isinstance(attention, CompactAttention) and attention.cross:
                    groups = groups or group_rows(new_order, saved["beams"], saved["kv"].shape[1])
                    attention.keep_sentences(incremental_state, *groups)
                else:
                    attention.reorder_incremental_state(incremental_state, new_order)


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
                args.kept_heads = options.kept_heads = HeadSet.read(options.kept_heads).to_json()
                if isinstance(config, DictConfig):
                    with open_dict(config):
                        config.kept_heads = options.kept_heads
            options.check()
        except ValueError as error:
            raise UserError(str(error)) from error
        model: PrunableTransformer = super().build_model(args, task)
        dictionaries.tie(model)
        try:
            if options.compact:
                model._remove_heads(HeadSet.read(str(options.kept_heads)))
            else:
                model.pruner = model.encoder.pruner = HeadPruner(model, options)
        except ValueError as error:
            raise UserError(str(error)) from error
        return model

    def _remove_heads(self, kept: HeadSet) -> None:
        make_compact(self, kept)
        self.kept_heads = kept
        self.pruner = self.encoder.pruner = None
        self.encoder.compact = True

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
        if self.pruner is not None and all(can_be_compact(m.attention) for m in self.pruner.modules):
            self._remove_heads(self.pruner.kept())
        if self.kept_heads is not None and not self._is_generation_fast:
            lay_out_for_decoding(self)
        if kwargs.get("need_attn") and self.kept_heads is not None:
            *_, last = attention_modules(self)  # the alignment is the last layer's
            if last.heads == 0:
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
            self.pruner.before_training()
        return super().train(mode)

    def set_num_updates(self, num_updates: int) -> None:
        """Take the number of updates made so far from the trainer: the schedules are functions of it."""
        super().set_num_updates(num_updates)
        if self.pruner is not None:
            self.pruner.update = num_updates

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Complete the state dict of a stock Transformer, which has no importance, with the model's own."""
        super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}." if name else ""
        self._check_heads(state_dict, prefix)
        self._check_layers(state_dict, prefix)
        if self.pruner is not None:
            for module, gate in zip(self.pruner.modules, self.pruner.gates, strict=True):
                state_dict.setdefault(f"{prefix}{module.name}.out_proj.importance", gate.importance.detach())

    def _check_heads(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Raise a `UserError` that names the first attention module with another number of heads than this model's."""
        for module in attention_modules(self):
            attention: Any = module.attention
            weight = state_dict.get(f"{prefix}{module.name}.out_proj.weight")
            bias = state_dict.get(f"{prefix}{module.name}.out_proj.bias")
            if bias is None or bias.shape != (attention.embed_dim,):
                continue  # another kind of model: fairseq says what differs
            width = 0 if weight is None else weight.shape[1]
            if width == module.heads * attention.head_dim:
                continue
            if self.kept_heads is None:
                advice = "it is compact: give --compact --kept-heads FILE with the heads that it has"
            else:
                advice = "give --kept-heads FILE with its heads, or make it compact with fairseq-dsp compact"
            raise UserError(
                f"{module.name} has {width / attention.head_dim:g} heads in the checkpoint, but {module.heads} in this "
                f"model: if the checkpoint is the one you mean, {advice}"
            )

    def _check_layers(self, state_dict: dict[str, Tensor], prefix: str) -> None:
        """Raise a `UserError` if, with layers left out (LayerDrop), other heads would be kept than were trained."""
        left = {stack: getattr(self.args, f"{stack}_layers_to_keep", None) for stack in ("encoder", "decoder")}
        if self.pruner is None or not self.pruner.plan.prunes or not any(left.values()):
            return
        rows: dict[str, list[Tensor]] = {kind: [] for kind in TYPES}  # the importance in each trained layer
        for kind, stack, attribute in {(m.type, *m.name.split(".")[::3]) for m in self.pruner.modules}:
            names = (f"{prefix}{stack}.layers.{i}.{attribute}.out_proj.importance" for i in itertools.count())
            found = itertools.takewhile(state_dict.__contains__, names)
            rows[kind] = [state_dict[name].float() for name in found]
        if not any(rows.values()):
            return  # a stock Transformer's: no set was trained
        shape = {kind: list(map(len, rows[kind])) for kind in TYPES}
        importance = torch.cat([row for kind in TYPES for row in rows[kind]])
        trained = HeadSet.from_gates(PruningPlan(self.pruner.plan.config, shape).keep(importance), shape)
        kept, ours = [], []
        for kind in TYPES:
            given = left["encoder" if kind == "encoder_self" else "decoder"]
            layers = sorted(map(int, given.split(","))) if given else range(len(shape[kind]))
            kept += [trained.of(kind)[i] for i in layers if i < len(shape[kind])]
            ours += [rows[kind][i] for i in layers if i < len(shape[kind])]
        anew = HeadSet.from_gates(self.pruner.plan.keep(torch.cat(ours)), self.pruner.plan.shape)
        if kept != [heads for kind in TYPES for heads in anew.of(kind)]:
            raise UserError(
                f"with --encoder-layers-to-keep {left['encoder']} and --decoder-layers-to-keep {left['decoder']} "
                f"{anew.kept} heads would be chosen anew among those that are left, of which the trained model keeps "
                f"{sum(map(len, kept))}: leave these options out"
            )


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
