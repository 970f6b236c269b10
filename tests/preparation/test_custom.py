"""Anyone's own parallel text: split here without a leak, or split already."""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import preparing
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fairseq_dsp.errors import UserError
from fairseq_dsp.preparation.cleaning import Texts
from fairseq_dsp.preparation.custom import choose, ready_splits, whole_text

SENTENCES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=2, max_size=60)


@settings(deadline=None)
@given(pairs=SENTENCES, sizes=st.tuples(st.integers(1, 5), st.integers(1, 5)), seed=st.integers(0, 5))
def test_nothing_held_out_is_known_from_training(
    pairs: list[tuple[int, int]], sizes: tuple[int, int], seed: int
) -> None:
    sides = [f"s{a}" for a, _ in pairs], [f"t{b}" for _, b in pairs]
    with tempfile.TemporaryDirectory() as folder:
        paths = [preparing.write(Path(folder) / f"t.{x}", side) for x, side in zip(("de", "en"), sides, strict=True)]
        texts = Texts(Path(folder), ("de", "en"))
        try:
            whole_text(("de", "en"), paths, *sizes, seed).write_raw(texts)
        except UserError:
            return
        texts.finish([])
        splits = {
            (name, x): preparing.lines(path) if (path := Path(folder) / f"{name}.{x}").exists() else []
            for name in ("train", "valid", "test")
            for x in ("de", "en")
        }
    assert (len(splits["valid", "de"]), len(splits["test", "de"])) == sizes
    for side, language in zip(sides, ("de", "en"), strict=True):
        train, valid, test = (splits[name, language] for name in ("train", "valid", "test"))
        assert sorted([*train, *valid, *test]) == sorted(side)
        assert not {*valid, *test} & {*train}
        assert not {*valid} & {*test}


def test_capitals_make_no_other_sentence(tmp_path: Path) -> None:
    """A recipe may lower the case of all texts later."""
    lines = [f"the sentence {i}" for i in range(30)]
    paths = [
        preparing.write(tmp_path / f"t.{x}", [*lines, *(line.upper() for line in lines), f"alone {x}", f"single {x}"])
        for x in ("de", "en")
    ]
    texts = Texts(tmp_path, ("de", "en"))
    whole_text(("de", "en"), paths, 1, 1, 1).write_raw(texts)
    texts.finish([])
    held = [preparing.lines(tmp_path / f"{name}.de")[0] for name in ("valid", "test")]
    assert sorted(held) == ["alone de", "single de"]


def test_the_choice_is_that_of_earlier_versions() -> None:
    """A sample of the places of all pairs that may be held out, whatever blocks these are looked for in."""
    import numpy as np

    draw = random.Random(7)
    single = [draw.random() < 0.6 for _ in range(3000)]
    places = [place for place, good in enumerate(single) if good]
    chosen = random.Random(5).sample(places, 300)
    expected = {place: "valid" if i < 100 else "test" for i, place in enumerate(chosen)}
    assert choose(np.array(single), 100, 200, 5) == expected


def test_two_files(small_multi30k: Path, tmp_path: Path) -> None:
    """Blank lines, a byte-order mark, Windows line ends and Unicode line separators do no harm."""
    for language in ("de", "en"):
        text = preparing.lines(small_multi30k / f"train.{language}")
        text[5] = "" if language == "de" else text[5]
        text[6] = text[6].replace(" ", "\u2028", 1).replace(" ", "\u00a0", 1)
        (tmp_path / f"mine.{language}").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(text).encode())
    out = tmp_path / "new" / "out"
    done = preparing.prepare("custom", tmp_path / "mine.de", tmp_path / "mine.en", out, "--vocab-size", 600)
    assert "train: left out 1 pairs with a blank side" in done.stdout
    summary = json.loads((out / "prepare.json").read_text())
    assert (summary["source_lang"], summary["target_lang"]) == ("de", "en")
    assert summary["pairs"] == {"train": 271, "valid": 14, "test": 14}
    together = [line for split in summary["pairs"] for line in preparing.lines(out / "raw" / f"{split}.en")]
    expected = preparing.lines(small_multi30k / "train.en")
    assert sorted(together) == sorted(" ".join(line.split()) for i, line in enumerate(expected) if i != 5)


def test_ready_splits(small_multi30k: Path, tmp_path: Path) -> None:
    train, valid, *tests = (
        str(small_multi30k / name) for name in ("train", "val", "test_2016_flickr", "test_2017_flickr")
    )
    corpus = ready_splits(("en", "de"), train, valid, tests)
    assert corpus.test_sets == ["test_2016_flickr", "test_2017_flickr"]
    texts = Texts(tmp_path, ("en", "de"))
    corpus.write_raw(texts)
    texts.finish(corpus.splits())
    assert preparing.lines(tmp_path / "test1.de") == preparing.lines(Path(f"{tests[1]}.de"))
    assert preparing.lines(tmp_path / "valid.en") == preparing.lines(Path(f"{valid}.en"))


def test_sentences_of_ready_splits_that_training_knows_are_told(tmp_path: Path) -> None:
    train = [f"This is sentence no. {i}." for i in range(60)]
    own = [f"Another one, no. {i}." for i in range(4)]
    for name, de, en in (
        ("train", train, train),
        ("valid", own, own),
        ("test", [*own, train[7].upper(), train[7]], [*own, *own[:2]]),
    ):
        preparing.write(tmp_path / f"{name}.de", de)
        preparing.write(tmp_path / f"{name}.en", en)
    prefixes = [word for x in ("train", "valid", "test") for word in (f"--{x}-pref", tmp_path / x)]
    done = preparing.prepare("custom", tmp_path / "out", *prefixes, "-s", "de", "-t", "en", "--vocab-size", 60)
    told = [line for line in done.stdout.splitlines() if "in the training text too" in line]
    assert len(told) == 1
    assert told[0].startswith("| test.de: 2 of 6 sentences are in the training text too")


def test_other_names_of_the_same_test_sets_are_taken_over(tmp_path: Path) -> None:
    for name in ("train", "valid", "dev1"):
        lines = [f"{name}: this is sentence no. {i}." for i in range(40)]
        preparing.write(tmp_path / f"{name}.de", lines)
        preparing.write(tmp_path / f"{name}.en", lines)
    flags = ["-s", "de", "-t", "en", "--vocab-size", 60]
    prefixes = ["--train-pref", tmp_path / "train", "--valid-pref", tmp_path / "valid", "--test-pref"]
    preparing.prepare("custom", tmp_path / "out", *prefixes, tmp_path / "dev1", *flags)
    before = json.loads((tmp_path / "out/prepare.json").read_text())
    for language in ("de", "en"):
        (tmp_path / f"dev1.{language}").rename(tmp_path / f"newstest.{language}")
    done = preparing.prepare("custom", tmp_path / "out", *prefixes, tmp_path / "newstest", *flags)
    assert "nothing to do" in done.stdout
    assert json.loads((tmp_path / "out/prepare.json").read_text()) == {**before, "test_sets": {"test": "newstest"}}


def test_test_sets_are_told_apart(tmp_path: Path) -> None:
    for name in ("train", "valid", "dev/test", "news/test"):
        for language in ("de", "en"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            preparing.write(tmp_path / f"{name}.{language}", [f"{name}: this is sentence no. {i}." for i in range(40)])
    flags = ["-s", "de", "-t", "en", "--vocab-size", 60, "--train-pref", tmp_path / "train"]
    flags += ["--valid-pref", tmp_path / "valid", "--test-pref"]
    dev, news = (str(tmp_path / name) for name in ("dev/test", "news/test"))
    preparing.prepare("custom", tmp_path / "out", *flags, f"{dev}, {news}")
    assert json.loads((tmp_path / "out/prepare.json").read_text())["test_sets"] == {"test": dev, "test1": news}
    for prefixes in (f"{dev},{dev}", f"{dev},{news}/../../dev/test", f"{dev},,{news}"):
        done = preparing.prepare("custom", tmp_path / "other", *flags, prefixes, check=False)
        assert "a prefix twice, or none between two commas" in preparing.the_sentence(done)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["a.de", "a.en"], "SRC TGT OUT"),
        (["out", "--train-pref", "a"], "--valid-pref"),
        (["a.de", "b.de", "out"], "both de"),
        (["a", "b", "out"], "--source-lang"),
        (["out", "--train-pref", "a", "--valid-pref", "a", "--test-pref", "a"], "--source-lang"),
        (["out", "--train-pref", "a", "--valid-pref", "a", "--test-pref", "a", "--test-size", "5"], "ready splits"),
    ],
)
def test_wrong_arguments(arguments: list[str], told: str) -> None:
    done = preparing.prepare("custom", *arguments, check=False)
    assert told in preparing.the_sentence(done)
