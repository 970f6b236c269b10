"""Binarised text, piece by piece, is byte for byte what fairseq-preprocess writes."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import preparing
import pytest

from fairseq_dsp.errors import UserError
from fairseq_dsp.preparation import binarise as module
from fairseq_dsp.preparation.binarise import binarise, check_dictionary, write_counts
from fairseq_dsp.preparation.vocabularies import make_dictionaries


def text(seed: int, lines: int) -> list[str]:
    """Lines of subwords, some of them fairseq's own symbols, some with ties in frequency."""
    draw = random.Random(seed)
    words = [*(f"▁w{i}" for i in range(40)), "@@", "é", "中文", "<s>", "</s>", "<pad>", "<unk>", "#fairseq:overwrite"]
    return [" ".join(draw.choice(words) for _ in range(draw.randint(1, 12))) for _ in range(lines)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for seed, language in enumerate(("xx", "yy")):
        preparing.write(tmp_path / f"train.{language}", text(seed, 3000))
        preparing.write(tmp_path / f"test.{language}", [*text(seed + 2, 40), "▁unseen ▁w1", "▁w2"])
    return tmp_path


def counts(path: Path) -> Counter[str]:
    return Counter(word for line in preparing.lines(path) for word in line.split())


@pytest.mark.parametrize("joined", [False, True])
def test_the_bytes_are_those_of_fairseq_preprocess(
    folder: Path, joined: bool, run_fairseq: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefixes = ("--trainpref", folder / "train", "--testpref", folder / "test", "--destdir", folder / "stock")
    flags = ("--source-lang", "xx", "--target-lang", "yy", *prefixes, *(["--joined-dictionary"] if joined else []))
    run_fairseq("preprocess", *flags)
    ours = folder / "ours"
    ours.mkdir()
    dictionaries = [ours / f"dict.{x}.txt" for x in ("xx", "yy")]
    words = [counts(folder / f"train.{x}") for x in ("xx", "yy")]
    make_dictionaries(words, dictionaries, (None, None), joined=joined)
    monkeypatch.setattr(module, "PIECE", 10_000)  # bytes: a dozen pieces
    for split in ("train", "test"):
        for dictionary, language in zip(dictionaries, ("xx", "yy"), strict=True):
            out = ours / f"{split}.xx-yy.{language}"
            binarise(folder / f"{split}.{language}", dictionary, out, workers=2)
    names = sorted(path.name for path in (folder / "stock").iterdir() if path.name != "preprocess.log")
    assert sorted(path.name for path in ours.iterdir()) == names
    assert len(names) == 10
    for name in names:
        assert (ours / name).read_bytes() == (folder / "stock" / name).read_bytes(), name


def test_a_part_of_a_text(folder: Path) -> None:
    """From the beginning of a line to the end of one, as a shard is cut."""
    from fairseq.data import Dictionary, data_utils

    path, dictionary = folder / "train.xx", folder / "dict.xx.txt"
    make_dictionaries([counts(path)] * 2, [dictionary, folder / "dict.yy.txt"], (None, None), joined=False)
    lines = [line + "\n" for line in preparing.lines(path)]
    start, end = (len("".join(lines[:n]).encode()) for n in (100, 250))
    binarise(path, dictionary, folder / "part", start=start, end=end, workers=1)
    known = Dictionary.load(str(dictionary))
    data = data_utils.load_indexed_dataset(str(folder / "part"), known)
    assert [data[i].tolist() for i in range(len(data))] == [
        known.encode_line(line, add_if_not_exist=False).tolist() for line in lines[100:250]
    ]


def test_a_ready_dictionary(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = Counter({"▁a": 50, "▁b": 49, "▁rare": 1})
    ready, out = folder / "ready.txt", [folder / "dict.xx.txt", folder / "dict.yy.txt"]
    write_counts(Counter({"▁b": 5, "▁a": 3}), ready)
    make_dictionaries([words, words], out, (ready, None), joined=True)
    assert out[0].read_bytes() == out[1].read_bytes() == ready.read_bytes() == "▁b 5\n▁a 3\n".encode()
    assert capsys.readouterr().out.count("1 of 100 subwords of the training text are not in it") == 2
    with pytest.raises(UserError, match="lacks 60% of the subwords of the training text, such as ▁other:"):
        # as of a dictionary of the source alone
        make_dictionaries([words, Counter({"▁other": 3, "▁a": 2})], out, (ready, None), joined=True)
    half = folder / "half.txt"
    write_counts(Counter({"▁b": 1}), half)
    with pytest.raises(UserError, match="lacks 50% of the subwords of the training text, such as ▁a:"):
        make_dictionaries([Counter({"▁a": 5, "▁b": 5}), words], out, (half, None), joined=False)


def test_a_dictionary_that_corrects_itself(tmp_path: Path) -> None:
    """fairseq's flag for a word that comes again, of which the last line counts."""
    (tmp_path / "dict.txt").write_text("a 5\nb 3\na 1 #fairseq:overwrite\n")
    words = check_dictionary(tmp_path / "dict.txt")
    assert [words.index(word) for word in ("a", "b")] == [6, 5]


@pytest.mark.parametrize(
    "content", [b"", b"word\n", b"word x\n", b"\xff 1\n", b"a 5\nb 3\na 1\n", b"<s> 1\n<pad> 1\n</s> 1\n<unk> 1\na 5\n"]
)
def test_what_is_no_dictionary(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "dict.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"dict\.txt is (not a dictionary|empty)"):
        check_dictionary(tmp_path / "dict.txt")
    with pytest.raises(UserError, match="is missing"):
        check_dictionary(tmp_path / "none.txt")
