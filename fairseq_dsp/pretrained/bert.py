"""A BERT as it is published: its files, read safely, and what it computes."""

from __future__ import annotations

import json
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..wordpiece import SPECIALS

ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_accurate", "gelu_pytorch_tanh": "gelu_accurate", "relu": "relu"}
"""Names of activations there, and fairseq's for the same function."""

_FUNCTIONS = {
    "gelu": F.gelu,
    "gelu_accurate": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}


@dataclass
class Bert:
    """A BERT.

    :param layers: number of layers, of *heads* heads each.
    :param width: of the hidden states.
    :param inner: width of the feed-forward layers.
    :param activation: one of :data:`ACTIVATIONS`.
    :param epsilon: of the layer norms.
    :param positions: the most tokens of an input.
    :param segments: number of token types.
    :param vocabulary: the WordPieces, in the order of the embeddings.
    :param tokenisation: arguments of :meth:`fairseq_dsp.wordpiece.WordPiece.make`.
    :param weights: in float32, by their published names without a prefix.
    """

    layers: int
    heads: int
    width: int
    inner: int
    activation: str
    epsilon: float
    positions: int
    segments: int
    vocabulary: list[str]
    tokenisation: dict[str, Any]
    weights: dict[str, Tensor]

    def hidden_states(self, tokens: Tensor, types: Tensor) -> Tensor:
        """Return the last hidden states, computed by torch's own layers. *Shape:* (B, T), (B, T) → (B, T, C)"""
        types = types.clamp(max=self.segments - 1)  # a BERT with one type has it for both sentences
        x = self._embedding("word", tokens) + self._embedding("token_type", types)
        x = x + self._embedding("position", torch.arange(tokens.shape[1]))
        x = F.layer_norm(x, (self.width,), *self._affine("embeddings.LayerNorm"), self.epsilon)
        for i in range(self.layers):
            x = self._layer(i)(x)
        return x

    def _embedding(self, of: str, index: Tensor) -> Tensor:
        return F.embedding(index, self.weights[f"embeddings.{of}_embeddings.weight"])

    def _affine(self, name: str) -> tuple[Tensor, Tensor]:
        return self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]

    def _layer(self, i: int) -> nn.Module:
        layer = nn.TransformerEncoderLayer(
            self.width, self.heads, self.inner, 0.0, _FUNCTIONS[ACTIVATIONS[self.activation]], self.epsilon,
            batch_first=True,
        )  # fmt: skip
        prefix = f"encoder.layer.{i}"
        parts = [self._affine(f"{prefix}.attention.self.{part}") for part in ("query", "key", "value")]
        state = {
            "self_attn.in_proj_weight": torch.cat([weight for weight, _ in parts]),
            "self_attn.in_proj_bias": torch.cat([bias for _, bias in parts]),
        }
        for theirs, ours in {
            "self_attn.out_proj": "attention.output.dense",
            "norm1": "attention.output.LayerNorm",
            "linear1": "intermediate.dense",
            "linear2": "output.dense",
            "norm2": "output.LayerNorm",
        }.items():
            state[f"{theirs}.weight"], state[f"{theirs}.bias"] = self._affine(f"{prefix}.{ours}")
        layer.load_state_dict(state)
        return layer.eval()


def read_bert(folder: Path) -> Bert:
    """Read a published BERT.

    :raises UserError: if a file is missing, damaged or of another family, or they do not belong together.
    """
    config = _read_json(folder / "config.json")
    family = config.get("model_type")
    if family != "bert":
        raise UserError(
            f"{folder / 'config.json'} is the configuration of a {family} model, but bert is expected: give the folder "
            "of "
            "a BERT-type encoder"
        )
    for name, expected in (("position_embedding_type", "absolute"), ("is_decoder", False)):
        if config.get(name, expected) != expected:
            raise UserError(
                f"{name} in {folder / 'config.json'} is {config[name]}, but {expected} is expected: such a model "
                "computes what fairseq's RoBERTa cannot"
            )
    if config.get("hidden_act") not in ACTIVATIONS:
        raise UserError(
            f"hidden_act in {folder / 'config.json'} is {config.get('hidden_act')}, but one of "
            f"{', '.join(ACTIVATIONS)} is expected"
        )
    weights = _read_weights(folder)
    vocabulary = _read_vocabulary(folder / "vocab.txt")
    rows = len(weights.get("embeddings.word_embeddings.weight", ()))
    if not rows == len(vocabulary) == config.get("vocab_size"):
        raise UserError(
            f"{folder / 'vocab.txt'} has {len(vocabulary)} pieces, the weights have {rows} and config.json says "
            f"{config.get('vocab_size')}, but these three must agree: the files of the folder do not belong together"
        )
    settings = _read_json(folder / "tokenizer_config.json") if (folder / "tokenizer_config.json").exists() else {}
    try:
        bert = Bert(
            layers=int(config["num_hidden_layers"]),
            heads=int(config["num_attention_heads"]),
            width=int(config["hidden_size"]),
            inner=int(config["intermediate_size"]),
            activation=config["hidden_act"],
            epsilon=float(config["layer_norm_eps"]),
            positions=int(config["max_position_embeddings"]),
            segments=int(config["type_vocab_size"]),
            vocabulary=vocabulary,
            tokenisation={
                "lowercase": settings.get("do_lower_case", True),
                "strip_accents": settings.get("strip_accents"),
                "split_chinese": settings.get("tokenize_chinese_chars", True),
            },
            weights=weights,
        )
    except KeyError as error:
        raise UserError(f"{folder / 'config.json'} has no {error.args[0]}, which a BERT has") from error
    except (TypeError, ValueError) as error:
        raise UserError(
            f"{folder / 'config.json'} has a value that is not a number ({error}): num_hidden_layers, layer_norm_eps "
            "and the like must be numbers"
        ) from error
    if bert.heads < 1 or bert.width % bert.heads:
        raise UserError(
            f"num_attention_heads in {folder / 'config.json'} is {bert.heads}, but it must divide hidden_size, "
            f"{bert.width}"
        )
    _check_weights(bert, folder)
    return bert


def _check_weights(bert: Bert, folder: Path) -> None:
    last = f"encoder.layer.{bert.layers - 1}.output.LayerNorm.weight"
    for name in ("embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight", last):
        if name not in bert.weights:
            raise UserError(
                f"the weights in {folder} have no {name}, which config.json asks for: the files do not belong together"
            )
    if f"encoder.layer.{bert.layers}.output.LayerNorm.weight" in bert.weights:
        raise UserError(
            f"the weights in {folder} have more layers than the {bert.layers} of config.json: the files do not belong "
            "together"
        )
    for name, value in bert.weights.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{name} in {folder} holds a NaN or an infinity: download the model again")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give the folder of a published BERT") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): give the folder of a published BERT") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: give the folder of a published BERT")
    return content


def _read_vocabulary(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; give the folder of a published BERT") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}): give the folder of a published BERT") from error
    pieces = [line.removesuffix("\r") for line in lines]
    missing = [piece for piece in (*SPECIALS, "[MASK]") if piece not in pieces]
    if missing:
        raise UserError(f"{path} has no {missing[0]}, but BERT's vocabularies do: give the folder of a published BERT")
    if len(set(pieces)) < len(pieces):
        twice = next(piece for i, piece in enumerate(pieces) if piece in pieces[:i])
        raise UserError(f"{path} lists the piece {twice!r} twice: give the folder of a published BERT")
    return pieces


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights, in float32, under the names of a bare BERT."""
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    try:
        if safe.exists():
            state = safetensors.torch.load_file(safe)
        elif pickled.exists():
            state = torch.load(pickled, map_location="cpu", weights_only=True)
        else:
            raise UserError(f"{folder} has neither {safe.name} nor {pickled.name}: give the folder of a published BERT")
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"the weights in {folder} cannot be read ({reason}): download the model again") from error
    renamed = {}
    for name, value in state.items():
        if isinstance(value, Tensor) and value.is_floating_point():
            name = name.removeprefix("bert.")
            if "LayerNorm." in name:  # its first version's names
                name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
            renamed[name] = value.float()
    return renamed
