"""A second corpus with the BPE model and the dictionaries of a first one, or of anyone's."""

from __future__ import annotations

import io
import json
from pathlib import Path

import preparing
import pytest
import sentencepiece

from fairseq_dsp.evaluation.prepared import PreparedData
from fairseq_dsp.plain import normalised
from fairseq_dsp.removal.data_bin import preparation

FIRST = {"de": [f"Der {i}. Satz ist da." for i in range(80)], "en": [f"Sentence no. {i} is here." for i in range(80)]}
SECOND = {
    "de": [f"Der {i}. Satz ist da ist da." for i in range(80)],
    "en": [f"Sentence no. {i} is here is here." for i in range(80)],
}


def write(folder: Path, text: dict[str, list[str]]) -> list[Path]:
    folder.mkdir(exist_ok=True)
    return [preparing.write(folder / f"t.{language}", lines) for language, lines in text.items()]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Preparations of the first text, one for each kind of BPE."""
    folder = tmp_path_factory.mktemp("first")
    made = {}
    for bpe in ("sentencepiece", "subword-nmt"):
        made[bpe] = folder / bpe
        flags = ["--bpe", bpe, "--vocab-size", 70, *(["--tokenizer", "none"] if bpe == "subword-nmt" else [])]
        preparing.prepare("custom", *write(folder, FIRST), made[bpe], *flags)
    return made


@pytest.mark.parametrize("bpe", ["sentencepiece", "subword-nmt"])
def test_a_model_goes_on_with_a_second_corpus(first: dict[str, Path], tmp_path: Path, bpe: str) -> None:
    before = PreparedData.read(first[bpe])
    dictionaries = [before.data_bin / f"dict.{language}.txt" for language in ("de", "en")]
    ready = ["--bpe", bpe, "--bpe-model", before.folder / before.summary["bpe_model"], "--tokenizer", "none"]
    ready += ["--source-dictionary", dictionaries[0]]
    ready += [] if bpe == "sentencepiece" else ["--target-dictionary", dictionaries[1]]  # one stands for both
    arguments = ["custom", *write(tmp_path, SECOND), tmp_path / "out", *ready]
    preparing.prepare(*arguments)
    data = PreparedData.read(tmp_path / "out")
    for language in ("de", "en"):
        name = f"dict.{language}.txt"
        assert (data.data_bin / name).read_bytes() == (before.data_bin / name).read_bytes()
    name = before.summary["bpe_model"]
    assert (data.folder / name).read_bytes() == (before.folder / name).read_bytes()
    assert data.summary["vocab_size"] is None
    assert data.summary["joined_dictionary"] == (bpe == "sentencepiece")
    assert "nothing to do" in preparing.prepare(*arguments).stdout
    sentence = preparing.the_sentence(preparing.prepare(*arguments[:4], "--vocab-size", 70, check=False))
    assert "bpe-model" in sentence
    assert "source-dictionary" in sentence


def test_a_model_that_rewrites_text_gets_references_that_it_can_give(tmp_path: Path) -> None:
    """sentencepiece's own default normalises: ½ becomes 1⁄2."""
    text = {language: [f"{line} ½ … ™" for line in lines] for language, lines in FIRST.items()}
    paths, model = write(tmp_path, text), io.BytesIO()
    lines = [line for side in text.values() for line in side]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=70, model_type="bpe", minloglevel=2
    )
    (tmp_path / "theirs.model").write_bytes(model.getvalue())
    done = preparing.prepare("custom", *paths, tmp_path / "out", "--bpe-model", tmp_path / "theirs.model")
    data = PreparedData.read(tmp_path / "out")
    assert "decoding the subwords does not give the original text back" in done.stdout
    assert data.references("test")[0].endswith("1⁄2 ... TM")
    ceiling = data.ceiling("test")
    assert ceiling is not None
    assert ceiling["unknown"] or ceiling["bleu"] == 100


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--bpe-model", "codes"], "is not a model of sentencepiece"),
        (["--bpe", "subword-nmt", "--bpe-model", "model"], "is not a table of BPE merges"),
        (["--bpe-model", "nowhere"], "nowhere is missing"),
        (["--bpe-model", "empty"], "is not a model of sentencepiece"),
        (["--bpe", "subword-nmt", "--bpe-model", "empty"], "is not a table of BPE merges"),
        (["--bpe", "subword-nmt", "--bpe-model", "cut"], "is not a table of BPE merges"),
        (["--bpe", "subword-nmt", "--bpe-model", "none"], "is not a table of BPE merges"),
        (["--bpe-model", "model", "--vocab-size", 50], "--vocab-size is for learning a BPE model"),
        (["--bpe-model", "model", "--bpe-sample", 50], "--bpe-sample is for learning a BPE model"),
        (["--bpe-model", "model", "--character-coverage", 1], "--character-coverage is for learning a BPE model"),
        (["--bpe", "subword-nmt", "--character-coverage", 0.9], "--character-coverage is for sentencepiece"),
        (["--source-dictionary", "nowhere"], "nowhere is missing"),
        (["--source-dictionary", "model"], "is not a dictionary of fairseq's"),
        (["--bpe-model", "model", "--source-dictionary", "other"], "lacks 100% of the subwords"),
        (["--bpe-model", "model", "--source-dictionary", "few"], "% of the subwords of the training text, such as"),
        (["--joined-dictionary", "--source-dictionary", "other", "--target-dictionary", "other"], "two are given"),
    ],
)
def test_what_is_no_ready_model_or_dictionary(
    first: dict[str, Path], tmp_path: Path, flags: list[object], told: str
) -> None:
    dictionary = first["sentencepiece"] / "data-bin/dict.de.txt"
    files = {
        "codes": first["subword-nmt"] / "bpe/bpecodes",
        "model": first["sentencepiece"] / "bpe/sentencepiece.bpe.model",
        "other": preparing.write(tmp_path / "other.txt", ["▁xyz 3"]),
        "few": preparing.write(tmp_path / "few.txt", preparing.lines(dictionary)[:5]),
        "empty": preparing.write(tmp_path / "empty", []),
        "none": preparing.write(tmp_path / "none", ["#version: 0.2"]),
        "cut": preparing.write(tmp_path / "cut", [*preparing.lines(first["subword-nmt"] / "bpe/bpecodes")[:9], "lon"]),
        "nowhere": tmp_path / "nowhere",
    }
    given = [files.get(str(flag), flag) for flag in flags]
    paths = write(tmp_path, SECOND)
    assert told in preparing.the_sentence(preparing.prepare("custom", *paths, tmp_path / "out", *given, check=False))
    assert not (tmp_path / "out/data-bin").exists()


def test_normalised_text_is_normalised_again_in_use(tmp_path: Path) -> None:
    """What export-folder reads of a preparation, and what it makes of a sentence then."""
    paths = write(tmp_path, FIRST)
    preparing.prepare("custom", *paths, tmp_path / "out", "--vocab-size", 70, "--normalise", "nfc")
    assert preparation(tmp_path / "out/data-bin")["normalise"] == "nfc"
    assert json.loads((tmp_path / "out/prepare.json").read_text())["settings"]["normalise"] == "nfc"
    assert normalised("e\u0301 ﬁ", "nfc") == "é ﬁ"
    assert normalised("e\u0301 ﬁ\u00a8x", "nfkc") == "é fi \u0308x"
    assert normalised("e\u0301", None) == "e\u0301"
