"""Sentence pairs from the files in which SICK, SNLI and MNLI come."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import preparing
import pytest

pytest.importorskip("tokenizers", reason="the extra nli is not installed")
from fairseq_dsp.errors import UserError
from fairseq_dsp.preparation.nli_layouts import read_corpus
from fairseq_dsp.wordpiece import WordPiece

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "crab", "play", "##s", "sleep", "newt", "no", "."]
PAIRS = [
    ("A crab plays.", "A crab sleeps.", "contradiction"),
    ("A newt sleeps.", "A newt plays.", "neutral"),
    ("A crab sleeps.", "A crab sleeps.", "entailment"),
    ("No crab plays.", "A crab plays.", "contradiction"),
]
HEADERS = {
    "sick": "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment",
    "snli": "gold_label\tsentence1\tsentence2",
    "mnli": "index\tsentence1\tsentence2\tlabel1\tgold_label",
}


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The dictionary and tokeniser of an encoder."""
    folder = tmp_path_factory.mktemp("encoder")
    pieces = WordPiece.make(PIECES, lowercase=True, strip_accents=None, split_chinese=True)
    pieces.save(folder / "wordpiece.json")
    (folder / "dict.txt").write_text("".join(f"{piece} 1\n" for piece in PIECES[4:]))
    return folder


def table(path: Path, corpus: str, pairs: list[tuple[str, str, str]]) -> None:
    cells = {
        "sick": lambda a, b, label: ("1", a, b, "3.3", label.upper()),
        "snli": lambda a, b, label: (label, a, b),
        "mnli": lambda a, b, label: ("1", a, b, label, label),
    }[corpus]
    lines = [HEADERS[corpus], *("\t".join(cells(*pair)) for pair in pairs)]
    path.write_text("".join(f"{line}\n" for line in lines))


def sick(folder: Path) -> None:
    table(folder / "SICK_train.txt", "sick", PAIRS)
    table(folder / "SICK_trial.txt", "sick", PAIRS[:1])
    table(folder / "SICK_test_annotated.txt", "sick", [PAIRS[1], *PAIRS[1:2]])


def snli(folder: Path) -> None:
    table(folder / "snli_1.0_train.txt", "snli", [*PAIRS, ("A newt.", "A crab.", "-")])
    table(folder / "snli_1.0_dev.txt", "snli", PAIRS[:1])
    table(folder / "snli_1.0_test.txt", "snli", PAIRS[1:2])


def snli_without_training(folder: Path) -> None:
    for split, pairs in (("dev", PAIRS), ("test", PAIRS[1:2])):
        for name, column in zip(("s1", "s2", "labels"), zip(*pairs, strict=True), strict=True):
            (folder / f"{name}.{split}").write_text("".join(f"{line}\n" for line in column))


def mnli(folder: Path) -> None:
    table(folder / "train.tsv", "mnli", PAIRS)
    table(folder / "dev_matched.tsv", "mnli", PAIRS[1:2])
    table(folder / "dev_mismatched.tsv", "mnli", [("A newt.", "No newt.", "contradiction")])


@pytest.mark.parametrize(
    ("write", "sizes", "names"),
    [
        (sick, {"train": 3, "valid": 1, "test": 2}, ["sick"]),
        (snli, {"train": 3, "valid": 1, "test": 1}, ["snli"]),
        (snli_without_training, {"train": 2, "valid": 1, "test": 1}, ["snli"]),
        (mnli, {"train": 2, "valid": 1, "test": 1, "test1": 1}, ["mnli-matched", "mnli-mismatched"]),
    ],
)
def test_each_layout(tmp_path: Path, encoder: Path, write: Callable[[Path], None], sizes: dict, names: list) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    raw.mkdir()
    write(raw)
    held_out = write in (mnli, snli_without_training)
    command = ("nli", out, "--raw-dir", raw, "--encoder", encoder, *(("--valid-size", 1) if held_out else ()))
    done = preparing.prepare(*command)
    assert "left out 1 training pairs that recur in a test set" in done.stdout
    summary = json.loads((out / "prepare.json").read_text())
    assert summary["pairs"] == sizes
    assert list(summary["test_sets"].values()) == names
    assert summary["left_out"] == 1
    assert (out / "data-bin/label/dict.txt").read_text().split()[::2][:3] == ["entailment", "neutral", "contradiction"]
    for split, size in sizes.items():
        for name in ("input0", "input1", "label"):
            assert (out / f"data-bin/{name}/{split}.bin").stat().st_size > 0
            assert len(preparing.lines(out / f"pieces/{split}.{name}")) == size
    assert preparing.lines(out / "pieces/test.input0")[0] == "a newt sleep ##s ."
    assert "nothing to do" in preparing.prepare(*command).stdout


def test_a_pair_that_occurs_twice_is_not_held_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mnli(tmp_path)
    twice = [(f"A newt, no. {i}.", "It sleeps.", "neutral") for i in range(9)] * 2
    once = [("One newt.", "It sleeps.", "neutral"), ("Two newts.", "They sleep.", "neutral")]
    table(tmp_path / "train.tsv", "mnli", [*twice, *once])
    corpus = read_corpus(tmp_path, held_out=2, seed=1)
    assert corpus.texts["valid"] == once
    with pytest.raises(UserError, match=r"3 pairs are to be held out .* 20 to train on, of which 2 occur once"):
        read_corpus(tmp_path, held_out=3, seed=1)
    table(tmp_path / "train.tsv", "mnli", [twice[0]] * 2 + twice[1:8])  # an earlier version drew from all
    assert read_corpus(tmp_path, held_out=3, seed=1).held_out == [3, 1, "of pairs that occur once"]
    sick(tmp_path)
    for name in ("train.tsv", "dev_matched.tsv", "dev_mismatched.tsv"):
        (tmp_path / name).unlink()
    table(tmp_path / "SICK_trial.txt", "sick", PAIRS[2:])
    table(tmp_path / "SICK_train.txt", "sick", PAIRS[2:])
    capsys.readouterr()
    read_corpus(tmp_path, held_out=1, seed=1)
    assert (
        f"{len(PAIRS[2:])} of {len(PAIRS[2:])} validation pairs are in the training text too" in capsys.readouterr().out
    )


def test_compressed_files_are_the_same_corpus(tmp_path: Path, encoder: Path) -> None:
    snli(tmp_path)
    command = ("nli", tmp_path / "out", "--raw-dir", tmp_path, "--encoder", encoder)
    preparing.prepare(*command)
    preparing.compress(tmp_path)
    assert "nothing to do" in preparing.prepare(*command).stdout


def test_a_training_pair_recurs_in_other_capitals_too(tmp_path: Path, encoder: Path) -> None:
    """An encoder without capitals sees no difference."""
    sick(tmp_path)
    table(tmp_path / "SICK_train.txt", "sick", [(PAIRS[1][0].upper(), *PAIRS[1][1:]), *PAIRS])
    done = preparing.prepare("nli", tmp_path / "out", "--raw-dir", tmp_path, "--encoder", encoder)
    assert "left out 2 training pairs" in done.stdout


def test_a_pair_that_is_too_long_is_cut_and_told(tmp_path: Path, encoder: Path) -> None:
    sick(tmp_path)
    command = ("nli", tmp_path / "out", "--raw-dir", tmp_path, "--encoder", encoder, "--max-positions", 11)
    assert "test: 2 of 2 pairs have more than 11 tokens" in preparing.prepare(*command).stdout
    assert preparing.lines(tmp_path / "out/pieces/test.input0")[0] == "a newt sleep ##s"
    assert preparing.lines(tmp_path / "out/pieces/test.input1")[0] == "a newt play ##s"


def test_a_pair_has_as_many_tokens_as_the_encoder_takes(tmp_path: Path, encoder: Path) -> None:
    sick(tmp_path)
    small = tmp_path / "small"
    shutil.copytree(encoder, small)
    settings = {"lowercase": True, "strip_accents": None, "split_chinese": True}
    WordPiece.make(PIECES, **settings, positions=11).save(small / "wordpiece.json")
    assert WordPiece.read(small / "wordpiece.json").encode(["crab " * 20]) == [" ".join(["crab"] * 20)]
    command = ("nli", tmp_path / "out", "--raw-dir", tmp_path, "--encoder", small)
    assert "test: 2 of 2 pairs have more than 11 tokens" in preparing.prepare(*command).stdout
    assert json.loads((tmp_path / "out/prepare.json").read_text())["max_positions"] == 11
    done = preparing.prepare(*command, "--max-positions", 12, check=False)
    assert "--max-positions is 12, but the encoder in" in preparing.the_sentence(done)


@pytest.mark.parametrize(
    ("pair", "sentence"),
    [
        (("A crab.", "A newt.", "maybe"), "SICK_trial.txt, line 2: the label is 'maybe', but one of entailment"),
        (("A crab.", " ", "neutral"), "SICK_trial.txt, line 2: the second sentence is empty"),
        (("A crab.\tA newt.\t1\tNEUTRAL\nx\ty", "A", "neutral"), "line 3, has"),
        (("A crab", "A\tnewt", "neutral"), "line 2, has 6 columns, but its header has 5"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, encoder: Path, pair: tuple[str, str, str], sentence: str) -> None:
    sick(tmp_path)
    table(tmp_path / "SICK_trial.txt", "sick", [pair])
    if "line 3" in sentence:
        (tmp_path / "SICK_trial.txt").write_text(f"{HEADERS['sick']}\n1\ta\tb\t3\tNEUTRAL\n1\ta\tb\n")
    done = preparing.prepare("nli", tmp_path / "out", "--raw-dir", tmp_path, "--encoder", encoder, check=False)
    assert sentence in preparing.the_sentence(done)
    assert not (tmp_path / "out").exists()


def test_what_is_no_corpus_or_encoder_is_refused(tmp_path: Path, encoder: Path) -> None:
    command = ("nli", tmp_path / "out", "--raw-dir", tmp_path, "--encoder")
    assert "does not hold the files of a known corpus" in preparing.the_sentence(
        preparing.prepare(*command, encoder, check=False)
    )
    assert "dict.txt is missing" in preparing.the_sentence(preparing.prepare(*command, tmp_path, check=False))
    sick(tmp_path)
    header = HEADERS["sick"].replace("sentence_B", "other")
    (tmp_path / "SICK_train.txt").write_text(f"{header}\n1\ta\tb\t3\tNEUTRAL\n")
    done = preparing.prepare(*command, encoder, check=False)
    assert "has no column sentence_B or sentence2" in preparing.the_sentence(done)
    assert not (tmp_path / "out").exists()


def test_what_leaves_nothing_to_train_on_or_hold_out_is_refused(tmp_path: Path, encoder: Path) -> None:
    sick(tmp_path)
    command = ("nli", tmp_path / "out", "--raw-dir", tmp_path, "--encoder", encoder)
    done = preparing.prepare(*command, "--valid-size", 7, check=False)
    assert "--valid-size 7 is given, but" in preparing.the_sentence(done)
    done = preparing.prepare("nli", tmp_path / "a:b", *command[2:], check=False)
    assert "has a colon in its path" in preparing.the_sentence(done)
    table(tmp_path / "SICK_train.txt", "sick", PAIRS[1:2])
    done = preparing.prepare(*command, check=False)
    assert "all 1 training pairs" in preparing.the_sentence(done)
    table(tmp_path / "SICK_train.txt", "sick", [("A\0crab.", "A newt.", "neutral")])
    assert "line 2, holds a NUL character" in preparing.the_sentence(preparing.prepare(*command, check=False))
    table(tmp_path / "SICK_train.txt", "sick", [("\ue000\x01", "A newt.", "neutral")])
    done = preparing.prepare(*command, check=False)
    said = preparing.the_sentence(done)
    assert "1 pairs of train have a sentence without any WordPiece" in said
    assert r"the first of them ('\ue000\x01', 'A newt.'): remove them" in said


def test_only_a_line_feed_ends_a_row(tmp_path: Path, encoder: Path) -> None:
    sick(tmp_path)
    rows = ["1\tA\rcrab\u2581plays.\tA newt.\t3.3\tNEUTRAL\r\n", "2\tNo crab.\tA newt.\t3\tNEUTRAL\r\n"]
    text = f"{HEADERS['sick']}\r\n{''.join(rows)}"
    (tmp_path / "SICK_train.txt").write_bytes(text.encode())
    done = preparing.prepare("nli", tmp_path / "out", "--raw-dir", tmp_path, "--encoder", encoder)
    assert "1 characters U+2581" in done.stdout
    assert preparing.lines(tmp_path / "out/raw/train.input0") == ["A crab plays.", "No crab."]
    assert preparing.lines(tmp_path / "out/pieces/train.input0") == ["a crab play ##s .", "no crab ."]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["hello 1", "world 1"], "lacks 9 of the 9 words of wordpiece.json, such as ##s"),
        (
            [f"{piece} 1" for piece in PIECES[4:] if piece != "no"],
            "lacks 1 of the 9 words of wordpiece.json, such as no",
        ),
        (["crab"], "is not a dictionary of fairseq's"),
        (["crab 1", "crab 1"], "is not a dictionary of fairseq's"),
    ],
)
def test_a_dictionary_that_is_not_the_tokenisers(
    tmp_path: Path, encoder: Path, words: list[str], sentence: str
) -> None:
    sick(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(encoder, other)
    preparing.write(other / "dict.txt", words)
    done = preparing.prepare("nli", tmp_path / "out", "--raw-dir", tmp_path, "--encoder", other, check=False)
    assert sentence in preparing.the_sentence(done)
    assert not (tmp_path / "out").exists()
