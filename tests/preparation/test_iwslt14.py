"""IWSLT'14: the preparation from the raw archive gives the official test set."""

from __future__ import annotations

import argparse
import json
import shutil
import tarfile
from pathlib import Path

import preparing
import pytest

from fairseq_dsp.errors import UserError
from fairseq_dsp.preparation import corpora as known
from fairseq_dsp.preparation.cleaning import Texts


@pytest.fixture(scope="module")
def archive(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive as the real one: its XML files, and sentences of theirs as a small training text with its tags."""
    folder = tmp_path_factory.mktemp("archive")
    raw = corpora / "iwslt14-raw"
    for language in ("de", "en"):
        xml = preparing.lines(raw / f"IWSLT14.TED.tst2010.de-en.{language}.xml")
        sentences = [line.partition('">')[2].removesuffix("</seg>") for line in xml if line.startswith("<seg ")][:460]
        head = [
            "<url>http://www.ted.com/</url>",
            "<keywords>talks</keywords>",
            "<talkid>1</talkid>",
            "<title>Titel</title>",
        ]
        long = [
            "ja " * 176 if language == "de" else "yes " * 176,
            "eins zwei" if language == "de" else "one two three four",
        ]
        preparing.write(folder / f"train.tags.de-en.{language}", [*head, *sentences, *long])
    with tarfile.open(folder / "de-en.tgz", "w:gz") as tar:
        for path in [*raw.glob("*.xml"), *folder.glob("train.*")]:
            tar.add(path, f"de-en/{path.name}")
    return folder / "de-en.tgz"


@pytest.fixture(scope="module")
def prepared(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preparation from that archive, downloaded."""
    out = tmp_path_factory.mktemp("iwslt14") / "out"
    preparing.prepare("iwslt14", out, "--url", archive.as_uri(), "--vocab-size", 300, "--workers", 1)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("language", ["de", "en"])
def test_test_set_is_the_official_one(prepared: Path, corpora: Path, language: str) -> None:
    ours = preparing.lines(prepared / "tokenised" / f"test.{language}")
    official = preparing.lines(corpora / "iwslt14-47k" / f"test.{language}")
    assert len(ours) == len(official) == 6750
    same = sum(a == b for a, b in zip(ours, official, strict=True)) / len(ours)
    assert same >= 0.997  # what is asked; with sacremoses 0.2.0 it is 1
    if same < 1:
        pytest.fail(f"{same:.2%} of the lines are the official ones: it was 100%")


def broken(archive: Path, folder: Path, how: str) -> Path:
    """A copy of an archive that is damaged, or lacks the training text."""
    copy = folder / f"{how}.tgz"
    data = bytearray(archive.read_bytes())
    if how == "middle":
        data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    elif how == "checksum":
        data[-8] ^= 1
    if how != "lacking":
        copy.write_bytes(data)
        return copy
    with tarfile.open(archive) as whole, tarfile.open(copy, "w:gz") as tar:
        for member in whole:
            if "train" not in member.name:
                tar.addfile(member, whole.extractfile(member))
    return copy


@pytest.mark.parametrize("how", ["middle", "checksum", "lacking"])
def test_an_archive_that_is_no_use_is_not_kept(archive: Path, tmp_path: Path, how: str) -> None:
    bad, out = broken(archive, tmp_path, how), tmp_path / "out"
    done = preparing.prepare("iwslt14", out, "--url", bad.as_uri(), "--vocab-size", 300, "--workers", 1, check=False)
    sentence = preparing.the_sentence(done)
    assert ("lacks train.tags.de-en.de" if how == "lacking" else "gave a damaged archive") in sentence
    assert bad.as_uri() in sentence
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_another_address_is_another_corpus(archive: Path, tmp_path: Path) -> None:
    module = known.module("iwslt14")
    names = ["train.tags.de-en.de"]
    other = tmp_path / "other.tgz"
    (tmp_path / names[0]).write_text("another text")
    with tarfile.open(other, "w:gz") as tar:
        tar.add(tmp_path / names[0], f"de-en/{names[0]}")
    texts = [(module._download(url.as_uri(), tmp_path, names) / names[0]).read_text() for url in (archive, other)]
    assert texts[0].startswith("<url>")
    assert texts[1] == "another text"


@pytest.mark.slow
def test_training_text_is_cleaned_and_split(prepared: Path) -> None:
    kept = preparing.lines(prepared / "tokenised" / "train.en")
    valid = preparing.lines(prepared / "tokenised" / "valid.en")
    both = [*kept, *valid]
    assert len(valid) == len(both) // 23
    assert "titel" in both
    assert not any("http" in line or "talkid" in line or "<" in line for line in both)
    assert not any(line.startswith("yes yes") or line == "one two three four" for line in both)
    assert both == [line.lower() for line in both]
    summary = json.loads((prepared / "prepare.json").read_text())
    assert (summary["bpe"], summary["tokenizer"], summary["lowercase"]) == ("subword-nmt", "moses", True)
    assert summary["joined_dictionary"] is False


@pytest.mark.slow
def test_cleaning_leaves_the_validation_text_as_it_is(archive: Path, prepared: Path, tmp_path: Path) -> None:
    flags = ["--url", archive.as_uri(), "--vocab-size", 300, "--workers", 1, "--max-words", 15, "--deduplicate"]
    preparing.prepare("iwslt14", tmp_path / "out", *flags)
    for name in ("valid.de", "valid.en", "test.de"):
        assert preparing.lines(tmp_path / "out/tokenised" / name) == preparing.lines(prepared / "tokenised" / name)
    train = preparing.lines(prepared / "tokenised/train.de")
    short = preparing.lines(tmp_path / "out/tokenised/train.de")
    assert 0 < len(short) < len(train)
    assert max(len(line.split()) for line in short) == 15
    summary = json.loads((tmp_path / "out/prepare.json").read_text())
    assert summary["pairs"]["train"] == len(short)
    assert sum(summary["left_out"]["train"].values()) >= len(train) - len(short)


def test_tokenised_text_is_lower_cased_as_its_recipe_says(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        preparing.write(tmp_path / f"{split}.de", ["Das ist Berlin ."])
        preparing.write(tmp_path / f"{split}.en", ["This is Berlin ."])
    corpus = known.module("iwslt14").iwslt14(("de", "en"), [tmp_path], "", tmp_path, use_codes=False, workers=1)
    texts = Texts(tmp_path / "out", corpus.languages)
    (tmp_path / "out").mkdir()
    corpus.write_tokenised(tmp_path, texts)
    texts.close()
    assert preparing.lines(tmp_path / "out/train.de") == ["das ist berlin ."]


def test_every_23rd_pair_is_for_validation() -> None:
    source = [f"Satz {i}" for i in range(100)]
    found = list(known.module("iwslt14").split_train(zip(source, source, strict=True)))
    assert [a for name, a, _ in found if name == "valid"] == ["satz 22", "satz 45", "satz 68", "satz 91"]
    assert [b for name, _, b in found if name == "train"] == [x.lower() for i, x in enumerate(source) if i % 23 != 22]


def test_ratio_and_length_limits() -> None:
    good = [("a b", "a b c"), ("x " * 175, "x " * 175)]
    bad = [("a b", "a b c d"), ("a b c d", "a b"), ("x " * 176, "x " * 175), ("", "")]
    pairs = [*good, *bad, *[("fill", "fill")] * 30]
    assert len(list(known.module("iwslt14").split_train(pairs))) == 32


def write_raw(corpus: known.Corpus, folder: Path) -> None:
    texts = Texts(folder, corpus.languages)
    corpus.write_raw(texts)
    texts.close()


@pytest.fixture
def small(corpora: Path, tmp_path: Path) -> Path:
    """The tokenised corpus with a part of its training text."""
    folder = tmp_path / "small"
    folder.mkdir()
    for path in (corpora / "iwslt14-47k").iterdir():
        keep = None if path.name.startswith(("code", "test")) else 200
        preparing.write(folder / path.name, preparing.lines(path)[:keep])
    return folder


def test_compressed_files_are_the_same_corpus(small: Path, corpora: Path, tmp_path: Path) -> None:
    xml, found = shutil.copytree(corpora / "iwslt14-raw", tmp_path / "xml"), []
    for name in ("raw", "compressed"):
        if name == "compressed":
            preparing.compress(small)
            preparing.compress(xml)
        (tmp_path / name).mkdir()
        corpus = known.module("iwslt14").iwslt14(("de", "en"), [small, xml], "", tmp_path, use_codes=False, workers=1)
        write_raw(corpus, tmp_path / name)
        found.append((corpus.origin, corpus.detokenised, preparing.contents(tmp_path / name)))
    assert found[0] == found[1]
    with pytest.raises(UserError, match=r"code\.gz is compressed, but BPE merges are read as they are"):
        known.module("iwslt14").iwslt14(("de", "en"), [small], "", tmp_path, use_codes=True, workers=1)
    assert found[0][0].keys() > {"train.de", "IWSLT14.TED.tst2010.de-en.en.xml"}


def test_tokenised_text_with_its_codes(small: Path, corpora: Path, tmp_path: Path) -> None:
    """The other form of the corpus: tokenised, with ready merges; the XML files give the references."""
    raw_dirs = [small, corpora / "iwslt14-raw"]
    arguments = argparse.Namespace(
        corpus="iwslt14", source_lang="de", target_lang="en", raw_dir=raw_dirs, url="", out=tmp_path, bpe="subword-nmt",
        vocab_size=None, workers=1,
    )  # fmt: skip
    corpus = known.module("iwslt14").corpus(arguments)
    assert corpus.codes == small / "code"
    assert not corpus.detokenised
    (tmp_path / "raw").mkdir()
    write_raw(corpus, tmp_path / "raw")
    assert preparing.lines(tmp_path / "raw" / "test.en")[0].startswith("You know, ")

    arguments.raw_dir, arguments.vocab_size = [small], 500
    corpus = known.module("iwslt14").corpus(arguments)
    assert corpus.codes is None
    assert corpus.detokenised
    for path in small.glob("test.*"):
        preparing.write(path, preparing.lines(path)[:200])
    write_raw(corpus, tmp_path / "raw")
    assert preparing.lines(tmp_path / "raw" / "test.en")[0].startswith("you know, ")
