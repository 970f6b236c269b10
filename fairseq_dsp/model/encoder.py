"""The encoder with gated attention heads, of every architecture."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from fairseq.distributed import fsdp_wrap
from fairseq.models.transformer import TransformerConfig, TransformerEncoder
from fairseq.modules.checkpoint_activations import checkpoint_wrapper
from fairseq.modules.transformer_layer import TransformerEncoderLayerBase
from torch import Tensor

from .attention import PrunableAttention, group_rows
from .pruner import UnitPruner


class _EncoderLayer(TransformerEncoderLayerBase):
    """The stock layer with `PrunableAttention`."""

    def build_self_attention(self, *args: Any, **kwargs: Any) -> PrunableAttention:
        return PrunableAttention.of(super().build_self_attention(*args, **kwargs))


class PrunableEncoder(TransformerEncoder):
    """The stock encoder; its forward pass, the first of every use of the model, sets the gates of the whole model."""

    pruners: Mapping[str, UnitPruner] = MappingProxyType({})
    compact = False

    def build_encoder_layer(self, args: Any) -> Any:
        """Build a layer with prunable attention, wrapped as the stock one is."""
        return wrapped(_EncoderLayer(TransformerConfig.from_namespace(args), return_fc=self.return_fc), args)

    def forward_embedding(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Set the gates and embed; arguments and results are the stock encoder's."""
        x, embedded = super().forward_embedding(*args, **kwargs)
        for pruner in self.pruners.values():
            x = pruner.begin(x, self.training)
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


def wrapped(layer: Any, args: Any) -> Any:
    """Wrap a layer for activation checkpointing and FSDP, as the options say."""
    cfg = TransformerConfig.from_namespace(args)
    if cfg.checkpoint_activations:
        layer = checkpoint_wrapper(layer, offload_to_cpu=cfg.offload_activations)
    return fsdp_wrap(layer, min_num_params=0 if cfg.checkpoint_activations else cfg.min_params_to_wrap)
