"""The Transformer with gated attention heads, and its architectures."""

from __future__ import annotations

from typing import Any

from fairseq.models import register_model
from fairseq.models.transformer import TransformerConfig, TransformerDecoder, TransformerModel
from fairseq.models.transformer import transformer_legacy as stock
from fairseq.modules.transformer_layer import TransformerDecoderLayerBase
from torch import Tensor

from ..errors import UserError
from .attention import SAVED, PrunableAttention, group_rows, lay_out_for_decoding
from .encoder import PrunableEncoder, wrapped
from .flat_options import flat_names
from .prunable import PrunableModel, register_sizes
from .units import TRANSFORMER, modules_of


class _DecoderLayer(TransformerDecoderLayerBase):
    """The stock layer with `PrunableAttention`."""

    def build_self_attention(self, *args: Any, **kwargs: Any) -> PrunableAttention:
        return PrunableAttention.of(super().build_self_attention(*args, **kwargs))

    def build_encoder_attention(self, *args: Any, **kwargs: Any) -> PrunableAttention:
        return PrunableAttention.of(super().build_encoder_attention(*args, **kwargs))


class PrunableDecoder(TransformerDecoder):
    """The stock decoder; it reorders the beams without asking every module whether it has something to reorder."""

    def build_decoder_layer(self, args: Any, no_encoder_attn: bool = False) -> Any:
        """Build a layer with prunable attention, wrapped as the stock one is."""
        return wrapped(_DecoderLayer(TransformerConfig.from_namespace(args), no_encoder_attn), args)

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


@register_model(TRANSFORMER.model)
class PrunableTransformer(PrunableModel, TransformerModel):
    """fairseq's Transformer with a subset gate on every attention head (Li et al. 2021).

    Without a budget it is the stock Transformer, with the same parameters and results. To generate, it removes the
    heads that it does not keep and joins what can be computed at once; with ``--compact`` it never had them.
    """

    architecture = TRANSFORMER

    @classmethod
    def known_options(cls) -> set[str]:
        """Return the flat names of all options, those without a flag included."""
        return super().known_options() | flat_names()

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
        self.remove_closed_heads()
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


for _name, _sizes in {
    "transformer_dsp": stock.base_architecture,
    "transformer_dsp_tiny": stock.tiny_architecture,
    "transformer_dsp_iwslt_de_en": stock.transformer_iwslt_de_en,
    "transformer_dsp_wmt_en_de": stock.transformer_wmt_en_de,
    "transformer_dsp_wmt_en_de_big": stock.transformer_wmt_en_de_big,
}.items():
    register_sizes(TRANSFORMER, _name, _sizes)
