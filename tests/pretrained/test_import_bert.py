"""A published BERT becomes a fairseq checkpoint with the same hidden states, from which a training starts."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import inprocess
import pairs
import pytest
import torch
from fairseq import checkpoint_utils
from safetensors.torch import load_file, save_file
from torch import Tensor

from fairseq_dsp import cli
from fairseq_dsp.wordpiece import WordPiece

pytest.importorskip("tokenizers", reason="the extra nli is not installed")

PIECES = "[PAD] [UNK] [CLS] [SEP] [MASK] a man play ##ing ##s is the guitar nobody café cafe . , ' ? $ ##e no on"
CONFIG: dict[str, Any] = {
    "model_type": "bert", "hidden_act": "gelu", "hidden_size": 12, "intermediate_size": 20, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 90, "num_attention_heads": 3, "num_hidden_layers": 2, "type_vocab_size": 2,
    "vocab_size": 24,
}  # fmt: skip
SIZES = "--encoder-layers 2 --encoder-embed-dim 12 --encoder-ffn-embed-dim 20 --encoder-attention-heads 3".split()


def publish(folder: Path, **changes: Any) -> Path:
    """Write a small BERT of random weights as BERTs are published."""
    folder.mkdir()
    config = CONFIG | changes
    draw = torch.Generator().manual_seed(1)

    def weight(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw) / 2

    width, inner = 12, 20
    state = {
        "embeddings.word_embeddings.weight": weight(24, width),
        "embeddings.position_embeddings.weight": weight(90, width),
        "embeddings.token_type_embeddings.weight": weight(config["type_vocab_size"], width),
        "pooler.dense.weight": weight(width, width),
        "pooler.dense.bias": weight(width),
        "embeddings.position_ids": torch.arange(90)[None],
    }
    norms = ["embeddings"] + [f"encoder.layer.{i}.{part}" for i in (0, 1) for part in ("attention.output", "output")]
    for norm in norms:
        # small variances, where epsilon matters
        state |= {f"{norm}.LayerNorm.weight": weight(width) / 50, f"{norm}.LayerNorm.bias": weight(width) / 50}
    for i in (0, 1):
        for name, rows, columns in (
            ("attention.self.query", width, width), ("attention.self.key", width, width),
            ("attention.self.value", width, width), ("attention.output.dense", width, width),
            ("intermediate.dense", inner, width), ("output.dense", width, inner),
        ):  # fmt: skip
            state |= {
                f"encoder.layer.{i}.{name}.weight": weight(rows, columns),
                f"encoder.layer.{i}.{name}.bias": weight(rows),
            }
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in PIECES.split()), encoding="utf-8")
    return folder


def hidden_states(state: dict[str, Tensor], config: dict[str, Any], tokens: list[int], types: list[int]) -> Tensor:
    """What BERT computes, written out. *Shape:* (T, C)"""

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + config["layer_norm_eps"]).sqrt()
        return scaled * state[f"{name}.weight"] + state[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]

    x = state["embeddings.word_embeddings.weight"][tokens] + state["embeddings.token_type_embeddings.weight"][types]
    x = norm(x + state["embeddings.position_embeddings.weight"][: len(tokens)], "embeddings.LayerNorm")
    heads, size = config["num_attention_heads"], config["hidden_size"] // config["num_attention_heads"]
    for i in range(config["num_hidden_layers"]):
        layer = f"encoder.layer.{i}"
        q, k, v = (
            linear(x, f"{layer}.attention.self.{part}").view(-1, heads, size).transpose(0, 1)
            for part in ("query", "key", "value")
        )
        attended = (q @ k.transpose(1, 2) / size**0.5).softmax(-1) @ v
        attended = linear(attended.transpose(0, 1).flatten(1), f"{layer}.attention.output.dense")
        x = norm(x + attended, f"{layer}.attention.output.LayerNorm")
        inner = linear(x, f"{layer}.intermediate.dense")
        inner = inner * 0.5 * (1 + torch.erf(inner / 2**0.5))
        x = norm(x + linear(inner, f"{layer}.output.dense"), f"{layer}.output.LayerNorm")
    return x


def load(out: Path, data: Path) -> Any:
    (model,), _ = checkpoint_utils.load_model_ensemble([str(out / "model.pt")], {"data": str(data)})
    return model.eval()


def data_for(out: Path, folder: Path) -> Path:
    """The dictionaries that building the model takes."""
    for name in ("input0", "label"):
        (folder / name).mkdir(parents=True)
    (folder / "input0" / "dict.txt").write_bytes((out / "dict.txt").read_bytes())
    (folder / "label" / "dict.txt").write_text("".join(f"{label} 1\n" for label in pairs.LABELS))
    return folder


def assert_same_states(published: Path, out: Path, folder: Path, lines: list[tuple[str, str]]) -> None:
    """Hold padded pairs and single sentences against the published weights, token by token."""
    state, config = load_file(published / "model.safetensors"), json.loads((published / "config.json").read_text())
    vocabulary = (published / "vocab.txt").read_text(encoding="utf-8").splitlines()
    model, pieces = load(out, data_for(out, folder)), WordPiece.read(out / "wordpiece.json")
    symbols, rows, expected = model.encoder.dictionary, [], []
    special = {"<s>": "[CLS]", "</s>": "[SEP]", "<unk>": "[UNK]"}
    for pair in [*lines, *((first,) for first, _ in lines)]:
        sides = [[*line.split(), "</s>"] for line in pieces.encode(pair)]
        words = ["<s>", *sides[0], *(sides[1] if len(sides) > 1 else [])]
        rows.append(torch.tensor([symbols.index(word) for word in words]))
        ids = [vocabulary.index(special.get(word, word)) for word in words]
        types = [int(i > len(sides[0])) for i in range(len(words))]
        expected.append(hidden_states(state, config, ids, types))
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=symbols.pad())
    with torch.no_grad():
        found, _ = model(padded, features_only=True)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours[: len(theirs)] - theirs).abs().max() <= 1e-4


LINES = [("The guitar is playing a man.", "Nobody plays, no?"), ("The CAFÉ is on.", "'$5'"), ("a [SEP] b", "man")]


def test_the_hidden_states_are_the_originals(tmp_path: Path, capsys) -> None:
    published, out = publish(tmp_path / "bert"), tmp_path / "out"
    assert cli.main(["import-bert", str(published), str(out)]) == 0
    assert "2 layers of 3 heads, 6 in all" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["dict.txt", "model.pt", "wordpiece.json"]
    words = [line.split(" ")[0] for line in (out / "dict.txt").read_text(encoding="utf-8").splitlines()]
    assert words == PIECES.split()[4:]
    assert_same_states(published, out, tmp_path / "data", LINES)
    assert cli.main(["heads", str(out / "model.pt")]) == 0
    assert "6 of 6 heads are kept" in capsys.readouterr().out


def test_fewer_positions_than_the_sentences_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fairseq_dsp.pretrained.import_bert.SENTENCES", [("guitar " * 600, "a man")])
    assert cli.main(["import-bert", str(publish(tmp_path / "bert")), str(tmp_path / "out")]) == 0


def test_one_token_type_needs_no_segment_embedding(tmp_path: Path) -> None:
    published, out = publish(tmp_path / "bert", type_vocab_size=1), tmp_path / "out"
    assert cli.main(["import-bert", str(published), str(out)]) == 0
    assert (
        "encoder.sentence_encoder.segment"
        not in checkpoint_utils.load_checkpoint_to_cpu(str(out / "model.pt"))["model"]
    )


def test_special_symbols_in_a_text_are_text() -> None:
    pieces = WordPiece.make(PIECES.split(), lowercase=True, strip_accents=None, split_chinese=True)
    assert pieces.encode(["a man [SEP] café", "</s> a"]) == [
        "a man <unk> <unk> <unk> cafe",
        "<unk> <unk> <unk> <unk> a",
    ]


def test_a_training_starts_from_it(tmp_path: Path) -> None:
    published, out = publish(tmp_path / "bert"), tmp_path / "out"
    cli.main(["import-bert", str(published), str(out)])
    pooler = checkpoint_utils.load_checkpoint_to_cpu(str(out / "model.pt"))["model"]
    dense = "classification_heads.sentence_classification_head.dense.weight"
    data = pairs.make(tmp_path, dictionary=out / "dict.txt")
    flags = (*SIZES, "--layer-norm-epsilon", "1e-12", "--segment-embedding", "--max-positions", 90)
    frozen = ("--freeze-weights", "--heads-to-keep", 3, "--cooldown-updates", 15)
    after = pairs.train(
        data, tmp_path / "run", *flags, *frozen, "--arch", "roberta_dsp", "--finetune-from-model", out / "model.pt"
    )["model"]
    assert torch.equal(after[dense], pooler[dense])
    assert int(after["heads.kept"].sum()) == 3
    assert inprocess.without_importance(after).keys() == inprocess.without_importance(pooler).keys()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda f: _edit(f, model_type="roberta"), "is the configuration of a roberta model, but bert is expected"),
        (lambda f: _edit(f, position_embedding_type="relative_key"), "position_embedding_type in"),
        (lambda f: _edit(f, hidden_act="swish"), "hidden_act in"),
        (lambda f: _edit(f, vocab_size=25), "has 24 pieces, the weights have 24 and config.json says 25"),
        (lambda f: _edit(f, num_hidden_layers=3), "have 2 layers, but num_hidden_layers in config.json is 3:"),
        (lambda f: _edit(f, num_hidden_layers=0), "num_hidden_layers in .* is 0, but a whole number from 1"),
        (lambda f: _edit(f, hidden_size=18), r"of the shape \(18, 18\), but the weights have the shape \(12, 12\)"),
        (lambda f: _edit(f, hidden_act=["gelu"]), "hidden_act in"),
        (lambda f: _edit(f, model_type=None), "names no model_type"),
        (lambda f: _edit(f, type_vocab_size=1), r"of the shape \(1, 12\), but the weights have the shape \(2, 12\)"),
        (lambda f: _weights(f, "encoder.layer.0.attention.self.query.bias"), "have no such weight"),
        (lambda f: _weights(f, "pooler.dense.bias"), "have no such weight"),
        (lambda f: (f / "tokenizer_config.json").write_text('{"do_lower_case": "false"}'), "do_lower_case in"),
        (
            lambda f: (f / "tokenizer_config.json").write_text('{"tokenizer_class": "BertJapaneseTokenizer"}'),
            "tokenizer_class in .*tokenizer_config.json is 'BertJapaneseTokenizer', but 'BertTokenizer' or",
        ),
        (lambda f: _edit(f, tokenizer_class="DebertaTokenizer"), "tokenizer_class in .*config.json is 'DebertaTokeni"),
        (
            lambda f: (f / "tokenizer_config.json").write_text('{"word_tokenizer_type": "mecab"}'),
            "word_tokenizer_type in .* is 'mecab', but 'basic' is expected",
        ),
        (
            lambda f: (f / "vocab.txt").write_text(PIECES.replace(" ", "\n").replace("guitar", "<s>")),
            "has the piece <s>",
        ),
        (lambda f: _pickled(f, [1]), "holds no state dict, but a list"),
        (lambda f: _pickled(f, {1: torch.ones(1)}), "the weights have 0"),
        (lambda f: _pickled(f, {"a": _Code()}), "nothing in it was run"),
        (lambda f: _pickled(f, {"a": _Code()}, zipped=False), "nothing in it was run"),
        (lambda f: _edit(f, num_hidden_layers=1), "have 2 layers, but num_hidden_layers in config.json is 1:"),
        (lambda f: _edit(f, num_hidden_layers=3_000_000), "have 2 layers, but num_hidden_layers"),
        (lambda f: _edit(f, intermediate_size=24), "do not belong together"),
        (lambda f: (f / "vocab.txt").write_text(PIECES.replace(" ", "\n").replace("[SEP]", "x")), r"has no \[SEP\]"),
        (lambda f: (f / "vocab.txt").unlink(), "vocab.txt cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"half"), "cannot be read"),
        (lambda f: (f / "model.safetensors").unlink(), "has neither model.safetensors nor pytorch_model.bin"),
        (lambda f: (f / "config.json").unlink(), "config.json is missing"),
        (lambda f: _edit(f, layer_norm_eps=None), "layer_norm_eps"),
        (lambda f: _edit(f, num_attention_heads=5), "num_attention_heads"),
    ],
)
def test_another_folder_is_refused_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, change: Any, sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    published = publish(tmp_path / "bert")
    change(published)
    assert cli.main(["import-bert", str(published), str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert re.search(sentence, message), message
    assert message.count("\n") == 1
    assert not Path("unpickled").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]


def _edit(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def _weights(folder: Path, left_out: str) -> None:
    state = load_file(folder / "model.safetensors")
    save_file({name: value for name, value in state.items() if name != left_out}, folder / "model.safetensors")


def _pickled(folder: Path, content: Any, *, zipped: bool = True) -> None:
    (folder / "model.safetensors").unlink()
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)


class _Code:
    """An object whose unpickling would make a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("unpickled"),)


def test_a_cased_vocabulary_keeps_its_case(tmp_path: Path) -> None:
    published = publish(tmp_path / "bert")
    (published / "vocab.txt").write_text(PIECES.replace(" ", "\n").replace("guitar", "Guitar"))
    for settings, expected in ((None, "the Guitar"), ('{"do_lower_case": true}', "the <unk>")):
        if settings:
            (published / "tokenizer_config.json").write_text(settings)
        out = tmp_path / f"out{bool(settings)}"
        assert cli.main(["import-bert", str(published), str(out)]) == 0
        assert WordPiece.read(out / "wordpiece.json").encode(["the Guitar"]) == [expected]


def test_without_a_pooler_the_head_is_new(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    published, out = publish(tmp_path / "bert"), tmp_path / "out"
    for part in ("weight", "bias"):
        _weights(published, f"pooler.dense.{part}")
    assert cli.main(["import-bert", str(published), str(out)]) == 0
    assert "it has no pooler: the classification head is all new" in capsys.readouterr().out


@pytest.mark.skipif("FAIRSEQ_DSP_BERT" not in os.environ, reason="FAIRSEQ_DSP_BERT names no folder of a published BERT")
def test_a_real_model(tmp_path: Path) -> None:
    published, out = Path(os.environ["FAIRSEQ_DSP_BERT"]), tmp_path / "out"
    assert cli.main(["import-bert", str(published), str(out)]) == 0
    assert_same_states(published, out, tmp_path / "data", LINES)
