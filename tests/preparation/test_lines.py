"""Text as people have it: invisible lines, very long ones, characters that sentencepiece keeps for itself, paths."""

from __future__ import annotations

import json
from pathlib import Path

import preparing
import pytest
import sentencepiece

from fairseq_dsp.preparation.subwords import encode_pairs

SENTENCES = {
    "de": [f"Satz Nummer {i} hat etwas Text, {i % 7} mal." for i in range(70)],
    "en": [f"Sentence number {i} has some text, {i % 7} times." for i in range(70)],
}
INVISIBLE = ["\u200b", "\ufeff", "\u200e", "\u2581", "\x02", "\x7f", "\u2060 \u200d", "\u3164"]


def write(folder: Path, **more: list[str]) -> list[object]:
    """Write the sentences and *more* of them; return the paths."""
    return [preparing.write(folder / f"t.{x}", [*SENTENCES[x], *more.get(x, [])]) for x in ("de", "en")]


@pytest.mark.parametrize("options", [[], ["--bpe", "subword-nmt"]], ids=["sentencepiece", "moses"])
def test_sides_that_nobody_sees(tmp_path: Path, options: list[object]) -> None:
    half = len(INVISIBLE) // 2
    paths = write(tmp_path, de=[*INVISIBLE[:half], *["Sichtbar."] * half], en=[*["Visible."] * half, *INVISIBLE[half:]])
    done = preparing.prepare("custom", *paths, tmp_path / "out", "--vocab-size", 90, *options)
    assert f"left out {len(INVISIBLE)} pairs with a blank side" in done.stdout
    summary = json.loads((tmp_path / "out/prepare.json").read_text())
    assert sum(summary["pairs"].values()) == 70
    for split, size in summary["pairs"].items():
        for language in ("de", "en"):
            subwords = preparing.lines(tmp_path / f"out/bpe/{split}.{language}")
            assert len(subwords) == size
            assert all(line.strip("\u2581 ") for line in subwords)


def long(language: str, count: int) -> list[str]:
    """Sentences of 9,000 bytes, each."""
    return [" ".join(f"{language}{(i * 7 + j) % 97:02}{i:03}" for j in range(1200)) for i in range(count)]


@pytest.mark.parametrize("count", [1, 60])
def test_long_sentences_are_learned_from(tmp_path: Path, count: int) -> None:
    """More than the 4,192 bytes that sentencepiece takes by default: their letters are none of the others'."""
    paths = [preparing.write(tmp_path / f"t.{x}", SENTENCES[x][: 80 - count]) for x in ("de", "en")]
    for path, language in zip(paths, ("qx", "zy"), strict=True):
        path.write_text(path.read_text() + "".join(line + "\n" for line in long(language, count)))
    sizes = ["--vocab-size", 120, "--valid-size", 2, "--test-size", 2]
    done = preparing.prepare("custom", *paths, tmp_path / "out", *sizes)
    model = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out/bpe/sentencepiece.bpe.model"))
    assert "q" in "".join(model.id_to_piece(i) for i in range(model.get_piece_size()))
    summary = json.loads((tmp_path / "out/prepare.json").read_text())
    longest = max(size for pair in summary["longest"].values() for size in pair.values())
    assert longest > 2000
    assert "pairs have more than 1023 subwords" in done.stdout


def test_of_a_text_that_is_scored_only_sources_are_too_long(tmp_path: Path) -> None:
    """They are cut, while a long reference is scored whole."""
    codes = preparing.write(tmp_path / "codes", ["#version: 0.2", "x y"])
    pairs = [("ab", "abcdef"), ("abcdef", "ab"), ("ab", "ab")]
    for limited, count in ((2, 2), (1, 1)):
        found = encode_pairs(pairs, kind="subword-nmt", model=codes, limit=3, training=False, limited=limited)
        assert (found.too_long, len(found.lines[0])) == (count, 3)


def test_all_sentences_long(tmp_path: Path) -> None:
    paths = [preparing.write(tmp_path / f"t.{x}", long(x, 40)) for x in ("de", "en")]
    preparing.prepare("custom", *paths, tmp_path / "out", "--vocab-size", 120)


def test_a_character_that_sentencepiece_reserves(tmp_path: Path) -> None:
    paths = write(tmp_path, de=["Ein Balken ▅ hier."], en=["A bar ▅ here."])
    done = preparing.prepare("custom", *paths, tmp_path / "out", "--vocab-size", 90)
    assert "2 sentences hold ▅ (U+2585), which sentencepiece reserves" in done.stdout


def test_paths_with_a_comma(tmp_path: Path) -> None:
    """Of the output folder and of the text; a comma in --test-pref is one of its name where there is such a file."""
    folder = tmp_path / "a,b"
    folder.mkdir()
    for split, part in {"train": slice(0, 50), "valid": slice(50, 60), "te,st": slice(60, 70)}.items():
        for language in ("de", "en"):
            preparing.write(folder / f"{split}.{language}", SENTENCES[language][part])
    names = ["--train-pref", folder / "train", "--valid-pref", folder / "valid", "--test-pref", folder / "te,st"]
    preparing.prepare("custom", folder / "out,1", *names, "-s", "de", "-t", "en", "--vocab-size", 90)
    assert (folder / "out,1/data-bin/test.de-en.en.bin").is_file()
    assert json.loads((folder / "out,1/prepare.json").read_text())["test_sets"] == {"test": "te,st"}


def test_an_output_folder_with_a_colon(tmp_path: Path) -> None:
    paths = write(tmp_path)
    sentence = preparing.the_sentence(preparing.prepare("custom", *paths, tmp_path / "a:b" / "out", check=False))
    assert "has a colon in its path" in sentence
    assert not (tmp_path / "a:b").exists()


def test_a_folder_below_one_with_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = write(tmp_path)
    (tmp_path / "a:b").mkdir()
    monkeypatch.chdir(tmp_path / "a:b")
    assert "has a colon in its path" in preparing.the_sentence(preparing.prepare("custom", *paths, "out", check=False))


def test_signs_of_sentencepiece_in_a_table_are_told(tmp_path: Path) -> None:
    rows = [f"Satz {i}\u2581hier\tsentence {i} here" for i in range(60)]
    table = preparing.write(tmp_path / "pairs.tsv", rows)
    done = preparing.prepare("custom", table, tmp_path / "out", "-s", "de", "-t", "en", "--vocab-size", 50)
    assert "60 characters U+2581" in done.stdout
