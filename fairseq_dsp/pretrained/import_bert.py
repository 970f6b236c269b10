"""FOLDER is a published BERT: config.json, model.safetensors or pytorch_model.bin, vocab.txt. OUT is a new
folder with model.pt, a checkpoint to start --arch roberta_dsp from, dict.txt, its dictionary, and wordpiece.json, its
tokeniser. The hidden states are compared with the original's before anything is written.

examples:
  fairseq-dsp import-bert bert-base-uncased/ bert/
  scripts/preprocess.sh nli data/sick --raw-dir FOLDER --encoder bert/
"""

from __future__ import annotations

import argparse
import shlex
import warnings
from pathlib import Path
from typing import Any

import torch
from fairseq import options, tasks, utils
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from omegaconf import OmegaConf
from torch import Tensor, nn

from ..errors import UserError
from ..files import PACKAGE, check_target, new_folder
from ..model.roberta import CLASSIFICATION_HEAD
from ..wordpiece import SPECIALS, WordPiece, dictionary_words
from .bert import ACTIVATIONS, Bert, read_bert

TOLERANCE = 1e-4

SENTENCES = [
    ("Two engineers repair the old bridge at night.", "Nobody is at work there."),
    ("Two children are running through the tall grass near the river.", "Some young people are close to water."),
    ("The committee postponed its decision until the following spring, citing a lack of evidence.",
     "The committee has not decided yet."),
    ("Why did the café's owner pay $3.50 for it?", "She paid too much, didn't she?"),
]  # fmt: skip
"""What the hidden states are compared on; the first of each pair is compared alone, too."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("folder", metavar="FOLDER", help="folder of a published BERT")
    parser.add_argument("out", metavar="OUT", help="folder to write; must not exist")
    parser.add_argument(
        "--num-classes", type=int, default=3, metavar="N", help="labels of the classification (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> None:
    """Import the model."""
    out = check_target(args.out)
    if args.num_classes < 1:
        raise UserError(f"--num-classes is {args.num_classes}, but it must be 1 or more")
    bert = read_bert(Path(args.folder))
    pieces = WordPiece.make(bert.vocabulary, **bert.tokenisation, positions=bert.positions)
    words = dictionary_words(bert.vocabulary)
    with new_folder(out) as folder:
        folder.mkdir()
        (folder / "dict.txt").write_text("".join(f"{word} 1\n" for word in words), encoding="utf-8")
        pieces.save(folder / "wordpiece.json")
        model, config = build(bert, folder / "dict.txt", args.num_classes)
        difference = compare(bert, model, pieces)
        if not difference <= TOLERANCE:
            raise UserError(
                f"the hidden states of the imported model differ from those of {args.folder} by {difference:.2g}, but "
                f"at most {TOLERANCE:g} is expected, so nothing was written: this command does not know the layout of "
                "that folder"
            )
        with (folder / "model.pt").open("wb") as file:
            torch.save(checkpoint(model, config), file)
    pooler = "" if "pooler.dense.weight" in bert.weights else "; it has no pooler: the classification head is all new"
    print(
        f"{out}: {bert.layers} layers of {bert.heads} heads, {bert.layers * bert.heads} in all; hidden states differ "
        f"from the original's by {difference:.1e} at most{pooler}\n"
        f"To fine-tune it:\n  fairseq-train DATA --user-dir {shlex.quote(str(PACKAGE))} --arch roberta_dsp "
        f"{' '.join(flags(bert))} "
        f"--task sentence_prediction --criterion sentence_prediction --num-classes {args.num_classes} --init-token 0 "
        f"--max-positions {bert.positions} --finetune-from-model {shlex.quote(str(out / 'model.pt'))} --heads-to-keep K"
    )


def flags(bert: Bert) -> list[str]:
    """Return the flags of ``--arch roberta_dsp`` that make it this BERT."""
    sizes = {
        "--encoder-layers": bert.layers,
        "--encoder-embed-dim": bert.width,
        "--encoder-ffn-embed-dim": bert.inner,
        "--encoder-attention-heads": bert.heads,
        "--activation-fn": ACTIVATIONS[bert.activation],
        "--layer-norm-epsilon": bert.epsilon,
    }
    words = [word for name, value in sizes.items() for word in (name, str(value))]
    return [*words, *(["--segment-embedding"] if bert.segments > 1 else [])]


def build(bert: Bert, dictionary: Path, classes: int) -> tuple[Any, Any]:
    """Return the model with the weights of a BERT, in evaluation mode, and the configuration of its training.

    What the BERT does not have keeps its initial weights: the last layer of the classification head, and, where the
    BERT was published without them, its first layer and the head of the language model.
    """
    argv = [
        "DATA", "--arch", "roberta_dsp", *flags(bert), "--task", "sentence_prediction", "--criterion",
        "sentence_prediction", "--num-classes", str(classes), "--init-token", "0", "--max-positions",
        str(bert.positions), "--optimizer", "adam",
    ]  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fairseq's, about hydra
        config = convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), argv))
    symbols = tasks.TASK_REGISTRY["sentence_prediction"].load_dictionary(str(dictionary))
    task = tasks.TASK_REGISTRY["sentence_prediction"](config.task, symbols, Dictionary())
    utils.set_torch_seed(1)
    model = task.build_model(config.model)
    model.load_state_dict({**model.state_dict(), **parameters(bert, symbols)})
    return model.eval(), config


def parameters(bert: Bert, symbols: Dictionary) -> dict[str, Tensor]:
    """Return the weights of a BERT under fairseq's names.

    Token type 0, which every token of a single sentence has, goes into the positions; type 1 is its difference from it.
    """
    at = {piece: i for i, piece in enumerate(bert.vocabulary)}
    rows = [at[piece] for piece in [*SPECIALS, *dictionary_words(bert.vocabulary), "[MASK]"]]
    weights, encoder = bert.weights, "encoder.sentence_encoder"
    types = weights["embeddings.token_type_embeddings.weight"]
    places = weights["embeddings.position_embeddings.weight"] + types[0]
    before = symbols.pad() + 1  # fairseq's first position
    found = {
        f"{encoder}.embed_tokens.weight": weights["embeddings.word_embeddings.weight"][rows],
        f"{encoder}.embed_positions.weight": torch.cat([places.new_zeros(before, bert.width), places]),
    }
    if bert.segments > 1:
        found[f"{encoder}.segment"] = types[1] - types[0]
    modules = {
        "embeddings.LayerNorm": f"{encoder}.layernorm_embedding",
        "pooler.dense": f"classification_heads.{CLASSIFICATION_HEAD}.dense",
    }
    for i in range(bert.layers):
        modules |= {f"encoder.layer.{i}.{theirs}": f"{encoder}.layers.{i}.{ours}" for theirs, ours in LAYER.items()}
    for theirs, ours in modules.items():
        for part in ("weight", "bias"):
            if f"{theirs}.{part}" in weights:
                found[f"{ours}.{part}"] = weights[f"{theirs}.{part}"]
    found["encoder.lm_head.weight"] = found[f"{encoder}.embed_tokens.weight"]  # one matrix
    if "cls.predictions.bias" in weights:
        found["encoder.lm_head.bias"] = weights["cls.predictions.bias"][rows]
    return found


LAYER = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.out_proj",
    "attention.output.LayerNorm": "self_attn_layer_norm",
    "intermediate.dense": "fc1",
    "output.dense": "fc2",
    "output.LayerNorm": "final_layer_norm",
}
"""BERT's names of the modules of a layer, and fairseq's."""


@torch.no_grad()
def compare(bert: Bert, model: Any, pieces: WordPiece) -> float:
    """Return the largest difference between hidden states of a BERT and of the imported model, on real sentences."""
    symbols, largest = model.encoder.dictionary, 0.0
    at = {piece: i for i, piece in enumerate(bert.vocabulary)}
    back = {symbol: piece for piece, symbol in SPECIALS.items()}
    for pair in [*SENTENCES, *((first,) for first, _ in SENTENCES)]:
        parts = [f"{line} </s>".split() for line in pieces.encode(pair)]
        words = ["<s>", *(word for part in parts for word in part)]
        types = [0] * (1 + len(parts[0])) + [1] * (len(words) - 1 - len(parts[0]))
        words, types = words[: bert.positions], types[: bert.positions]
        ours, _ = model(torch.tensor([[symbols.index(word) for word in words]]), features_only=True)
        theirs = bert.hidden_states(torch.tensor([[at[back.get(word, word)] for word in words]]), torch.tensor([types]))
        largest = max(largest, (ours - theirs).abs().max().item())
    return largest


def checkpoint(model: nn.Module, config: Any) -> dict[str, Any]:
    """Return what fairseq saves of a model that is not trained yet."""
    container: Any = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    container["model"] = argparse.Namespace(**vars(config.model))
    history = {
        "criterion_name": "SentencePredictionCriterion", "optimizer_name": "FairseqAdam", "lr_scheduler_state": {},
        "num_updates": 0,
    }  # fmt: skip
    return {
        "args": None,
        "cfg": container,
        "model": model.state_dict(),
        "criterion": {},
        "optimizer_history": [history],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1}},
        "last_optimizer_state": None,
    }
