"""What a perfect translation scores: 100, wherever the recipe can give the text back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import preparing
import pytest

from fairseq_dsp.evaluation.prepared import PreparedData
from fairseq_dsp.evaluation.score_text import text
from fairseq_dsp.evaluation.scoring import score
from fairseq_dsp.preparation.ceiling import decode

CHINESE = [f"第{i}个人说：“你好，世界！”——对吗？（是的；{i}％）" for i in range(80)]
ENGLISH = [f"Person {i} says … “hello”™ — ½ of ① isn’t {i}％, ﬁne²? <b> & 5°" for i in range(80)]
FRENCH = [f"«so» dit “a b” (c), aujourd’hui {i % 60} 50 % dell’uomo l'an {i % 60} !" for i in range(80)]


def corpus(folder: Path, source: list[str], target: list[str], languages: tuple[str, str]) -> list[object]:
    """Write ready splits, the first 60 lines for training; return the arguments that name them."""
    parts = {"train": slice(0, 60), "valid": slice(60, 70), "test": slice(70, 80)}
    for name, part in parts.items():
        for language, lines in zip(languages, (source, target), strict=True):
            preparing.write(folder / f"{name}.{language}", lines[part])
    names = [word for name in parts for word in (f"--{name}-pref", folder / name)]
    return [*names, "-s", languages[0], "-t", languages[1]]


def decoded(data: PreparedData, split: str) -> list[str]:
    """A text's references as fairseq reads them back from data-bin, the BPE undone by fairseq."""
    from fairseq.data import Dictionary, data_utils

    language = data.languages[1]
    dictionary = Dictionary.load(str(data.data_bin / f"dict.{language}.txt"))
    prefix = data.data_bin / f"{split}.{'-'.join(data.languages)}.{language}"
    binary = data_utils.load_indexed_dataset(str(prefix), dictionary)
    how = {"sentencepiece": "sentencepiece", "subword-nmt": "subword_nmt"}[data.summary["bpe"]]
    return [dictionary.string(binary[i], how) for i in range(len(binary))]


def perfect(data: PreparedData, split: str) -> dict[str, float]:
    """The scores of translations that are the references, as far as the dictionary knows them."""
    return {name: one["score"] for name, one in score(data, split, decoded(data, split)).items()}


@pytest.fixture(scope="module")
def chinese(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """English to Chinese by default, the last sentence with a character that training never saw; what was printed."""
    folder = tmp_path_factory.mktemp("chinese")
    target = [*CHINESE[:-1], CHINESE[-1].replace("你", "☃")]
    files = corpus(folder, ENGLISH, target, ("en", "zh-Hant"))
    done = preparing.prepare("custom", folder / "out", *files, "--vocab-size", 200)
    return folder / "out", done.stdout


def test_nothing_is_rewritten_by_default(chinese: tuple[Path, str]) -> None:
    data = PreparedData.read(chinese[0])
    assert decoded(data, "valid") == data.references("valid") == CHINESE[60:70]
    assert perfect(data, "valid") == {"tokenised_bleu": 100, "bleu": 100, "chrf": 100}
    assert data.ceiling("valid") == {"tokenised_bleu": 100, "bleu": 100, "chrf": 100, "unknown": 0}
    assert "valid: a perfect translation reaches a BLEU of 100.00\n" in chinese[1]
    assert data.summary["settings"]["normalisation"] == "identity"


def test_what_the_dictionary_does_not_know_is_lost(chinese: tuple[Path, str]) -> None:
    data = PreparedData.read(chinese[0])
    scores = perfect(data, "test")
    assert 50 < scores["bleu"] < 100
    assert data.ceiling("test") == {**scores, "unknown": 1}
    assert "1 of 10 references hold what the dictionary does not know" in chinese[1]


def test_language_with_a_hyphen(chinese: tuple[Path, str]) -> None:
    """fairseq cannot tell the languages from train.en-zh-Hant.en.bin, so it is said how to name them."""
    assert "--source-lang en --target-lang zh-Hant" in chinese[1]
    assert "tok:zh" in score(PreparedData.read(chinese[0]), "valid", CHINESE[60:70])["tokenised_bleu"]["signature"]


def test_evaluate_shows_a_ceiling_below_100(chinese: tuple[Path, str]) -> None:
    data = PreparedData.read(chinese[0])
    result: dict[str, Any] = {"checkpoint": "c.pt", "sentences": 10, "beam": 5, "heads_to_keep": None, "kept": None}
    for split, told in (("valid", False), ("test", True)):
        scores = score(data, split, decoded(data, split))
        shown = text({**result, **scores, "split": split, "ceiling": data.ceiling(split)})
        assert (f"(a perfect translation: {scores['bleu']['score']:.2f})" in shown) == told
        assert text({**result, **scores, "split": split, "ceiling": None}).count("perfect") == 0


@pytest.mark.parametrize("words", ["▁a ▁b c", "▁a <unk> b <pad> ▁c", "<s> ▁a </s> b", "▁x ☃ y"])
def test_decoding_is_fairseqs(words: str) -> None:
    from fairseq.data import Dictionary

    dictionary = Dictionary()
    for word in "▁a ▁b ▁c ▁x b c y".split():
        dictionary.add_symbol(word)
    known = set(dictionary.symbols)
    encoded = dictionary.encode_line(words, add_if_not_exist=False)
    assert decode("sentencepiece", words.split(), known) == dictionary.string(encoded, "sentencepiece")
    assert decode("subword-nmt", words.split(), known) == dictionary.string(encoded, "subword_nmt")


def test_moses_gets_references_that_can_be_reached(tmp_path: Path) -> None:
    files = corpus(tmp_path, ENGLISH, FRENCH, ("eng", "fra"))
    arguments = ["custom", tmp_path / "out", *files, "--bpe", "subword-nmt", "--vocab-size", 100]
    done = preparing.prepare(*arguments)
    data = PreparedData.read(tmp_path / "out")
    assert data.summary["references"] == {"valid": "references/valid.fra", "test": "references/test.fra"}
    assert data.summary["references_are_detokenised"] is True
    assert "decoding the subwords does not give the original text back" in done.stdout
    assert preparing.lines(tmp_path / "out/raw/test.fra") == FRENCH[70:]
    assert data.references("test")[0] == "« so » dit “a b ” (c), aujourd ’ hui 10 50 % dell ’ uomo l'an 10 !"
    assert perfect(data, "test") == {"tokenised_bleu": 100, "bleu": 100, "chrf": 100}
    assert data.ceiling("test") == {"tokenised_bleu": 100, "bleu": 100, "chrf": 100, "unknown": 0}
    assert "nothing to do" in preparing.prepare(*arguments).stdout


def test_moses_keeps_references_that_it_can_reach(tmp_path: Path) -> None:
    plain = [f"He has {i % 60} cats, hasn't he?" for i in range(80)]
    files = corpus(tmp_path, FRENCH, plain, ("fr", "en"))
    arguments = ["custom", tmp_path / "out", *files, "--bpe", "subword-nmt", "--lowercase", "--vocab-size", 50]
    preparing.prepare(*arguments)
    data = PreparedData.read(tmp_path / "out")
    assert data.summary["references"] == {"valid": "raw/valid.en", "test": "raw/test.en"}
    assert data.summary["references_are_detokenised"] is False
    assert data.ceiling("test") == {"tokenised_bleu": 100, "bleu": 100, "chrf": 100, "unknown": 0}


def test_an_earlier_preparation_stays_usable(chinese: tuple[Path, str], tmp_path: Path) -> None:
    """One that recorded neither normalisation nor ceiling; only when prepared again it has other settings."""
    out = tmp_path / "out"
    shutil.copytree(chinese[0], out)
    summary = json.loads((out / "prepare.json").read_text())
    del summary["settings"]["normalisation"], summary["settings"]["text-rules"], summary["ceiling"]
    summary["references"] = {"test": "raw/test.zh-Hant"}
    (out / "prepare.json").write_text(json.dumps(summary))
    data = PreparedData.read(out)
    assert data.splits == ["valid", "test"]
    assert data.ceiling("test") is None
    assert perfect(data, "valid")["bleu"] == 100
    folder = chinese[0].parent
    files = [word for name in ("train", "valid", "test") for word in (f"--{name}-pref", folder / name)]
    again = ["custom", out, *files, "-s", "en", "-t", "zh-Hant", "--vocab-size", 200]
    sentence = preparing.the_sentence(preparing.prepare(*again, check=False))
    assert "normalisation not set, now identity" in sentence
    assert "--force" in sentence
    preparing.prepare(*again, "--force")
    assert preparing.contents(out) == preparing.contents(chinese[0])
