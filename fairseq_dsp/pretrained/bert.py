"""A BERT as it is published: its files, read safely, and what it computes."""

from __future__ import annotations

import math
import pickle
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from ..files import find_object, read_object
from ..wordpiece import SPECIALS

_ADVICE = "give the folder of a published BERT"

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
    path = folder / "config.json"
    config = read_object(path, _ADVICE)
    family = config.get("model_type")
    if family != "bert":
        given = "names no model_type" if family is None else f"is the configuration of a {family} model"
        raise UserError(f"{path} {given}, but bert is expected: give the folder of a BERT-type encoder")
    for name, expected in (("position_embedding_type", "absolute"), ("is_decoder", False)):
        if config.get(name, expected) != expected:
            raise UserError(
                f"{name} in {path} is {config[name]!r}, but {expected!r} is expected, for such a model computes what "
                "fairseq's RoBERTa cannot: give another encoder"
            )
    activation: Any = config.get("hidden_act")
    epsilon: Any = config.get("layer_norm_eps")
    if activation not in list(ACTIVATIONS):
        raise UserError(
            f"hidden_act in {path} is {activation!r}, but one of {', '.join(ACTIVATIONS)} is expected: give another "
            "encoder"
        )
    if type(epsilon) not in (int, float) or not 0 < epsilon < math.inf:
        raise UserError(f"layer_norm_eps in {path} is {epsilon!r}, but a positive number is expected, such as 1e-12")
    vocabulary, weights = _read_vocabulary(folder / "vocab.txt"), _read_weights(folder)
    rows = len(weights.get("embeddings.word_embeddings.weight", ()))
    if not rows == len(vocabulary) == config.get("vocab_size"):
        raise UserError(
            f"{folder / 'vocab.txt'} has {len(vocabulary)} pieces, the weights have {rows} and config.json says "
            f"{config.get('vocab_size')}, but these three must agree: the files of the folder do not belong together"
        )
    bert = Bert(
        layers=_size(config, "num_hidden_layers", path),
        heads=_size(config, "num_attention_heads", path),
        width=_size(config, "hidden_size", path),
        inner=_size(config, "intermediate_size", path),
        activation=activation,
        epsilon=float(epsilon),
        positions=_size(config, "max_position_embeddings", path),
        segments=_size(config, "type_vocab_size", path),
        vocabulary=vocabulary,
        tokenisation=_tokenisation(folder / "tokenizer_config.json", vocabulary, config),
        weights=weights,
    )
    if bert.width % bert.heads:
        raise UserError(
            f"num_attention_heads in {path} is {bert.heads}, but it must divide hidden_size, {bert.width}: download "
            "the model again"
        )
    _check_weights(bert, folder)
    return bert


_BERTS: dict[str, tuple[Any, ...]] = {
    "tokenizer_class": ("BertTokenizer", "BertTokenizerFast"),
    "do_basic_tokenize": (True,),
    "word_tokenizer_type": ("basic",),
    "subword_tokenizer_type": ("wordpiece",),
}
"""What the settings of a tokenizer that is BERT's own may say."""


def _size(config: dict[str, Any], name: str, path: Path) -> int:
    value = config.get(name)
    if type(value) is not int or value < 1:
        raise UserError(f"{name} in {path} is {value!r}, but a whole number from 1 is expected, as a BERT has")
    return value


def _tokenisation(path: Path, vocabulary: list[str], config: dict[str, Any]) -> dict[str, Any]:
    settings = find_object(path, _ADVICE) or {}
    own = {"tokenizer_class": config.get("tokenizer_class")} | settings
    for name, known in _BERTS.items():
        if own.get(name) not in (None, *known):
            raise UserError(
                f"{name} in {path if name in settings else path.with_name('config.json')} is {own[name]!r}, but "
                f"{' or '.join(map(repr, known))} is expected: text that BERT's own tokenizer does not cut cannot be "
                "prepared for this model"
            )
    cased = any(piece != piece.lower() for piece in vocabulary if not piece.startswith("["))
    found = {}
    for ours, theirs, usual in (
        ("lowercase", "do_lower_case", not cased),
        ("strip_accents", "strip_accents", None),
        ("split_chinese", "tokenize_chinese_chars", True),
    ):
        value = found[ours] = settings.get(theirs, usual)
        if type(value) is not bool and value is not usual:
            raise UserError(f"{theirs} in {path} is {value!r}, but true or false is expected: download the model again")
    return found


def _shapes(bert: Bert) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights and biases of a BERT, by the names of its modules."""
    width, inner = bert.width, bert.inner
    layer = {
        **dict.fromkeys([f"attention.self.{part}" for part in ("query", "key", "value")], (width, width)),
        "attention.output.dense": (width, width),
        "intermediate.dense": (inner, width),
        "output.dense": (width, inner),
        **dict.fromkeys(["attention.output.LayerNorm", "output.LayerNorm"], (width,)),
    }
    modules = {f"encoder.layer.{i}.{name}": shape for i in range(bert.layers) for name, shape in layer.items()}
    modules["embeddings.LayerNorm"] = (width,)
    if any(name.startswith("pooler.") for name in bert.weights):
        modules["pooler.dense"] = (width, width)
    found = {f"{name}.weight": shape for name, shape in modules.items()}
    found |= {f"{name}.bias": shape[:1] for name, shape in modules.items()}
    if "cls.predictions.bias" in bert.weights:
        found["cls.predictions.bias"] = (len(bert.vocabulary),)
    rows = {"word": len(bert.vocabulary), "position": bert.positions, "token_type": bert.segments}
    return found | {f"embeddings.{of}_embeddings.weight": (count, width) for of, count in rows.items()}


def _check_weights(bert: Bert, folder: Path) -> None:
    last = re.compile(r"encoder\.layer\.\d+\.output\.LayerNorm\.weight")
    layers = sum(last.fullmatch(name) is not None for name in bert.weights)
    if layers != bert.layers:
        raise UserError(
            f"the weights in {folder} have {layers} layers, but num_hidden_layers in config.json is {bert.layers}: the "
            "files do not belong together"
        )
    for name, shape in _shapes(bert).items():
        if name not in bert.weights or bert.weights[name].shape != shape:
            there = f"the shape {tuple(bert.weights[name].shape)}" if name in bert.weights else "no such weight"
            raise UserError(
                f"config.json in {folder} asks for {name} of the shape {shape}, but the weights have {there}: the "
                "files do not belong together"
            )
    for name, value in bert.weights.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{name} in {folder} holds a NaN or an infinity: download the model again")


def _read_vocabulary(path: Path) -> list[str]:
    try:
        pieces = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}; {_ADVICE}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 ({error}): {_ADVICE}") from error
    missing = [piece for piece in (*SPECIALS, "[MASK]") if piece not in pieces]
    if missing:
        raise UserError(f"{path} has no {missing[0]}, but BERT's vocabularies do: {_ADVICE}")
    if len(set(pieces)) < len(pieces):
        twice = next(piece for i, piece in enumerate(pieces) if piece in pieces[:i])
        raise UserError(f"{path} lists the piece {twice!r} twice: {_ADVICE}")
    if symbols := {*SPECIALS.values(), "<mask>"}.intersection(pieces):
        raise UserError(
            f"{path} has the piece {min(symbols)}, which means another thing in fairseq's dictionaries: give a BERT "
            "whose symbols are [CLS], [PAD], [SEP], [UNK] and [MASK]"
        )
    return pieces


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Return the weights, in float32, under the names of a bare BERT."""
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    file = safe if safe.exists() else pickled
    if not file.exists():
        raise UserError(f"{folder} has neither {safe.name} nor {pickled.name}: {_ADVICE}")
    try:
        if file == safe:
            state = safetensors.torch.load_file(safe)
        else:
            state = torch.load(pickled, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{file} is no state dict, or it holds other objects than tensors; nothing in it was run: download the "
            "model again, as safetensors where it has them"
        ) from error
    except (OSError, RuntimeError, EOFError, safetensors.SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{file} cannot be read ({reason}): download the model again") from error
    if not isinstance(state, dict):
        raise UserError(f"{file} holds no state dict, but a {type(state).__name__}: download the model again")
    renamed = {}
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, Tensor) and value.is_floating_point():
            name = name.removeprefix("bert.")
            if "LayerNorm." in name:  # its first version's names
                name = name.replace(".gamma", ".weight").replace(".beta", ".bias")
            renamed[name] = value.float()
    return renamed
