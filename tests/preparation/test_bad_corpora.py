"""Bad input: one clear sentence, exit status not 0, nothing half-written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import preparing
import pytest

GOOD = [f"Satz Nummer {i} hat etwas Text." for i in range(60)]


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """A folder like Multi30k's, with nothing wrong."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("train", "val", "test_2016_flickr"):
        for language in ("de", "en"):
            preparing.write(folder / f"{name}.{language}", GOOD)
    return folder


BREAKING: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "shorter": (lambda raw: preparing.write(raw / "train.en", GOOD[:-1]), ["train.de has 60", "train.en has 59"]),
    "empty": (lambda raw: (raw / "val.de").write_text(""), ["val.de is empty"]),
    "blank": (lambda raw: (raw / "val.de").write_text(" \n" * 60), ["val.de is empty"]),
    "latin-1": (
        lambda raw: (raw / "train.de").write_bytes("gut\n\nschön\n".encode("latin-1")),
        ["train.de, line 3, is not UTF-8", "iconv"],
    ),
    "utf-16": (lambda raw: (raw / "train.de").write_bytes("\n".join(GOOD).encode("utf-16")), ["train.de", "UTF-8"]),
    "binary": (lambda raw: (raw / "train.en").write_bytes(b"one\ntw\0o\n"), ["train.en, line 2", "NUL"]),
    "missing": (
        lambda raw: (raw / "test_2016_flickr.en").unlink(),
        ["neither test_2016_flickr.en nor test_2016_flickr.en.gz"],
    ),
    "half a test set": (
        lambda raw: preparing.write(raw / "test_2017_flickr.de", GOOD),
        ["neither test_2017_flickr.en nor test_2017_flickr.en.gz"],
    ),
    "truncated gzip": (
        lambda raw: (
            (raw / "train.de").unlink(),
            (raw / "train.de.gz").write_bytes(gzip.compress("\n".join(GOOD).encode())[:-20]),
        ),
        ["train.de.gz is an incomplete or damaged gzip file"],
    ),
    "not gzip": (
        lambda raw: ((raw / "train.de").unlink(), (raw / "train.de.gz").write_text("text")),
        ["train.de.gz is an incomplete or damaged gzip file"],
    ),
    "folder": (lambda raw: ((raw / "val.en").unlink(), (raw / "val.en").mkdir()), ["val.en"]),
    "unlike": (
        lambda raw: (
            preparing.write(raw / "val.de", ["text", ""]),
            preparing.write(raw / "val.en", ["", "text"]),
        ),
        ["valid has no pair with text on both sides after cleaning"],
    ),
}


@pytest.mark.parametrize("case", BREAKING)
def test_bad_text(raw: Path, tmp_path: Path, case: str) -> None:
    spoil, told = BREAKING[case]
    spoil(raw)
    done = preparing.prepare("multi30k", tmp_path / "new" / "out", "--raw-dir", raw, "--vocab-size", 60, check=False)
    sentence = preparing.the_sentence(done)
    assert all(words in sentence for words in told), sentence
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw"]


@pytest.mark.parametrize(
    ("size", "told"),
    [(100_000, "yields at most"), (5, "characters of this training text"), (3_000_000_000, "cannot parse")],
)
def test_vocabulary_that_does_not_fit(raw: Path, tmp_path: Path, size: int, told: str) -> None:
    out = tmp_path / "out"
    sentence = preparing.the_sentence(
        preparing.prepare("multi30k", out, "--raw-dir", raw, "--vocab-size", size, check=False)
    )
    assert f"--vocab-size {size}" in sentence
    assert told in sentence
    assert sorted(path.name for path in out.iterdir()) == ["raw"]  # whole, for the next try


def test_codes_that_are_none(corpora: Path, tmp_path: Path) -> None:
    folder = tmp_path / "raw"
    folder.mkdir()
    for name in ("train", "valid", "test"):
        for language in ("de", "en"):
            preparing.write(folder / f"{name}.{language}", GOOD)
    preparing.write(folder / "code", ["not merges"])
    done = preparing.prepare("iwslt14", tmp_path / "out", "--raw-dir", folder, check=False)
    assert "table of BPE merges" in preparing.the_sentence(done)
    assert not (tmp_path / "out").exists()


def test_archive_that_lacks_the_training_text(corpora: Path, tmp_path: Path) -> None:
    done = preparing.prepare("iwslt14", tmp_path / "out", "--raw-dir", corpora / "iwslt14-raw", check=False)
    assert "train.tags.de-en.de is not in" in preparing.the_sentence(done)


def test_no_such_folder(tmp_path: Path) -> None:
    for corpus in ("multi30k", "iwslt14"):
        done = preparing.prepare(corpus, tmp_path / "out", "--raw-dir", tmp_path / "nowhere", check=False)
        assert "nowhere is not a folder" in preparing.the_sentence(done)


def test_output_is_a_file(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    done = preparing.prepare("multi30k", tmp_path / "out", "--raw-dir", raw, check=False)
    assert "is a file, but the output is a folder" in preparing.the_sentence(done)
    assert (tmp_path / "out").read_text() == "precious"
    (tmp_path / "link").symlink_to(tmp_path / "nowhere/out")
    done = preparing.prepare("multi30k", tmp_path / "link", "--raw-dir", raw, check=False)
    assert "link is a link that leads nowhere" in preparing.the_sentence(done)


def test_others_folders_are_left_alone(raw: Path, tmp_path: Path) -> None:
    """The output folder has a folder raw/ that no preparation made."""
    done = preparing.prepare("multi30k", tmp_path, "--raw-dir", raw, "--vocab-size", 60, check=False)
    assert "was not made by fairseq-dsp prepare" in preparing.the_sentence(done)
    assert len(list(raw.iterdir())) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_hidden_files_of_others_are_left_alone(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for name in (".work.tmp/file", ".cache.partial-thing/file", ".notes.tmp", ".raw.partial-1-2/half", ".me.partial-1"):
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("precious")
    preparing.prepare("multi30k", out, "--raw-dir", raw, "--vocab-size", 60)
    left = {path.name for path in out.iterdir() if path.name.startswith(".")}
    assert left == {".work.tmp", ".cache.partial-thing", ".notes.tmp", ".me.partial-1"}
    assert (out / ".work.tmp/file").read_text() == "precious"


def test_a_stage_on_another_disk_is_replaced(raw: Path, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    command = ("multi30k", out, "--raw-dir", raw, "--vocab-size")
    preparing.prepare(*command, 60)
    (out / "data-bin").rename(elsewhere)
    (out / "data-bin").symlink_to(elsewhere)
    assert "nothing to do" in preparing.prepare(*command, 60).stdout
    preparing.prepare(*command, 61, "--force")
    assert not (out / "data-bin").is_symlink()
    assert (elsewhere / "dict.de.txt").is_file(), "what the link led to stays"
    assert not list(out.glob(".*"))


def test_an_impossible_change_leaves_what_was_there(raw: Path, tmp_path: Path) -> None:
    command = ("multi30k", tmp_path / "out", "--raw-dir", raw, "--vocab-size")
    preparing.prepare(*command, 60)
    before = (tmp_path / "out/prepare.json").read_bytes()
    done = preparing.prepare(*command, 100_000, "--force", check=False)
    assert "does not fit" in preparing.the_sentence(done)
    assert (tmp_path / "out/prepare.json").read_bytes() == before
    assert "nothing to do" in preparing.prepare(*command, 60).stdout


def test_text_of_single_characters_has_nothing_to_merge(tmp_path: Path) -> None:
    text = [" ".join(f"{number:b}") for number in range(256, 376)]
    paths = [preparing.write(tmp_path / f"t.{x}", text) for x in ("de", "en")]
    options = ("--bpe", "subword-nmt", "--tokenizer", "none", "--vocab-size", 9)
    done = preparing.prepare("custom", *paths, tmp_path / "out", *options, check=False)
    assert "there is nothing to merge" in preparing.the_sentence(done)


def test_fewer_merges_than_asked_for_are_told_and_recorded(tmp_path: Path) -> None:
    text = [f"a sentence no. {number}" for number in range(60)]
    paths = [preparing.write(tmp_path / f"t.{x}", text) for x in ("de", "en")]
    done = preparing.prepare("custom", *paths, tmp_path / "out", "--bpe", "subword-nmt", "--vocab-size", 900)
    made = len(preparing.lines(tmp_path / "out/bpe/bpecodes")) - 1
    assert made < 900
    assert f"this training text yields {made} merges" in done.stdout
    assert json.loads((tmp_path / "out/prepare.json").read_text())["vocab_size"] == made


@pytest.mark.parametrize("corpus", ["multi30k", "iwslt14"])
def test_an_address_that_is_none(tmp_path: Path, corpus: str) -> None:
    done = preparing.prepare(corpus, tmp_path / "out", "--url", "foo", check=False)
    assert "cannot download" in preparing.the_sentence(done)


def test_others_summary_is_left_alone(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "prepare.json").write_text("{}")
    done = preparing.prepare("multi30k", out, "--raw-dir", raw, check=False)
    assert "was not written by fairseq-dsp prepare" in preparing.the_sentence(done)


def test_too_little_text_to_hold_out(tmp_path: Path) -> None:
    source, target = preparing.write(tmp_path / "a.de", GOOD[:4]), preparing.write(tmp_path / "a.en", GOOD[:4])
    done = preparing.prepare("custom", source, target, tmp_path / "out", "--test-size", 4, check=False)
    assert "--test-size" in preparing.the_sentence(done)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments", [["--vocab-size", "0"], ["--workers", "-1"], ["--character-coverage", "2"], ["-s", "fr"]]
)
def test_values_out_of_range(tmp_path: Path, arguments: list[str]) -> None:
    done = preparing.prepare("phrases", tmp_path / "out", *arguments, check=False)
    assert arguments[0] in done.stderr.splitlines()[-1]
    assert done.returncode == 2
