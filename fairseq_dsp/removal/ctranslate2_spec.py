"""A model as a specification of CTranslate2: what the engine can express, and where each weight goes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from ..model import HEADS
from ..model.flat_options import flat_names
from ..model.kinds import flag
from ..model.units import is_weight
from .checkpoint import TrainedModel

ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "gelu_accurate": "GELUTanh", "gelu_fast": "GELUTanh", "tanh": "Tanh"}
"""fairseq's activation functions → CTranslate2's."""

EXPRESSED = frozenset(
    # in the sizes and weights
    "encoder_embed_dim encoder_ffn_embed_dim encoder_layers encoder_attention_heads encoder_embed_path "
    "decoder_embed_dim decoder_ffn_embed_dim decoder_layers decoder_attention_heads decoder_embed_path "
    "decoder_input_dim decoder_output_dim max_source_positions max_target_positions share_all_embeddings "
    "share_decoder_input_output_embed merge_src_tgt_embed no_cross_attention layernorm_embedding "
    # in what the engine computes, of the activation functions some
    "activation_fn encoder_normalize_before decoder_normalize_before no_decoder_final_norm no_scale_embedding "
    # in the tables of embeddings and positions
    "no_token_positional_embeddings encoder_learned_pos decoder_learned_pos quant_noise_pq "
    # without effect on a trained model
    "dropout attention_dropout activation_dropout relu_dropout adaptive_softmax_dropout encoder_layerdrop "
    "decoder_layerdrop quant_noise_pq_block_size checkpoint_activations offload_activations min_params_to_wrap export "
    # without effect unless another option is given that the engine cannot express
    "adaptive_input adaptive_softmax_factor tie_adaptive_weights tie_adaptive_proj base_sublayers base_shuffle "
    "char_inputs".split()
)
"""The options of fairseq's Transformer that the engine can express; a model with another one is refused."""

LONGEST = 1024
"""Number of positions that a table has at least: the engine cuts sources there, and loses a batch beyond the table."""


def check_options(options: Any) -> None:
    """Raise a `UserError` for options of a model that the engine cannot express."""
    given = {name: getattr(options, name, None) for name in flat_names()}
    others = [name for name in sorted(flat_names() - EXPRESSED) if given[name]]
    if given["activation_fn"] not in ACTIVATIONS:
        others.append("activation_fn")
    wrong = [flag(name) if given[name] is True else f"{flag(name)} {given[name]}" for name in others]
    # the embeddings of a model trained with quantisation noise are projected, here after the normalisation
    if given["layernorm_embedding"] and given["quant_noise_pq"] and not given["adaptive_input"]:
        wrong.append("--quant-noise-pq with --layernorm-embedding")
    if wrong:
        raise UserError(
            f"CTranslate2 does not support a model with {' and '.join(wrong)}: use fairseq-dsp "
            "export-folder or export-fairseq instead"
        )


def largest(model: TrainedModel) -> dict[str, int]:
    """Return the number of heads of each stack's largest module, 1 at least."""
    sizes = {"encoder": 1, "decoder": 1}
    for module, kept in model.kept_by_module():
        if module.kind is HEADS:
            sizes[module.stack] = max(sizes[module.stack], len(kept))
    return sizes


def specification(model: TrainedModel, network: Any, task: Any, alignment_heads: int = 1) -> Any:
    """Return a model as a specification of CTranslate2, in float32.

    :param network: the model with its weights, in float32.
    :param task: fairseq's translation task, which has the dictionaries.
    :param alignment_heads: of the last layer's cross-attention, whose mean the engine returns as attention.
    :raises UserError: if the engine has no place for an option or a weight of the model.
    """
    from ctranslate2.specs import common_spec, transformer_spec

    check_options(model.options)
    encoder, decoder, sizes = network.encoder, network.decoder, largest(model)

    def common(stack: str) -> dict[str, Any]:
        heads = getattr(model.options, f"{stack}_attention_heads")
        return {
            "num_layers": len(getattr(network, stack).layers),
            "num_heads": sizes[stack],
            "head_dim": getattr(model.options, f"{stack}_embed_dim") // heads,
            "pre_norm": getattr(model.options, f"{stack}_normalize_before"),
            "no_final_norm": getattr(network, stack).layer_norm is None,
            "layernorm_embedding": getattr(network, stack).layernorm_embedding is not None,
            "activation": getattr(common_spec.Activation, ACTIVATIONS[model.options.activation_fn]),
        }

    spec = transformer_spec.TransformerSpec(
        transformer_spec.TransformerEncoderSpec(**common("encoder")),
        transformer_spec.TransformerDecoderSpec(
            **common("decoder"),
            with_encoder_attention=bool(model.heads.of(HEADS.crossing)),
            project_in_out=decoder.project_out_dim is not None,
            alignment_heads=max(1, alignment_heads),
        ),
    )
    weights = _Weights(_padded(model, network, sizes))
    weights.embeddings(spec.encoder.embeddings[0], spec.encoder, encoder, "encoder")
    weights.embeddings(spec.decoder.embeddings, spec.decoder, decoder, "decoder")
    for i, layer in enumerate(spec.encoder.layer):
        weights.layer(layer, f"encoder.layers.{i}")
    for i, layer in enumerate(spec.decoder.layer):
        weights.layer(layer, f"decoder.layers.{i}")
    weights.linear(spec.decoder.projection, "decoder.output_projection")
    if decoder.project_out_dim is not None:
        del spec.decoder.project_in  # in the embeddings
        weights.linear(spec.decoder.project_out, "decoder.project_out_dim")
    if weights.left:
        names = ", ".join(sorted(weights.left))
        raise UserError(
            f"CTranslate2 does not support the parameters {names} of {model.path}: use fairseq-dsp export-folder or "
            "export-fairseq instead"
        )
    spec.register_source_vocabulary(task.source_dictionary.symbols)
    spec.register_target_vocabulary(task.target_dictionary.symbols)
    spec.config.decoder_start_token = spec.config.eos_token
    spec.config.add_source_eos = True
    return spec


def _padded(model: TrainedModel, network: Any, sizes: dict[str, int]) -> dict[str, Tensor]:
    """Return a model's weights, each attention module's padded with heads of zeros to the largest of its stack.

    The engine takes feed-forward layers of any width; one without units has one of zeros.
    """
    state = {name: w for name, w in network.state_dict().items() if is_weight(name)}
    for module, kept in model.kept_by_module():
        size = sizes[module.stack] if module.kind is HEADS else max(1, len(kept))
        names = [f"{module.name}.{name}" for name in (*module.parameters, module.last.replace("weight", "bias"))]
        part = {name.removeprefix(f"{module.name}."): state.pop(name) for name in names if name in state}
        small = part if model.is_compact else module.remove(part, kept)
        full = module.resized(size).restore(small, range(len(kept)))
        state |= {f"{module.name}.{name}": weight for name, weight in full.items()}
    return model.finite(state)


def _positions(stack: Any, learned: Tensor | None, width: int) -> Tensor:
    """Return the positions that a stack adds to its embeddings, as many as it has, but `LONGEST` at least.

    Sinusoids go on as fairseq's do; of learned positions, the last one is repeated. *Shape:* (n, width).
    """
    table, count = stack.embed_positions, max(LONGEST, stack.max_positions())
    if table is None:
        return torch.zeros(count, width)
    first = table.padding_idx + 1
    if learned is not None:
        learned = learned[first:]
        return torch.cat([learned, learned[-1:].expand(count - len(learned), -1)])
    return table.get_embedding(first + count, table.embedding_dim, table.padding_idx)[first:]


class _Weights:
    """The weights of a model, each of which is given to a specification once.

    :param weights: their names → the weights.
    """

    def __init__(self, weights: dict[str, Tensor]) -> None:
        self.left = weights
        """Those that have not been given yet."""

    def take(self, name: str) -> Tensor:
        """Return a weight."""
        return self.left.pop(name)

    def linear(self, spec: Any, *names: str) -> None:
        """Give the linear layers *names* of one input as one."""
        spec.weight = torch.cat([self.take(f"{name}.weight") for name in names]).numpy()
        if f"{names[0]}.bias" in self.left:
            spec.bias = torch.cat([self.take(f"{name}.bias") for name in names]).numpy()

    def norm(self, spec: Any, name: str) -> None:
        """Give a layer normalisation."""
        spec.gamma, spec.beta = self.take(f"{name}.weight").numpy(), self.take(f"{name}.bias").numpy()

    def layer(self, spec: Any, name: str) -> None:
        """Give a layer of the encoder or decoder."""
        attention = f"{name}.self_attn"
        self.norm(spec.self_attention.layer_norm, f"{attention}_layer_norm")
        self.linear(spec.self_attention.linear[0], *(f"{attention}.{part}_proj" for part in "qkv"))
        self.linear(spec.self_attention.linear[1], f"{attention}.out_proj")
        if hasattr(spec, "attention"):
            attention = f"{name}.encoder_attn"
            self.norm(spec.attention.layer_norm, f"{attention}_layer_norm")
            self.linear(spec.attention.linear[0], f"{attention}.q_proj")
            self.linear(spec.attention.linear[1], f"{attention}.k_proj", f"{attention}.v_proj")
            self.linear(spec.attention.linear[2], f"{attention}.out_proj")
        self.norm(spec.ffn.layer_norm, f"{name}.final_layer_norm")
        self.linear(spec.ffn.linear_0, f"{name}.fc1")
        self.linear(spec.ffn.linear_1, f"{name}.fc2")

    def embeddings(self, spec: Any, stack: Any, module: Any, name: str) -> None:
        """Give the embeddings, positions and normalisations of a stack, *module*, whose specification is *stack*.

        A linear layer behind the embeddings is in the table: (x · s + p) Wᵀ = xWᵀ · s + pWᵀ. The encoder adds the
        positions p before it, the decoder behind it.
        """
        words, learned = self.take(f"{name}.embed_tokens.weight"), self.left.pop(f"{name}.embed_positions.weight", None)
        behind = [f"{name}.{part}.weight" for part in ("quant_noise", "project_in_dim")]
        matrices = [self.take(matrix).T for matrix in behind if matrix in self.left]
        for matrix in matrices:
            words = words @ matrix
        places = _positions(module, learned, words.shape[1])
        for matrix in matrices if name == "encoder" else ():
            places = places @ matrix
        spec.weight, stack.position_encodings.encodings = words.numpy(), places.numpy()
        stack.scale_embeddings = module.embed_scale
        for part in ("layer_norm", "layernorm_embedding"):
            if getattr(module, part) is not None:
                self.norm(getattr(stack, part), f"{name}.{part}")
