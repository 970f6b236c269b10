"""The Transformer with gated attention heads, and its architectures."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import register_model, register_model_architecture
from fairseq.models.transformer import TransformerEncoder, TransformerModel
from fairseq.models.transformer import transformer_legacy as stock
from torch import Tensor

from ..errors import UserError
from .config import PruningConfig, model_namespace
from .pruner import HeadPruner


class PrunableEncoder(TransformerEncoder):
    """The stock encoder; its forward pass, the first of every use of the model, sets the gates of the whole model."""

    pruner: HeadPruner | None = None

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, list[Tensor]]:
        """Set the gates, then encode; arguments and result are the stock encoder's."""
        if self.pruner is not None:
            self.pruner.refresh(self.training)
        return super().forward(*args, **kwargs)


@register_model("transformer_dsp")
class PrunableTransformer(TransformerModel):
    """fairseq's Transformer with a subset gate on every attention head (Li et al. 2021).

    Without a budget it is the stock Transformer, with the same parameters, results and speed.
    """

    pruner: HeadPruner

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
        try:
            args = model_namespace(args)
        except ValueError as error:
            raise UserError(str(error)) from error
        model: PrunableTransformer = super().build_model(args, task)
        try:
            model.pruner = HeadPruner(model, PruningConfig.from_namespace(args))
        except ValueError as error:
            raise UserError(str(error)) from error
        model.encoder.pruner = model.pruner
        return model

    @classmethod
    def build_encoder(cls, args: Any, src_dict: Any, embed_tokens: Any) -> PrunableEncoder:
        """Build the encoder."""
        return PrunableEncoder(args, src_dict, embed_tokens)

    def set_num_updates(self, num_updates: int) -> None:
        """Take the number of updates made so far from the trainer: the schedules are functions of it."""
        super().set_num_updates(num_updates)
        self.pruner.update = num_updates

    def upgrade_state_dict_named(self, state_dict: dict[str, Tensor], name: str) -> None:
        """Complete the state dict of a stock Transformer, which has no importance, with the model's own."""
        super().upgrade_state_dict_named(state_dict, name)
        prefix = f"{name}." if name else ""
        for module, gate in zip(self.pruner.modules, self.pruner.gates, strict=True):
            state_dict.setdefault(f"{prefix}{module.name}.out_proj.importance", gate.importance.detach())


def _architecture(name: str, sizes: Any) -> None:
    """Register the stock architecture function *sizes* under a name of this model's."""

    @register_model_architecture("transformer_dsp", name)
    def apply(args: Namespace) -> None:
        sizes(args)


_architecture("transformer_dsp", stock.base_architecture)
_architecture("transformer_dsp_tiny", stock.tiny_architecture)
_architecture("transformer_dsp_iwslt_de_en", stock.transformer_iwslt_de_en)
_architecture("transformer_dsp_wmt_en_de", stock.transformer_wmt_en_de)
_architecture("transformer_dsp_wmt_en_de_big", stock.transformer_wmt_en_de_big)
