"""A corpus with a model's translations of its training text beside the references."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pairs
import preparing
import pytest
import support
from fairseq.data.indexed_dataset import MMapIndexedDataset, MMapIndexedDatasetBuilder

from fairseq_dsp.evaluation import inputs
from fairseq_dsp.evaluation.prepared import PreparedData
from fairseq_dsp.evaluation.preprocessed import read_data
from fairseq_dsp.preparation import distilled
from fairseq_dsp.preparation.stages import STAMP

WORDS = {"de": ("ja", "nein", "gut", "neu"), "en": ("yes", "no", "good", "new")}
SENTENCES = [numbers for length in (1, 2, 3, 4) for numbers in itertools.product(range(4), repeat=length)]
FOUR = ("--translations", 4)
SIZES = ("--valid-size", 20, "--test-size", 20, "--shard-size", 200, "--vocab-size")


def prepare(folder: Path, size: int) -> Path:
    """Prepare a language in which each word has one translation, as a corpus of two data-bins."""
    pairs = [
        preparing.write(folder / f"text.{language}", [" ".join(words[i] for i in numbers) for numbers in SENTENCES])
        for language, words in WORDS.items()
    ]
    preparing.prepare("custom", *pairs, folder / "out", *SIZES, size, "--workers", 1)
    return folder / "out"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared corpus."""
    return prepare(tmp_path_factory.mktemp("corpus"), 30)


@pytest.fixture(scope="module")
def model(corpus: Path, tmp_path_factory: pytest.TempPathFactory, run_fairseq: Callable[..., Any]) -> Path:
    """A model of stock fairseq that has learnt a little, so that some of its translations do not end."""
    folder = tmp_path_factory.mktemp("model")
    flags = ("--max-update", 60, "--max-tokens", 2000, "--lr", 0.01, "--warmup-updates", 10)
    flags += ("--source-lang", "de", "--target-lang", "en")
    run_fairseq("train", *support.tiny_train_args(PreparedData.read(corpus).training_data, folder, *flags))
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def made(corpus: Path, model: Path) -> Path:
    """The corpus with four translations of each training sentence."""
    out = corpus.with_name("distilled")
    preparing.prepare("distilled", model, corpus, out, "--cpu", *FOUR)
    return out


def texts(folder: Path, data_bin: str, split: str, language: str) -> list[str]:
    """A binarised text, in subwords."""
    data = PreparedData(folder, {**PreparedData.read(folder).summary, "data_bin": data_bin})
    words = data.dictionary(f"dict.{language}.txt")
    return [words.string(line) for line in data.binarised(f"{split}.de-en.{language}", words)]


@pytest.mark.parametrize("data_bin", ["data-bin", "data-bin1"])
def test_what_the_model_translates_stands_beside_the_references(
    corpus: Path, model: Path, made: Path, run_fairseq: Callable[..., Any], data_bin: str
) -> None:
    search = ("--beam", 5, "--nbest", 4, "--max-len-a", 2, "--max-len-b", 20, "--max-tokens", 4096, "--cpu")
    printed = run_fairseq(
        "generate", corpus / data_bin, "--path", model, "--gen-subset", "train", *search, "--user-dir", support.PLUGIN
    ).stdout
    lines = [line.split("\t") for line in printed.splitlines() if line.startswith("H-")]
    sources, references = (texts(corpus, data_bin, "train", language) for language in ("de", "en"))
    assert texts(made, data_bin, "train", "de") == sources * 6
    targets = texts(made, data_bin, "train", "en")
    assert targets[: 2 * len(references)] == references * 2
    columns = [targets[i :: len(references)][2:] for i in range(len(references))]
    for i, translations in enumerate(columns):
        most = 2 * (len(sources[i].split()) + 1) + 20
        found = [text for name, _, text in lines if name == f"H-{i}" and text and len(text.split()) < most]
        found = found or [references[i]]
        assert translations == found + found[:1] * (4 - len(found))
    assert sum(len(set(column)) == 4 for column in columns) > len(references) / 2
    assert sum(column[0] != line for column, line in zip(columns, references, strict=True)) > len(references) / 10


def test_as_many_translations_as_are_asked_for(corpus: Path, model: Path, made: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    preparing.prepare("distilled", model, corpus, out, "--cpu")
    one, four = (texts(folder, "data-bin", "train", "en") for folder in (out, made))
    number = len(texts(corpus, "data-bin", "train", "en"))
    references, best = four[:number], four[2 * number : 3 * number]
    assert one[:number] == references
    assert all(line in pair for line, *pair in zip(one[number:], best, references, strict=True))  # where it is no use
    assert sum(a == b for a, b in zip(one[number:], best, strict=True)) > number / 2
    refused = preparing.prepare("distilled", model, corpus, out, "--cpu", *FOUR, check=False)
    assert "was prepared with other settings (translations 1, now 4)" in preparing.the_sentence(refused)
    done = preparing.prepare("distilled", model, corpus, out, "--cpu", "--translations", 6, check=False)
    assert "invalid choice: 6" in done.stderr


def test_where_a_translation_does_not_end_the_reference_is_taken(
    corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distilled, "_MOST", (0.0, 2))  # one subword and the end, which is too few for most
    done = preparing.prepare("distilled", model, corpus, tmp_path / "out", "--cpu")
    both = texts(tmp_path / "out", "data-bin", "train", "en")
    half = len(both) // 2
    same = sum(a == b for a, b in zip(both[:half], both[half:], strict=True))
    assert same > half / 2
    assert "of them have no translation that is whole, and keep their reference" in done.stdout


def test_a_source_that_the_model_sees_a_part_of_keeps_its_reference(
    corpus: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = [len(line.split()) + 1 for line in texts(corpus, "data-bin", "train", "de")]
    limit = sorted(lengths)[len(lengths) // 2]
    monkeypatch.setattr(inputs, "positions", lambda paths: (limit, 1024))
    preparing.prepare("distilled", model, corpus, tmp_path / "out", "--cpu")
    both = texts(tmp_path / "out", "data-bin", "train", "en")
    references, translations = both[: len(lengths)], both[len(lengths) :]
    other = {n for n, *pair in zip(lengths, references, translations, strict=True) if len(set(pair)) == 2}
    assert max(other) == limit < max(lengths)


def test_all_else_is_that_of_the_corpus(corpus: Path, made: Path) -> None:
    one, other = preparing.contents(corpus), preparing.contents(made)
    new = {name for name in other if name.startswith("translations/")}
    assert new == {"translations/data-bin.en", "translations/data-bin1.en"}
    changed = {name for name in one if other[name] != one[name]} - {"prepare.json"}
    assert changed == {
        f"{d}/train.de-en.{x}.{e}" for d in ("data-bin", "data-bin1") for x in ("de", "en") for e in ("bin", "idx")
    }
    summaries = [json.loads(contents.pop("prepare.json")) for contents in (one, other)]
    assert other.keys() - new == one.keys()
    assert summaries[0].keys() - summaries[1].keys() == {"pairs", "longest"}  # of the text with references alone
    assert {name for name in summaries[1] if summaries[0][name] != summaries[1][name]} == {"settings", "key"}


def test_fairseq_trains_on_both(made: Path, tmp_path: Path, run_fairseq: Callable[..., Any]) -> None:
    flags = ("--task", "translation_dsp", "--heads-to-keep", 6, "--max-epoch", 1, "--max-update", 0)
    data = PreparedData.read(made).training_data
    printed = run_fairseq("train", *support.tiny_train_args(data, tmp_path, *flags, arch="transformer_dsp")).stdout
    assert f"{made / 'data-bin'} train de-en 1200 examples" in printed


def test_a_data_bin_of_fairseq_preprocess(corpus: Path, model: Path, made: Path, tmp_path: Path) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out"
    shutil.copytree(corpus / "data-bin", plain, ignore=shutil.ignore_patterns(".*"))
    text = ("--references", corpus / "raw/test.en", "--bpe", "sentencepiece")
    preparing.prepare("distilled", model, plain, out, *text, "--cpu", *FOUR)
    names = {path.name for path in plain.iterdir()}
    preparing.prepare("distilled", model, plain, plain / "inside", *text, "--cpu")
    assert preparing.contents(plain / "inside/data-bin").keys() == preparing.contents(out / "data-bin").keys()
    assert {path.name for path in (out / "data-bin").iterdir()} - {".stamp.json"} == names
    for name in names:
        assert (out / "data-bin" / name).read_bytes() == (made / "data-bin" / name).read_bytes()
    data, there = PreparedData.read(out), read_data(plain, "test", {"references": text[1], "bpe": text[3]})
    assert data.training_data == str(out / "data-bin")
    assert data.references("test") == there.references("test") == PreparedData.read(corpus).references("test")
    assert {**data.summary, "data_bin": "."} == there.summary | {
        "given": {"references": str(text[1])}, "settings": data.summary["settings"], "key": data.summary["key"],
    }  # fmt: skip
    assert "nothing to do" in preparing.prepare("distilled", model, plain, out, *text, "--cpu", *FOUR).stdout
    refused = preparing.prepare("distilled", model, plain, tmp_path / "other", "--cpu", check=False)
    assert "or, for a folder of fairseq-preprocess, its references too" in preparing.the_sentence(refused)


def test_files_that_are_named_after_the_other_direction(corpus: Path, model: Path, made: Path, tmp_path: Path) -> None:
    plain, out = tmp_path / "plain", tmp_path / "out"
    plain.mkdir()
    for path in (corpus / "data-bin").glob("*.*"):
        shutil.copy(path, plain / path.name.replace(".de-en.", ".en-de."))
    text = ("--references", corpus / "raw/test.en", "--bpe", "sentencepiece")
    preparing.prepare("distilled", model, plain, out, *text, "--cpu", *FOUR)
    for path in (made / "data-bin").glob("train.*"):
        assert (out / "data-bin" / path.name.replace(".de-en.", ".en-de.")).read_bytes() == path.read_bytes()
    data = PreparedData.read(out)
    assert (data.languages, data.text_name("train")) == (("de", "en"), "train.en-de")


def test_it_is_made_once(corpus: Path, model: Path, made: Path) -> None:
    before = preparing.times(made)
    assert "nothing to do" in preparing.prepare("distilled", model, corpus, made, "--cpu", *FOUR).stdout
    assert preparing.times(made) == before


def test_what_cannot_be_distilled_is_refused(corpus: Path, model: Path, made: Path, tmp_path: Path) -> None:
    def sentence(*words: object) -> str:
        return preparing.the_sentence(preparing.prepare("distilled", *words, "--cpu", check=False))

    out = tmp_path / "out"
    for itself in (corpus, corpus / "data-bin", corpus / "data-bin1"):
        assert "is the corpus itself, or holds it: give another folder" in sentence(model, corpus, itself)
    theirs = tmp_path / "theirs"
    shutil.copytree(corpus / "data-bin", theirs / "data-bin")  # with its stamp
    given = ("--references", corpus / "raw/test.en")
    assert "is the corpus itself, or holds it" in sentence(model, theirs / "data-bin", theirs, *given)
    (theirs / "data-bin" / STAMP).unlink()
    for used in (theirs, tmp_path):
        before = preparing.contents(theirs)
        assert "give another folder" in sentence(model, theirs / "data-bin", used, *given)
        assert preparing.contents(theirs) == before
    assert "data-bin was not made by fairseq-dsp prepare" in sentence(model, corpus, theirs)
    assert not (theirs / "translations").exists()
    shutil.rmtree(theirs)
    assert "has translations already" in sentence(model, made, out)
    assert "the checkpoint nowhere.pt is missing" in sentence("nowhere.pt", corpus, out)
    assert "there is no folder" in sentence(model, tmp_path / "none", out)
    (tmp_path / "pairs").mkdir()
    pairs.train(
        pairs.make(tmp_path / "pairs"), tmp_path / "classifier", "--arch", "roberta_dsp_tiny", "--max-update", 1
    )
    classifier = tmp_path / "classifier/checkpoint_last.pt"
    assert "classifies sentences, but a translation model is expected" in sentence(classifier, corpus, out)
    assert not out.exists()
    labelled = tmp_path / "labelled"
    labelled.mkdir()
    (labelled / "prepare.json").write_text('{"task": "sentence_prediction", "data_bin": "."}')
    assert "is a corpus with labels" in sentence(model, labelled, out)
    (tmp_path / "other").mkdir()
    assert "was trained with another source dictionary" in sentence(model, prepare(tmp_path / "other", 25), out)
    more = tmp_path / "more"
    shutil.copytree(corpus, more)
    for path in (corpus / "data-bin1").glob("train.*"):
        shutil.copy(path, more / "data-bin1" / path.name.replace("train.", "train1."))
    assert "data-bin1 has further training texts beside train, as train1" in sentence(model, more, out)
    assert "--split valid is given, but no --references" in sentence(model, corpus, out, "--split", "valid")
    assert not out.exists()


def test_a_copy_of_a_stage_is_somebodys_own(corpus: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(corpus / "data-bin", tmp_path / "out/kept")
    preparing.prepare("distilled", model, corpus, tmp_path / "out", "--cpu")
    assert (tmp_path / "out/kept/train.de-en.de.bin").exists()
    assert (tmp_path / "out/data-bin/train.de-en.de.bin").exists()


def test_numbers_of_another_type_and_lines_without_text(corpus: Path, model: Path, made: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(corpus / "data-bin", data)
    (data / STAMP).unlink()
    for language in ("de", "en"):
        path = data / f"train.de-en.{language}"
        lines = [line.clone() for line in MMapIndexedDataset(str(path))]
        for i in (3, 8) if language == "de" else ():
            lines[i] = lines[i][-1:]
        builder = MMapIndexedDatasetBuilder(f"{path}.bin", dtype=np.int64 if language == "en" else np.uint16)
        for line in lines:
            builder.add_item(line)
        builder.finalize(f"{path}.idx")
    text = ("--references", corpus / "raw/test.en", "--bpe", "sentencepiece")
    preparing.prepare("distilled", model, data, tmp_path / "out", "--cpu", *text)
    sources, references = (texts(corpus, "data-bin", "train", language) for language in ("de", "en"))
    found = texts(tmp_path / "out", "data-bin", "train", "en")
    assert found[: len(sources)] == references
    translations = found[len(sources) :]
    again = texts(made, "data-bin", "train", "en")[2 * len(sources) : 3 * len(sources)]  # the best of those that end
    assert sum(one == other for one, other in zip(translations, again, strict=True)) > len(again) / 2
    assert all(one in pair for one, *pair in zip(translations, again, references, strict=True))
    assert [translations[i] for i in (3, 8)] == [references[i] for i in (3, 8)]
    builder = MMapIndexedDatasetBuilder(f"{data}/train.de-en.en.bin", dtype=np.uint16)
    builder.add_item(line)
    builder.finalize(f"{data}/train.de-en.en.idx")
    given = (model, data, tmp_path / "less", "--cpu", *text)
    told = preparing.the_sentence(preparing.prepare("distilled", *given, check=False))
    assert f"has {len(sources)} training sentences of de, but 1 of en" in told


def test_files_on_another_disk_or_of_somebody_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    folders = stage, theirs, linked, copied, own = [tmp_path / name for name in ("a", "b", "linked", "copied", "own")]
    for folder in folders:
        folder.mkdir()
    (stage / STAMP).write_text("{}")
    for folder in (stage, theirs):
        (folder / "one").write_text("text")
    distilled._copy(stage, linked)
    distilled._copy(theirs, own)  # of fairseq-preprocess, which writes in place
    monkeypatch.setattr(distilled.os, "link", fail)
    distilled._copy(stage, copied)
    assert (linked / "one").samefile(stage / "one")
    assert not (own / "one").samefile(theirs / "one")
    assert not (copied / "one").samefile(stage / "one")
    assert [(folder / "one").read_text() for folder in (linked, copied, own)] == ["text"] * 3
