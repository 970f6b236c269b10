"""A pruned RoBERTa in use: a folder that predicts labels, a checkpoint for stock fairseq, scored heads."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pairs
import pytest
import support
import torch

import fairseq_dsp
from fairseq_dsp import cli
from fairseq_dsp.deployment.text import read_bpe
from fairseq_dsp.errors import UserError, find_in_chain

pytest.importorskip("tokenizers", reason="the extra nli is not installed")
from fairseq_dsp.wordpiece import WordPiece

WORDS = ["ba", "di", "fo", "ga", "no", "##s"]


@pytest.fixture(scope="module")
def pruned(pair_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2 of the 4 heads are kept."""
    folder = tmp_path_factory.mktemp("pruned")
    pairs.train(pair_data, folder, "--heads-to-keep", 2, "--cooldown-updates", 6)
    return folder / "checkpoint_last.pt"


def run(*words: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    status = cli.main(list(map(str, words)))
    said = capsys.readouterr()
    return status, said.err if status else said.out


def raw(pair_data: Path, split: str) -> list[tuple[str, str]]:
    sides = [(pair_data.parent / f"{split}.input{i}").read_text().splitlines() for i in (0, 1)]
    return list(zip(*sides, strict=True))


def logits(checkpoint: Path, pair_data: Path) -> Any:
    """The logits of the test set, by fairseq's own loading and batching."""
    from fairseq import checkpoint_utils

    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(checkpoint)], {"data": str(pair_data)})
    task.load_dataset("test")
    dataset = task.dataset("test")
    batch = dataset.collater([dataset[i] for i in range(len(dataset))])
    with torch.no_grad():
        return model.eval()(**batch["net_input"], classification_head_name="sentence_classification_head")[0]


def test_a_folder_predicts_what_the_checkpoint_does(
    pruned: Path, pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    status, said = run("export-folder", pruned, folder, "--data", pair_data, capsys=capsys)
    assert status == 0, said
    assert "2 of 4 heads" in said
    assert sorted(p.name for p in folder.iterdir()) == ["README.md", "config.json", "dict.txt", "model.safetensors"]
    model = fairseq_dsp.from_pretrained(str(folder))
    found = model.predict(raw(pair_data, "test"), batch_size=7)
    expected = logits(pruned, pair_data).softmax(-1)
    labels = json.loads((folder / "config.json").read_text())["labels"]
    assert sorted(labels) == sorted(pairs.LABELS)
    given = torch.tensor([[one.probabilities[label] for label in labels] for one in found])
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=0)
    assert [one.label for one in found] == [labels[i] for i in expected.argmax(-1)]
    assert model.predict([]) == []
    # a process that has fairseq_dsp alone
    script = f"import fairseq_dsp; print(fairseq_dsp.from_pretrained({str(folder)!r}).predict([('ba di', 'no ba')])[0])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=support.environment())
    assert done.returncode == 0, done.stderr
    assert "Prediction(label=" in done.stdout


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ("ba di", "predict takes a list of pairs, but one string was given"),
        ([("ba", "di", "fo")], "input 1 has 3 sentences, but a pair, or a string, is expected"),
        ([("ba", None)], "a sentence of input 1 is None"),
        ([("ba", "di"), "ba"], "input 2 is no pair, unlike those before it"),
        (("ba", "di"), "input 1 is one sentence, but the model was trained on pairs: give a list of pairs"),
        ([("ba", " ")], "input 1 has an empty sentence"),
    ],
)
def test_what_is_no_pair_is_refused(
    inputs: Any, sentence: str, pruned: Path, pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("export-folder", pruned, tmp_path / "folder", "--data", pair_data, capsys=capsys)
    with pytest.raises(UserError, match=sentence):
        fairseq_dsp.from_pretrained(str(tmp_path / "folder")).predict(inputs)


def test_words_are_cut_into_pieces_and_long_inputs_told(
    pruned: Path, pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    pieces = WordPiece.make(vocabulary, lowercase=True, strip_accents=None, split_chinese=True)
    pieces.save(tmp_path / "wordpiece.json")
    command = ("export-folder", pruned, tmp_path / "folder", "--data", pair_data, "--bpe", "wordpiece")
    status, said = run(*command, capsys=capsys)
    assert status == 1
    assert "the wordpiece model None does not exist" in said
    status, said = run(*command, "--bpe-model", tmp_path / "wordpiece.json", capsys=capsys)
    assert status == 0, said
    model = fairseq_dsp.from_pretrained(str(tmp_path / "folder"))
    first, second = model.predict([("Ba DI", "no Ba"), ("ba di", "no ba")])
    assert first.probabilities == pytest.approx(second.probabilities, abs=1e-6)
    with pytest.warns(UserWarning, match="input 1 has more tokens than the 40 that the model takes"):
        (long,) = model.predict([("ba " * 50, "no ba")])
    with pytest.raises(UserError, match="input 2 has a sentence without any subword"):
        model.predict([("ba", "no ba"), ("\u0301", "ba")])
    (cut,) = model.predict([("ba " * 34, "no ba")])
    assert long.probabilities == pytest.approx(cut.probabilities, abs=1e-6)


def test_inputs_are_cut_as_the_corpus_was(
    pruned: Path, pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pair_data, tmp_path / "corpus/data-bin")
    (tmp_path / "corpus/prepare.json").write_text(json.dumps({"data_bin": "data-bin", "max_positions": 11}))
    status, said = run("export-folder", pruned, tmp_path / "folder", "--data", tmp_path / "corpus", capsys=capsys)
    assert status == 0, said
    model = fairseq_dsp.from_pretrained(str(tmp_path / "folder"))
    with pytest.warns(UserWarning, match="input 1 has more tokens than the 11 that the model takes"):
        (long,) = model.predict([("ba " * 20, "no ba")])
    (cut,) = model.predict([("ba " * 5, "no ba")])
    assert long.probabilities == pytest.approx(cut.probabilities, abs=1e-6)


def test_raw_text_goes_through_the_subwords_of_gpt2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """RoBERTa's: fairseq's own encoder writes the corpus, and the folder takes the text before it."""
    from fairseq.data.encoders.gpt2_bpe_utils import get_encoder
    from tokenizers import ByteLevelBPETokenizer

    bpe = ByteLevelBPETokenizer()
    pairs.write(tmp_path)
    bpe.train([str(tmp_path / f"train.input{i}") for i in (0, 1)], vocab_size=300, show_progress=False)
    for made, name in zip(bpe.save_model(str(tmp_path)), ("encoder.json", "vocab.bpe"), strict=True):
        Path(made).rename(tmp_path / name)
    sentences = raw(tmp_path / "data-bin", "test")
    stock = get_encoder(str(tmp_path / "encoder.json"), str(tmp_path / "vocab.bpe"))
    for text in ("ba  di fo's", " naïve “ba”\tdi 我 🙂…", "don't  </s> [MASK] 3.14 BA", *sentences[0]):
        words = read_bpe("gpt2", tmp_path / "vocab.bpe").encode(text)
        assert words.split() == list(map(str, stock.encode(text)))
        assert read_bpe("gpt2", tmp_path / "vocab.bpe").decode(words) == text
    data = pairs.make(tmp_path, encode=lambda text: " ".join(map(str, stock.encode(text))))
    pairs.train(data, tmp_path / "run", "--heads-to-keep", 2, "--cooldown-updates", 6)
    checkpoint, folder = tmp_path / "run" / "checkpoint_last.pt", tmp_path / "folder"
    command = ("export-folder", checkpoint, folder, "--data", data, "--bpe", "gpt2", "--bpe-model")
    status, said = run(*command, tmp_path / "missing.bpe", capsys=capsys)
    assert status == 1
    assert "missing.bpe does not exist" in said
    (tmp_path / "encoder.json").rename(tmp_path / "elsewhere.json")
    status, said = run(*command, tmp_path / "vocab.bpe", capsys=capsys)
    assert status == 1
    assert "encoder.json cannot be read (No such file" in said
    (tmp_path / "encoder.json").write_text("{}")
    status, said = run(*command, tmp_path / "vocab.bpe", capsys=capsys)
    assert status == 1
    assert "are no byte-level BPE" in said
    assert not folder.exists()
    (tmp_path / "elsewhere.json").rename(tmp_path / "encoder.json")
    status, said = run(*command, tmp_path / "vocab.bpe", capsys=capsys)
    assert status == 0, said
    assert "| `vocab.bpe` | the subword model |\n| `encoder.json` |" in (folder / "README.md").read_text()
    expected = logits(checkpoint, data).softmax(-1)
    model = fairseq_dsp.from_pretrained(str(folder))
    given = [[one.probabilities[label] for label in model.labels] for one in model.predict(sentences)]
    torch.testing.assert_close(torch.tensor(given), expected, atol=1e-5, rtol=0)


def test_stock_fairseq_computes_the_same(
    pruned: Path, pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = run("export-fairseq", pruned, tmp_path / "stock.pt", capsys=capsys)
    assert status == 0, said
    torch.testing.assert_close(logits(tmp_path / "stock.pt", pair_data), logits(pruned, pair_data), atol=1e-5, rtol=0)
    assert torch.load(tmp_path / "stock.pt", weights_only=True)["cfg"]["model"]["_name"] == "roberta"
    _, _, *words = said.partition("; ")[2].split()
    done = support.run_command(
        [
            *(sys.executable, "-P", "-m", "fairseq_cli.validate", pair_data, "--cpu", *words[:-3]),
            *pairs.TASK,
            *("--valid-subset", "test", "--batch-size", 20, "--max-positions", 40),
        ],
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"accuracy .* bsz 20$", done.stdout, re.MULTILINE), done.stdout


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        (("export-ctranslate2",), "classifies sentences, but a translation model is expected"),
        (("export-folder", "--lowercase"), "is a classifier"),
    ],
)
def test_what_is_for_translation_is_refused(
    command: tuple[str, ...], sentence: str, pruned: Path, pair_data: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    name, *more = command
    status, said = run(name, pruned, tmp_path / "out", "--data", pair_data, *more, capsys=capsys)
    assert status == 1
    assert sentence in said
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_bert_is_no_stock_roberta(pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs.train(pair_data, tmp_path, "--heads-to-keep", 2, "--segment-embedding", "--max-update", 2)
    status, said = run("export-fairseq", tmp_path / "checkpoint_last.pt", tmp_path / "out.pt", capsys=capsys)
    assert status == 1
    assert "--segment-embedding True, as a BERT has, but fairseq's own roberta cannot have it" in said
    assert not (tmp_path / "out.pt").exists()


def test_a_label_without_a_class_is_named(pair_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the data have 3 labels .* but the model has 2 classes, so it does not know"):
        pairs.train(pair_data, tmp_path, "--num-classes", 2)


def test_scores_are_of_the_loss_of_the_label(
    pruned: Path, pair_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs.train(pair_data, tmp_path)
    unpruned = tmp_path / "checkpoint_last.pt"
    command = ("score-heads", unpruned, "--data", pair_data, "--cpu", "--scores", tmp_path / "scores.json")
    status, said = run(*command, "--heads-to-keep", 3, "--out", tmp_path / "heads.json", capsys=capsys)
    assert status == 0, said
    kept = json.loads((tmp_path / "heads.json").read_text())
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert kept["kept"] == 3
    assert kept["decoder_self"] == kept["cross"] == scores["cross"] == []
    assert scores["sentences"] == 20
    lowest = min(
        (score, layer, head) for layer, row in enumerate(scores["encoder_self"]) for head, score in enumerate(row)
    )
    assert lowest[2] not in kept["encoder_self"][lowest[1]]
    # the score of a head is how much the loss changes with its output
    from fairseq import checkpoint_utils

    from fairseq_dsp.importance.michel import _loss, gate_gradients

    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(unpruned)], {"data": str(pair_data)})
    task.load_dataset("valid")
    batch = task.dataset("valid").collater([task.dataset("valid")[0]])
    gradients = gate_gradients(model, batch, torch.tensor(1.0))
    weight = model.encoder.sentence_encoder.layers[0].self_attn.out_proj.weight
    losses = []
    with torch.no_grad():
        for step in (1e-3, -1e-3):
            before = weight[:, :8].clone()
            weight[:, :8] *= 1 + step
            losses.append(float(_loss(model.double(), batch)))
            weight[:, :8] = before
    assert float(gradients[0, 0]) == pytest.approx((losses[0] - losses[1]) / 2e-3, rel=5e-2, abs=1e-4)
    status, said = run("score-heads", unpruned, "--data", pair_data, "--split", "other", capsys=capsys)
    assert status == 1
    assert "has no split other" in said


@pytest.mark.parametrize("arch", ["roberta", "roberta_dsp_tiny"])
def test_another_vocabulary_is_named(arch: str, pair_data: Path, tmp_path: Path) -> None:
    sizes = "--encoder-layers 2 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2".split()
    pairs.train(pair_data, tmp_path / "start", "--arch", arch, *sizes, "--max-update", 1)
    (tmp_path / "words.txt").write_text("".join(f"{word} 1\n" for word in ("ba", "di", "no")))
    other = pairs.make(tmp_path, dictionary=tmp_path / "words.txt")
    checkpoint = tmp_path / "start/checkpoint_last.pt"
    with pytest.raises(Exception, match="Cannot load model parameters") as caught:  # fairseq's, told as its cause
        pairs.train(other, tmp_path / "on", "--finetune-from-model", checkpoint, "--heads-to-keep", 2)
    cause = find_in_chain(caught.value, UserError)
    assert re.search(r"another dictionary \(\d+ words, here 8\)", str(cause))
    assert not list((tmp_path / "on").glob("*"))
