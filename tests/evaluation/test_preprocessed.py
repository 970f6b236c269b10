"""Anyone's binarised corpus, with references given: evaluate and sweep need no preparation of this package."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support

from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation.preprocessed import flags, for_model, read_data
from fairseq_dsp.study.runs import expand
from fairseq_dsp.study.study_file import read_study


@pytest.fixture(scope="module")
def checkpoint(train_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    train_tiny(folder, "--source-lang", "xx", "--target-lang", "yy", arch="transformer_dsp")
    return folder / "checkpoint_last.pt"


@pytest.fixture
def references(tiny_data: Path) -> Path:
    return tiny_data.parent / "test.yy"


def evaluated(checkpoint: Path, folder: Path, *arguments: object) -> dict[str, Any]:
    flags = ["--beam", "1", "--cpu", "--json", str(folder / "scores.json")]
    assert main(["evaluate", str(checkpoint), *map(str, arguments), *flags]) == 0
    scores: dict[str, Any] = json.loads((folder / "scores.json").read_text())[0]
    for name in ("corpus", "sentences_per_second", "tokens_per_second"):
        scores.pop(name, None)
    return scores


def test_scores_are_those_of_the_preparation(
    checkpoint: Path, tiny_data: Path, prepared: Path, references: Path, tmp_path: Path
) -> None:
    """The words of the tiny corpus are not cut; undoing a BPE changes nothing."""
    expected = evaluated(checkpoint, tmp_path, "--data", prepared)
    assert evaluated(checkpoint, tmp_path, "--data", tiny_data, "--references", references) == expected
    bpe = ("--references", references, "--bpe", "subword_nmt")  # as fairseq spells it
    assert evaluated(checkpoint, tmp_path, "--data", tiny_data, *bpe) == expected


def test_files_that_are_named_after_the_other_direction(
    checkpoint: Path, tiny_data: Path, references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """fairseq trains models of both directions on one folder."""
    expected = evaluated(checkpoint, tmp_path, "--data", tiny_data, "--references", references)
    other = support.named_other_way_round(tiny_data, tmp_path / "other")
    assert evaluated(checkpoint, tmp_path, "--data", other, "--references", references) == expected
    note = "other are named yy-xx, but the model translates from xx into yy: .*test.yy is taken for yy\n"
    assert re.search(note, capsys.readouterr().err)
    for path in other.glob("test.*"):  # fairseq takes either order, for each text
        path.rename(other / path.name.replace(".yy-xx.", ".xx-yy."))
    assert evaluated(checkpoint, tmp_path, "--data", other, "--references", references) == expected


def test_a_study_has_the_direction_of_the_model_that_it_is_given(
    checkpoint: Path, tiny_data: Path, references: Path, tmp_path: Path, write_study: Callable[..., Path]
) -> None:
    other = support.named_other_way_round(tiny_data, tmp_path / "other")
    path = write_study(data=str(other), base={"checkpoint": str(checkpoint)}, methods=["michel"], heads=[6])
    study = read_study(path, text={"references": str(references)})
    assert study.data.language_flags == ["--source-lang", "xx", "--target-lang", "yy"]


def test_a_folder_of_several_languages(
    checkpoint: Path, tiny_data: Path, references: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The model says which of them, also where the first by name has another number of sentences."""
    data = tmp_path / "several"
    shutil.copytree(tiny_data, data)
    lines = (tiny_data.parent / "test.xx").read_text().splitlines(keepends=True)[:12]
    for language in ("aa", "yy"):
        (tmp_path / f"few.{language}").write_text("".join(lines))
    prefix = ["-s", "aa", "-t", "yy", "--testpref", tmp_path / "few", "--destdir", data]
    dictionaries = ["--srcdict", tiny_data / "dict.xx.txt", "--tgtdict", tiny_data / "dict.yy.txt"]
    (data / "dict.yy.txt").unlink()
    support.run_fairseq("preprocess", *prefix, *dictionaries)
    given = {"references": str(references)}
    assert read_data(data, "test", given).languages == ("aa", "yy")
    several = evaluated(checkpoint, tmp_path, "--data", data, "--references", references)
    assert "is taken for" not in capfd.readouterr().err
    alone = evaluated(checkpoint, tmp_path, "--data", tiny_data, "--references", references)
    assert (several["bleu"], several["sentences"]) == (alone["bleu"], 20)


def test_other_references_of_a_preparation(checkpoint: Path, prepared: Path, references: Path, tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.write_text("BA\n" * 20)
    same = evaluated(checkpoint, tmp_path, "--data", prepared)
    other = evaluated(checkpoint, tmp_path, "--data", prepared, "--references", own)
    assert same["bleu"] != other["bleu"]
    with pytest.raises(UserError, match="leave out bpe"):
        read_data(prepared, "test", {"references": str(own), "bpe": "none"})


def test_tokenised_text(tiny_data: Path, references: Path) -> None:
    from fairseq_dsp.evaluation.scoring import score

    given = {"references": str(references), "tokenizer": "moses", "lowercase": True}
    data = read_data(tiny_data, "test", given)
    perfect = [line.lower() for line in data.references("test")]
    assert {name: one["score"] for name, one in score(data, "test", perfect).items()} == {
        "tokenised_bleu": 100, "bleu": 100, "chrf": 100,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({}, "no prepared corpus"),
        ({"bpe": "none"}, "give its references too"),
        ({"references": "nowhere"}, "nowhere cannot be read"),
        ({"references": "latin"}, "latin, line 2, is not UTF-8 .byte 0xe9."),
        ({"references": "short"}, "has 3 lines, but the text test in .* has 20 sentences"),
        ({"references": "good", "bpe": "wordpiece"}, "bpe is 'wordpiece'"),
        (
            {"references": "good", "split": "valid1"},
            "neither a prepared corpus nor a data-bin with a text called valid1",
        ),
    ],
)
def test_what_does_not_fit(tiny_data: Path, tmp_path: Path, arguments: dict[str, Any], told: str) -> None:
    data = tmp_path / "bin"  # without a preparation around it
    shutil.copytree(tiny_data, data)
    (tmp_path / "short").write_text("a\nb\nc\n")
    (tmp_path / "good").write_text("a\n" * 20)
    (tmp_path / "latin").write_bytes(b"a\n\xe9\n" * 10)
    given = {key: str(tmp_path / value) if key == "references" else value for key, value in arguments.items()}
    split = given.pop("split", "test")
    with pytest.raises(UserError, match=told):
        for_model(read_data(data, split, given), {}, split)


@pytest.mark.parametrize(
    ("form", "bpe", "told"),
    [
        (
            "\u2581{}",
            "none",
            "bpe is none, but 4 of the 20 entries of .*dict.yy.txt start with \u2581, .*: give --bpe s",
        ),
        ("\u2581{}", "subword-nmt", "give --bpe sentencepiece"),
        (
            "{}@@",
            "none",
            "bpe is none, but 4 of the 20 entries of .*dict.yy.txt end with @@, .*: give --bpe subword-nmt",
        ),
        ("\u2581{}", "sentencepiece", None),
        ("{}@@", "subword-nmt", None),
        ("@{}", "none", None),
    ],
)
def test_subwords_that_a_dictionary_shows(
    tiny_data: Path, references: Path, tmp_path: Path, form: str, bpe: str, told: str | None
) -> None:
    data = tmp_path / "bin"
    shutil.copytree(tiny_data, data)
    lines = (data / "dict.yy.txt").read_text().splitlines()[:20]
    lines[:4] = [f"{form.format(word)} {count}" for word, count in map(str.split, lines[:4])]
    (data / "dict.yy.txt").write_text("".join(f"{line}\n" for line in lines))
    given = {"references": str(references), "bpe": bpe}
    if told:
        with pytest.raises(UserError, match=told):
            for_model(read_data(data, "test", given), {}, "test")
    else:
        for_model(read_data(data, "test", given), {}, "test")


def test_references_of_another_text_are_told(
    tiny_data: Path, references: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for_model(read_data(tiny_data, "test", {"references": str(references)}), {}, "test")
    assert capsys.readouterr().err == ""
    for_model(read_data(tiny_data, "test", {"references": str(references.with_suffix(".xx"))}), {}, "test")
    told = r"test.xx has little in common with the text test in .* in yy \(BLEU \d+\): are these its references"
    assert re.search(told, capsys.readouterr().err)


def test_short_references_are_those_of_their_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where no sentence has four words, there are no 4-grams to match."""
    for language, words in (("xx", "ba bo\nbi\n"), ("yy", "Do di\nda de\n")):
        for split in ("train", "test"):
            (tmp_path / f"{split}.{language}").write_text(words)
    prefixes = ["--trainpref", tmp_path / "train", "--testpref", tmp_path / "test", "--destdir", tmp_path / "bin"]
    support.run_fairseq("preprocess", "-s", "xx", "-t", "yy", *prefixes)
    for_model(read_data(tmp_path / "bin", "test", {"references": str(tmp_path / "test.yy")}), {}, "test")
    assert capsys.readouterr().err == ""


def test_only_its_own_folders_are_a_preparation(prepared: Path, references: Path, tmp_path: Path) -> None:
    data = tmp_path / "prepared"
    shutil.copytree(prepared, data)
    shutil.copytree(data / "data-bin", data / "other")
    for given in (None, {"references": str(references)}):
        assert read_data(data / "data-bin", "test", given).folder == data
    with pytest.raises(UserError, match=r"there is no folder .*typo"):
        read_data(data / "typo", "test")
    with pytest.raises(UserError, match="other holds no prepared corpus"):
        read_data(data / "other", "test")
    assert read_data(data / "other", "test", {"references": str(references)}).folder == data / "other"


def test_references_of_other_systems(tiny_data: Path, references: Path, tmp_path: Path) -> None:
    """A byte-order mark and Windows line ends are no text, and nothing else ends a line."""
    lines = references.read_text().splitlines()
    lines[3] += "\u2028\rba"
    (tmp_path / "own").write_bytes(b"\xef\xbb\xbf" + "".join(f"{line}\r\n" for line in lines).encode())
    assert read_data(tiny_data, "test", {"references": str(tmp_path / "own")}).references("test") == lines


@pytest.mark.parametrize(("ending", "left"), [("bin", 50), ("bin", 0), ("idx", 60), ("idx", 5), ("idx", 0)])
def test_a_text_that_is_cut_short(tiny_data: Path, references: Path, tmp_path: Path, ending: str, left: int) -> None:
    data = tmp_path / "bin"
    shutil.copytree(tiny_data, data)
    path = data / f"test.xx-yy.xx.{ending}"
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(
        UserError, match=r"test\.xx-yy\.xx\.bin and test\.xx-yy\.xx\.idx are damaged, or one of them is cut"
    ):
        for_model(read_data(data, "test", {"references": str(references)}), {}, "test")


def test_other_text_of_equal_size_is_another_corpus(tiny_data: Path, references: Path, tmp_path: Path) -> None:
    data, given = tmp_path / "bin", {"references": str(references)}
    shutil.copytree(tiny_data, data)
    assert read_data(data, "test", given).key == read_data(tiny_data, "test", given).key
    text = data / "train.xx-yy.xx.bin"
    numbers = text.read_bytes()
    text.write_bytes(numbers[2:] + numbers[:2])
    assert read_data(data, "test", given).key != read_data(tiny_data, "test", given).key


def test_a_text_that_fairseq_reads_as_a_whole(tiny_data: Path, references: Path, tmp_path: Path) -> None:
    """The format "cached": it is scored, but not distilled."""
    texts = tiny_data.parent
    prefix = ["-s", "xx", "-t", "yy", "--trainpref", texts / "train", "--testpref", texts / "test"]
    prefix += ["--destdir", tmp_path / "bin", "--dataset-impl", "cached"]
    prefix += ["--srcdict", tiny_data / "dict.xx.txt", "--tgtdict", tiny_data / "dict.yy.txt"]
    support.run_fairseq("preprocess", *prefix)
    data = read_data(tmp_path / "bin", "test", {"references": str(references)})
    assert len(data.references("test")) == 20
    with pytest.raises(UserError, match="is not of fairseq's format mmap, which distillation needs: binarise"):
        data.check_distillable()


def test_languages_with_hyphens(tiny_data: Path, tmp_path: Path, references: Path) -> None:
    data = tmp_path / "bin"
    prefix = ["--testpref", tmp_path / "t", "--destdir", data, "--source-lang", "zh-Hant", "--target-lang", "pt-BR"]
    for language, side in (("zh-Hant", "xx"), ("pt-BR", "yy")):
        shutil.copy(tiny_data.parent / f"test.{side}", tmp_path / f"t.{language}")
        prefix += [f"--{'src' if side == 'xx' else 'tgt'}dict", tiny_data / f"dict.{side}.txt"]
    support.run_fairseq("preprocess", *prefix)
    assert read_data(data, "test", {"references": str(references)}).languages == ("zh-Hant", "pt-BR")


def test_a_study(tiny_data: Path, references: Path, write_study: Callable[..., Path], tmp_path: Path) -> None:
    """Named in the study or on the command line, the evaluation is given the same, from any folder."""
    given = {"references": str(references), "bpe": "subword-nmt"}
    named = read_study(write_study(data={"folder": str(tiny_data), **given, "lowercase": False}))
    path = write_study(data=str(tiny_data))
    told = read_study(path, text=given)
    expected = ["--references", str(references.absolute()), "--bpe", "subword-nmt"]
    for study in (named, told):
        assert sorted(flags(study.data)) == sorted(expected)
        (evaluate,) = [s for s in expand(study, tmp_path)[0].steps if s.name == "evaluate"]
        assert set(expected) <= set(evaluate.command)
    assert named.data.key == told.data.key
    with pytest.raises(UserError, match="data-bin is described by folder"):
        read_study(write_study(data={"folder": str(tiny_data), "reference": "x"}))


def test_a_sweep(
    tiny_data: Path, references: Path, write_study: Callable[..., Path], tmp_path: Path, capsys: Any
) -> None:
    study = str(write_study(data="nowhere"))
    arguments = ["--data", str(tiny_data), "--references", str(references), "--lowercase", "--dry-run"]
    assert main(["sweep", study, "--results", str(tmp_path / "results"), *arguments]) == 0
    commands = [line for line in capsys.readouterr().out.splitlines() if "fairseq_dsp.cli evaluate" in line]
    assert len(commands) == 2
    assert all(f"--references {references.absolute()}" in line and "--lowercase" in line for line in commands)
