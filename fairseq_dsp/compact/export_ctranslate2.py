"""FOLDER is a model for CTranslate2, the C++ engine: ctranslate2.Translator(FOLDER), or one of the servers built on it.
The engine takes one number of heads for the encoder and one for the decoder, so each module is padded with heads of
zeros up to the largest of its stack. Needs the package: pip install fairseq-dsp[ctranslate2].

examples:
  fairseq-dsp export-ctranslate2 compact.pt engine --data data-bin
  fairseq-dsp export-ctranslate2 compact.pt engine-int8 --data data-bin --quantization int8
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from fairseq.models.transformer import TransformerModel
from torch import Tensor, nn

from ..errors import UserError
from ..model import modules_of
from ..model.units import attention_module
from .checkpoint import TrainedModel, check_target, new_folder
from .data import task_of

QUANTIZATIONS = ["int8", "int8_float32", "int16", "float16", "bfloat16", "float32"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a pruned model, compact or not")
    parser.add_argument("folder", metavar="FOLDER", help="folder to write; must not exist")
    parser.add_argument("--data", metavar="DIR", help="data-bin folder with the dictionaries (default: training's)")
    parser.add_argument("--quantization", choices=QUANTIZATIONS, help="type of the weights (default: as they are)")
    parser.add_argument("--heads-to-keep", type=int, metavar="K", help="keep the best K heads, whatever K was trained")


def run(args: argparse.Namespace) -> None:
    """Write the folder."""
    try:
        import ctranslate2
    except ImportError as error:
        raise UserError("the package ctranslate2 is not installed: pip install fairseq-dsp[ctranslate2]") from error
    target = check_target(args.folder)
    model = TrainedModel.read(args.checkpoint, heads_to_keep=args.heads_to_keep)
    task = task_of(model, args.data)
    with new_folder(target) as temporary:
        converter(model, task).convert(str(temporary), quantization=args.quantization)
    print(f"{target}: for CTranslate2 {ctranslate2.__version__}; {_padding(model)}")


def largest(model: TrainedModel) -> dict[str, int]:
    """Return the number of heads of each stack's largest module, 1 at least."""
    decoder = model.heads.decoder_self + model.heads.cross
    stacks = {"encoder": model.heads.encoder_self, "decoder": decoder}
    return {stack: max([1, *map(len, layers)]) for stack, layers in stacks.items()}


def _padding(model: TrainedModel) -> str:
    sizes = largest(model)
    counts = {"encoder": len(model.heads.encoder_self), "decoder": len(model.heads.decoder_self + model.heads.cross)}
    computed = sum(sizes[stack] * counts[stack] for stack in sizes)
    return f"{model.heads.kept} heads and {computed - model.heads.kept} of zeros for padding"


def converter(model: TrainedModel, task: Any) -> Any:
    """Return a converter of CTranslate2 for a model.

    :raises UserError: if the engine cannot do what the model does.
    """
    from ctranslate2.converters import fairseq as stock
    from ctranslate2.converters.converter import Converter
    from ctranslate2.specs import transformer_spec

    class PrunedConverter(Converter):
        """Converts a pruned model by way of fairseq's, whose attention is replaced by the padded one."""

        def _load(self) -> Any:
            options, sizes = model.options, largest(model)
            if options.activation_fn not in stock._SUPPORTED_ACTIVATIONS:
                raise UserError(f"CTranslate2 has no activation function {options.activation_fn}")
            if options.encoder_normalize_before != options.decoder_normalize_before:
                raise UserError("CTranslate2 needs the same --…-normalize-before for encoder and decoder")
            common = {
                "pre_norm": options.encoder_normalize_before,
                "activation": stock._SUPPORTED_ACTIVATIONS[options.activation_fn],
                "layernorm_embedding": getattr(options, "layernorm_embedding", False),
            }
            network = stock_model(model, task)
            dims = {
                "encoder": options.encoder_embed_dim // options.encoder_attention_heads,
                "decoder": options.decoder_embed_dim // options.decoder_attention_heads,
            }
            spec = transformer_spec.TransformerSpec(
                transformer_spec.TransformerEncoderSpec(
                    len(network.encoder.layers), sizes["encoder"], head_dim=dims["encoder"], **common
                ),
                transformer_spec.TransformerDecoderSpec(
                    len(network.decoder.layers), sizes["decoder"], head_dim=dims["decoder"], **common
                ),
            )
            stock.set_transformer_encoder(spec.encoder, network.encoder)
            stock.set_transformer_decoder(spec.decoder, network.decoder)
            spec.register_source_vocabulary(stock._get_vocab(task.source_dictionary))
            spec.register_target_vocabulary(stock._get_vocab(task.target_dictionary))
            spec.config.decoder_start_token = spec.config.eos_token
            spec.config.add_source_eos = True
            return spec

    return PrunedConverter()


def stock_model(model: TrainedModel, task: Any) -> Any:
    """Return fairseq's Transformer with the model's weights and the padded attention."""
    network = TransformerModel.build_model(model.options, task).eval().requires_grad_(False)
    network.load_state_dict(model.full_parameters())
    network.float()
    sizes = largest(model)
    for module, (_, kept) in zip(list(modules_of(network)), model.kept_by_module(), strict=True):
        attention: Any = module.module
        small = module.remove(attention.state_dict(), kept)
        size = sizes["encoder" if module.type == "encoder_self" else "decoder"]
        other = attention_module(module.type, module.layer, size, module.width, attention.embed_dim, attention.kdim)
        padded = other.restore(small, range(len(kept)))
        parent, _, name = module.name.rpartition(".")
        setattr(network.get_submodule(parent), name, _projections(padded))
    return network


def _projections(parameters: Mapping[str, Tensor]) -> nn.Module:
    """Return a module with nothing but the four projections of an attention module."""
    holder = nn.Module()
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        weight = parameters[f"{name}.weight"]
        linear = nn.Linear(weight.shape[1], weight.shape[0]).requires_grad_(False)
        linear.load_state_dict({"weight": weight, "bias": parameters[f"{name}.bias"]})
        setattr(holder, name, linear)
    return holder
