"""Text of any size: compressed or not, in pieces, a sample of it, in shards; and what is left out on demand."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import preparing
import pytest
import support

from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation.prepared import PreparedData
from fairseq_dsp.preparation import custom, duplicates, stages
from fairseq_dsp.preparation.cleaning import Cleaning, Texts
from fairseq_dsp.preparation.duplicates import Hashes
from fairseq_dsp.preparation.subwords import Learning
from fairseq_dsp.preparation.workers import in_order

GERMAN = [f"Der {i}. Satz handelt von Nummer {i * 7 % 90}." for i in range(300)]
ENGLISH = [f"The sentence no. {i} is about number {i * 7 % 90}." for i in range(300)]


@pytest.mark.parametrize("part", [3, 50, 10_000])
def test_what_occurs_twice(tmp_path: Path, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "PART", part)
    draw = random.Random(3)
    texts = [f"text {draw.randint(0, 150)}" for _ in range(200)]
    with Hashes(tmp_path / "hashes") as hashes:
        for text in texts:
            hashes.add(text)
        twice, again = hashes.repeated(), hashes.repeated(but_the_first=True)
    counts = Counter(texts)
    assert twice.tolist() == [counts[text] > 1 for text in texts]
    assert again.tolist() == [text in texts[:i] for i, text in enumerate(texts)]
    assert not list(tmp_path.iterdir())
    with Hashes(tmp_path / "hashes") as hashes:
        assert hashes.repeated().tolist() == []


def held_out(folder: Path, corpus: Any, cleaning: Cleaning | None = None) -> dict[str, bytes]:
    """The files that a corpus writes."""
    folder.mkdir()
    texts = Texts(folder, corpus.languages, cleaning)
    corpus.write_raw(texts)
    texts.finish(corpus.splits())
    return preparing.contents(folder)


def compress(path: Path, ending: str) -> Path:
    """A compressed copy of a file."""
    data, target = path.read_bytes(), path.with_name(path.name + ending)
    if ending == ".gz":
        target.write_bytes(gzip.compress(data))
    elif ending == ".bz2":
        target.write_bytes(bz2.compress(data))
    elif ending == ".xz":
        target.write_bytes(lzma.compress(data))
    elif ending == ".zst":
        zstd = pytest.importorskip("backports.zstd", reason="the package backports.zstd is not installed")
        half = data.index(b"\n", len(data) // 2)
        target.write_bytes(zstd.compress(data[:half]) + zstd.compress(data[half:]))  # two frames, as pzstd writes
    return target


@pytest.fixture
def sides(tmp_path: Path) -> list[Path]:
    return [preparing.write(tmp_path / "t.de", GERMAN), preparing.write(tmp_path / "t.en", ENGLISH)]


@pytest.mark.parametrize("ending", [".gz", ".bz2", ".xz", ".zst", ".tsv", ".tsv.gz"])
def test_compressed_and_tabulated_text_is_the_same_text(tmp_path: Path, sides: list[Path], ending: str) -> None:
    languages, sizes = ("de", "en"), (20, 30, 1)
    expected = held_out(tmp_path / "plain", custom.whole_text(languages, sides, *sizes))
    if "tsv" in ending:
        pairs = [f"{a}\t{b}" for a, b in zip(GERMAN, ENGLISH, strict=True)]
        given = [preparing.write(tmp_path / "t.tsv", pairs)]
        given = [compress(given[0], ".gz")] if ending.endswith(".gz") else given
    else:
        given = [compress(path, ending) for path in sides]
        assert custom.whole_text(languages, given, *sizes).origin == custom.whole_text(languages, sides, *sizes).origin
        for path in sides:
            path.unlink()  # prefixes find the compressed ones then
        ready = custom.ready_splits(languages, *[str(tmp_path / "t")] * 2, [str(tmp_path / "t")])
        assert held_out(tmp_path / "ready", ready)["train.de"] == "".join(f"{line}\n" for line in GERMAN).encode()
        bare = given[0].rename(tmp_path / "t.de")  # by its first bytes
        given = [bare, given[1]]
    assert held_out(tmp_path / "out", custom.whole_text(languages, given, *sizes)) == expected


@pytest.mark.parametrize(("ending", "kind"), [(".gz", "gzip"), (".bz2", "bzip2"), (".xz", "xz"), (".zst", "zstd")])
def test_a_compressed_file_cut_short(tmp_path: Path, sides: list[Path], ending: str, kind: str) -> None:
    whole = compress(sides[0], ending)
    data = whole.read_bytes()
    for content in (data[: len(data) // 2], data[:-3], b"plain text\n"):
        whole.write_bytes(content)
        done = preparing.prepare("custom", whole, sides[1], tmp_path / "out", check=False)
        assert f"{whole} is an incomplete or damaged {kind} file" in preparing.the_sentence(done)
        assert not (tmp_path / "out").exists()
    sides[0].write_bytes(data[:-3])  # known by its first bytes
    done = preparing.prepare("custom", *sides, tmp_path / "out", check=False)
    assert f"{sides[0]} is an incomplete or damaged {kind} file" in preparing.the_sentence(done)


@pytest.mark.parametrize(("line", "columns"), [("only one", 1), ("one\ttwo\tthree", 3)])
def test_a_table_with_other_columns(tmp_path: Path, line: str, columns: int) -> None:
    path = preparing.write(tmp_path / "t.tsv", ["a\tb", "", line])
    done = preparing.prepare("custom", path, tmp_path / "out", "-s", "de", "-t", "en", check=False)
    assert f"t.tsv, line 3, has {columns} columns: expected source, tab, target" in preparing.the_sentence(done)


def test_a_table_by_the_command(tmp_path: Path, sides: list[Path]) -> None:
    """Held out of it as of two files, with the same bytes in the end."""
    sizes = ["--valid-size", 20, "--test-size", 30, "--vocab-size", 90, "-s", "de", "-t", "en"]
    table = preparing.write(tmp_path / "t.tsv", [f"{a}\t{b}" for a, b in zip(GERMAN, ENGLISH, strict=True)])
    for name, given in (("two", sides), ("one", [table])):
        preparing.prepare("custom", *given, tmp_path / name, *sizes)
    two, one = (preparing.contents(tmp_path / name) for name in ("two", "one"))
    assert [path for path in two if two[path] != one[path]] == ["prepare.json"]  # which has the input
    assert two.keys() == one.keys()


def learning(folder: Path, sample: int, seed: int = 1) -> Learning:
    return Learning("sentencepiece", 90, 1.0, folder, ("de", "en"), 300, sample, seed, folder / "model")


def test_a_sample_for_bpe(tmp_path: Path) -> None:
    """Whole and in its order where the corpus is small enough; otherwise pairs, the same ones for the same seed."""
    for language, lines in (("de", GERMAN), ("en", ENGLISH)):
        preparing.write(tmp_path / f"train.{language}", lines)
    assert list(learning(tmp_path, 300).sentences()) == [*GERMAN, *ENGLISH]
    chosen = list(learning(tmp_path, 40).sentences())
    numbers = [GERMAN.index(line) for line in chosen[:40]]
    assert numbers == sorted(set(numbers))
    assert chosen[40:] == [ENGLISH[i] for i in numbers]
    assert list(learning(tmp_path, 40).sentences()) == chosen != list(learning(tmp_path, 40, seed=2).sentences())
    often = Counter(line for seed in range(400) for line in list(learning(tmp_path, 150, seed).sentences())[:150])
    assert len(often) == 300
    assert min(often.values()) > 130  # of 200 expected, with a deviation of 10
    assert max(often.values()) < 270


def test_the_sample_is_a_setting(tmp_path: Path, sides: list[Path]) -> None:
    arguments = ["custom", *sides, tmp_path / "out", "--vocab-size", 90, "--bpe-sample"]
    done = preparing.prepare(*arguments, 50)
    assert "on 50 of 270 training pairs" in done.stdout
    sentence = preparing.the_sentence(preparing.prepare(*arguments, 60, check=False))
    assert "bpe-sample [50, 1], now [60, 1]" in sentence


def killed(number: int) -> int:
    if number == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_a_worker_that_is_killed() -> None:
    """As the kernel does where the memory is full."""
    with pytest.raises(UserError, match="a worker process was killed"):
        list(in_order(killed, range(100), 2))


def test_work_is_taken_in_order_and_a_little_at_a_time() -> None:
    taken = []
    results = in_order(abs, (taken.append(i) or -i for i in range(1000)), 2)
    assert [next(results) for _ in range(10)] == list(range(10))
    assert len(taken) < 20
    assert list(results) == list(range(10, 1000))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sharded")
    sides = [preparing.write(folder / "t.de", GERMAN), preparing.write(folder / "t.en", ENGLISH)]
    sizes = ["--valid-size", 30, "--test-size", 30, "--vocab-size", 90]
    done = preparing.prepare("custom", *sides, folder / "out", *sizes, "--shard-size", 200)
    assert f"as {folder / 'out/data-bin'}:{folder / 'out/data-bin1'}" in done.stdout
    preparing.prepare("custom", *sides, folder / "whole", *sizes)
    return folder


def numbers(folder: Path, split: str, language: str) -> list[list[int]]:
    from fairseq.data import Dictionary, data_utils

    dictionary = Dictionary.load(str(folder / f"dict.{language}.txt"))
    data = data_utils.load_indexed_dataset(str(folder / f"{split}.de-en.{language}"), dictionary)
    return [data[i].tolist() for i in range(len(data))]


def test_two_shards_are_the_whole(sharded: Path) -> None:
    first, second, whole = (sharded / name for name in ("out/data-bin", "out/data-bin1", "whole/data-bin"))
    for language in ("de", "en"):
        parts = [numbers(folder, "train", language) for folder in (first, second)]
        assert list(map(len, parts)) == [200, 40]
        assert parts[0] + parts[1] == numbers(whole, "train", language)
        for name in (f"dict.{language}.txt", f"valid.de-en.{language}.bin", f"test.de-en.{language}.idx"):
            assert (first / name).read_bytes() == (whole / name).read_bytes()
        assert (first / f"dict.{language}.txt").read_bytes() == (second / f"dict.{language}.txt").read_bytes()
    assert PreparedData.read(sharded / "out").training_data == f"{first}:{second}"
    assert PreparedData.read(sharded / "whole").training_data == str(whole)


def test_fairseq_trains_on_two_shards(sharded: Path, tmp_path: Path, run_fairseq: Callable[..., Any]) -> None:
    data = PreparedData.read(sharded / "out").training_data
    flags = ("--task", "translation_dsp", "--max-epoch", 2, "--max-update", 0, "--max-tokens", 2000)
    args = support.tiny_train_args(data, tmp_path / "run", *flags, arch="transformer_dsp")
    printed = run_fairseq("train", *args).stdout
    for name, size in (("data-bin", 200), ("data-bin1", 40)):
        assert f"loaded {size} examples from: {sharded / 'out' / name}/train.de-en.de" in printed
    assert "end of epoch 2" in printed


def test_a_shard_is_missing(sharded: Path, tmp_path: Path) -> None:
    """Told before the training starts, and not when its turn comes."""
    copy = tmp_path / "copy"
    shutil.copytree(sharded / "out", copy)
    shutil.rmtree(copy / "data-bin1")
    with pytest.raises(UserError, match="data-bin1 is missing"):
        PreparedData.read(copy)
    command = [support.REPOSITORY / "scripts/train.sh", copy, tmp_path / "run"]
    done = support.run_command(command, check=False, PYTHON=sys.executable)
    assert done.returncode == 1
    assert "data-bin1 is missing" in done.stdout.splitlines()[-1]


def test_a_lost_shard_is_made_again_and_old_ones_go(sharded: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(sharded / "out", out)
    arguments = ["custom", sharded / "t.de", sharded / "t.en", out, "--valid-size", 30, "--test-size", 30]
    arguments += ["--vocab-size", 90, "--shard-size"]
    shutil.rmtree(out / "data-bin1")
    assert preparing.prepare(*arguments, 200).stdout.count("already there") == 4
    assert preparing.contents(out) == preparing.contents(sharded / "out")
    assert "nothing to do" in preparing.prepare(*arguments, 200).stdout
    assert "shard-size 200, now 300" in preparing.the_sentence(preparing.prepare(*arguments, 300, check=False))
    preparing.prepare(*arguments, 300, "--force")
    assert not (out / "data-bin1").exists()


def test_another_preparation_in_its_place(tmp_path: Path, sides: list[Path]) -> None:
    """It is what it would be in a folder of its own, also in a process that has made the first one."""
    flags = ["--valid-size", 20, "--test-size", 20, "--vocab-size", 80]
    arguments = ["custom", *sides, tmp_path / "out"]
    preparing.prepare(*arguments, "--vocab-size", 90, "--lowercase", "--shard-size", 100)
    preparing.prepare(*arguments, *flags, "--force")
    preparing.prepare("custom", *sides, tmp_path / "own", *flags)
    assert preparing.contents(tmp_path / "out") == preparing.contents(tmp_path / "own")


def test_killed_while_an_old_stage_is_removed(tmp_path: Path, sides: list[Path]) -> None:
    arguments = ["custom", *sides, tmp_path / "out", "--valid-size", 20, "--test-size", 20, "--vocab-size"]
    preparing.prepare(*arguments, 90)

    def half(folder: Path, **_: Any) -> None:
        (folder / stages.STAMP).unlink()
        os.kill(os.getpid(), signal.SIGKILL)

    def prepared_and_killed() -> None:
        stages.shutil.rmtree = half
        preparing.prepare(*arguments, 80, "--force")

    process = get_context("fork").Process(target=prepared_and_killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    preparing.prepare(*arguments, 80)
    preparing.prepare(*arguments[:3], tmp_path / "own", *arguments[4:], 80)
    assert preparing.contents(tmp_path / "out") == preparing.contents(tmp_path / "own")
    assert not list((tmp_path / "out").glob(".*"))


NOISY_DE = [*GERMAN, "ja " * 30, "eins zwei drei vier fünf", GERMAN[5], GERMAN[5], "ﬁnden …", " \u200b"]
NOISY_EN = [*ENGLISH, "yes " * 30, "one", ENGLISH[5], "It is another translation of it, too.", "ﬁnd …", "blank"]


def test_cleaning_on_demand(tmp_path: Path) -> None:
    """Of the training text alone: the held-out pairs stay the same."""
    sides = [preparing.write(tmp_path / "t.de", NOISY_DE), preparing.write(tmp_path / "t.en", NOISY_EN)]
    # with this seed, none of the further pairs is held out
    arguments = ["custom", *sides, "--vocab-size", 120, "--valid-size", 30, "--test-size", 30, "--seed", 2]
    preparing.prepare(*arguments[:3], tmp_path / "plain", *arguments[3:])
    flags = ["--max-words", 25, "--max-ratio", 2, "--deduplicate", "--normalise", "nfkc"]
    done = preparing.prepare(*arguments[:3], tmp_path / "clean", *arguments[3:], *flags)
    plain, clean = (json.loads((tmp_path / name / "prepare.json").read_text()) for name in ("plain", "clean"))
    assert plain["left_out"] == {"train": {"blank": 1}}
    assert clean["left_out"] == {"train": {"blank": 1, "words": 1, "ratio": 1, "duplicate": 1}}
    for told in ("1 pairs of more words than --max-words", "1 pairs that had occurred before"):
        assert f"train: left out {told}" in done.stdout
    assert (plain["pairs"]["train"], clean["pairs"]["train"]) == (245, 242)
    assert clean["normalise"] == "nfkc"
    assert (plain["rewritten"], clean["rewritten"]) == ({}, {"train": {"nfkc": 1}})
    text = preparing.lines(tmp_path / "clean/raw/train.de")
    assert "finden ..." in text
    assert text.count(GERMAN[5]) == 2  # with another translation it is another pair
    for split in ("valid", "test"):
        for language in ("de", "en"):
            name = f"raw/{split}.{language}"
            assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "clean" / name).read_bytes()


def test_nothing_is_cleaned_out_of_a_test_set(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        preparing.write(tmp_path / f"{split}.de", NOISY_DE)
        preparing.write(tmp_path / f"{split}.en", NOISY_EN)
    corpus = custom.ready_splits(
        ("de", "en"), *(str(tmp_path / s) for s in ("train", "valid")), [str(tmp_path / "test")]
    )
    found = held_out(tmp_path / "raw", corpus, Cleaning(25, 2.0, True))
    assert found["test.de"] == found["valid.de"] == "".join(f"{x.strip()}\n" for x in NOISY_DE[:-1]).encode()
    assert len(found["train.de"].splitlines()) == len(NOISY_DE) - 4


def test_characters_are_counted_where_there_are_no_spaces(tmp_path: Path) -> None:
    texts = Texts(tmp_path, ("zh", "en"), Cleaning(max_words=8, max_ratio=3))
    texts.write(
        "train", [("你好，世界！", "Hello, world!"), ("这是一个很长的句子。", "Long."), ("你好，世界！好。", "Hi.")]
    )
    assert texts.finish(["train"])["left_out"] == {"train": {"words": 1, "ratio": 1}}


def test_everything_is_cleaned_out(tmp_path: Path, sides: list[Path]) -> None:
    done = preparing.prepare("custom", *sides, tmp_path / "out", "--max-words", 2, check=False)
    assert "train has no pair with text on both sides after cleaning" in preparing.the_sentence(done)
    assert not (tmp_path / "out").exists()


def test_memory_of_a_choice_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The places of the pairs are looked for block by block."""
    monkeypatch.setattr(custom, "BLOCK", 7)
    single = np.random.default_rng(1).random(500) < 0.7
    expected = sorted(random.Random(2).sample(np.flatnonzero(single).tolist(), 60))
    assert sorted(custom.choose(single, 20, 40, 2)) == expected
