"""RoBERTa, an encoder for classification, with gated attention heads, and its architectures."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import torch
from fairseq.models import register_model
from fairseq.models.roberta import RobertaModel
from fairseq.models.roberta import model as stock
from torch import Tensor, nn

from .attention import PrunableAttention
from .bert_options import EncoderConfig
from .encoder import PrunableEncoder
from .labels import check_labels, tie
from .prunable import PrunableModel, register_sizes
from .pruning_options import PruningConfig
from .units import ROBERTA, modules_of

CLASSIFICATION_HEAD = "sentence_classification_head"
"""The one that fairseq's task uses unless another is given."""


@register_model(ROBERTA.model)
class PrunableRoberta(PrunableModel, RobertaModel):
    """fairseq's RoBERTa with a subset gate on every attention head, as Li et al. (2021) prune BERT.

    Without a budget it is the stock RoBERTa, with the same parameters and results. Two options make it a BERT: another
    epsilon of the layer norms, and an embedding of the second sentence.
    """

    architecture = ROBERTA
    own_options = (PruningConfig, EncoderConfig)

    def __init__(self, args: Namespace, encoder: Any) -> None:
        super().__init__(args, encoder)
        # stock RoBERTa builds its encoder by name: what it built becomes prunable in place
        for module in modules_of(self):
            PrunableAttention.of(module.module)
        options = EncoderConfig.from_namespace(args)
        SentenceEncoder.of(encoder.sentence_encoder, options.segment_embedding)
        for module in self.modules():
            if hasattr(module, "normalized_shape"):  # torch's layer norm, or apex's
                module.eps = options.layer_norm_epsilon

    @classmethod
    def build_model(cls, args: Any, task: Any) -> Any:
        """Build a model from a namespace or a hydra config.

        :raises UserError: if an option is unknown or does not fit the others, or the data have labels without a class.
        """
        check_labels(task)
        model = super().build_model(args, task)
        tie(model, task)
        return model

    @classmethod
    def known_options(cls) -> set[str]:
        """Return the flat names of all options, those without a flag included."""
        sizes = Namespace()
        stock.base_architecture(sizes)
        return super().known_options() | set(vars(sizes)) | {"max_positions", "tokens_per_sample"}

    @property
    def first(self) -> PrunableEncoder:
        """The part with which every forward pass begins."""
        return self.encoder.sentence_encoder

    def register_classification_head(self, name: str, *args: Any, **kwargs: Any) -> None:
        """Register a classification head; it is frozen with the other weights."""
        super().register_classification_head(name, *args, **kwargs)
        if any(pruner.plan.config.freeze_weights for pruner in self.pruners.values()):
            self.classification_heads[name].requires_grad_(False)

    def make_generation_fast_(self, **kwargs: Any) -> None:
        """Remove the heads that are not kept and the gates, for good."""
        self.remove_closed_heads()
        super().make_generation_fast_(**kwargs)

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Complete the state dict of a stock RoBERTa, which may have no embedding of the second sentence."""
        super().upgrade_state_dict_named(state_dict, name)
        segment = self.first.segment
        if segment is not None:
            key = f"{name}." * bool(name) + "encoder.sentence_encoder.segment"
            state_dict.setdefault(key, segment.detach().clone())


class SentenceEncoder(PrunableEncoder):
    """The encoder of one or two sentences: the second may have an embedding, added to those of its words."""

    segment: nn.Parameter | None
    """What is added to the embeddings of all tokens after the first end of a sentence. *Shape:* (C)"""

    @staticmethod
    def of(encoder: Any, has_segment: bool) -> SentenceEncoder:
        """Make an encoder that fairseq built one of this class, with its parameters and options."""
        encoder.__class__ = SentenceEncoder
        width = encoder.embed_tokens.embedding_dim
        encoder.register_parameter("segment", nn.Parameter(torch.zeros(width)) if has_segment else None)
        return encoder

    def forward_embedding(self, src_tokens: Tensor, token_embedding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Set the gates and embed; arguments and results are the stock encoder's."""
        if self.segment is not None:
            if token_embedding is None:
                token_embedding = self.embed_tokens(src_tokens)
            ends = src_tokens.eq(self.dictionary.eos())
            second = (ends.cumsum(1) - ends.long() > 0) & src_tokens.ne(self.padding_idx)
            token_embedding = token_embedding + second.unsqueeze(-1) * (self.segment / self.embed_scale)
        return super().forward_embedding(src_tokens, token_embedding)


def _tiny(args: Any) -> None:
    """Fill in sizes for tests: 2 layers of 2 heads."""
    sizes = {
        "encoder_layers": 2, "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 32, "encoder_attention_heads": 2,
    }  # fmt: skip
    for name, value in sizes.items():
        if getattr(args, name, None) is None:
            setattr(args, name, value)
    stock.base_architecture(args)


for _name, _sizes in {
    "roberta_dsp": stock.base_architecture,
    "roberta_dsp_base": stock.roberta_base_architecture,
    "roberta_dsp_large": stock.roberta_large_architecture,
    "roberta_dsp_tiny": _tiny,
}.items():
    register_sizes(ROBERTA, _name, _sizes)
