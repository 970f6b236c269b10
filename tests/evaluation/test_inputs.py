"""Sentences and paths that fairseq-generate does not take as they are: evaluate does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
import torch

from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation.inputs import checkpoint_paths
from fairseq_dsp.study.study_file import read_study

POSITIONS = 12
WORDS = " ".join(f"{c}{v}" for c in "bdfgklm" for v in "aio")  # 21 words of the tiny corpus
EXTRA = [  # source, target
    (WORDS, "BA DA"),
    ("ba da", WORDS.upper()),
    ("", "BA"),
    ("\u200b", "BA"),
    (" ".join([WORDS] * 71), "FA"),  # 1,491 words
    (" ".join(WORDS.split()[: POSITIONS - 1]), "BA DA"),  # the first one, cut
]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny corpus with further test sentences, as a preparation in a folder with a colon and a comma."""
    text = tmp_path_factory.mktemp("text")
    support.write_tiny_corpus(text)
    for side, language in enumerate(("xx", "yy")):
        with (text / f"test.{language}").open("a", encoding="utf-8") as file:
            file.writelines(pair[side] + "\n" for pair in EXTRA)
    folder = tmp_path_factory.mktemp("prepared") / "a:b,c"
    prefixes = [word for split in ("train", "valid", "test") for word in (f"--{split}pref", text / split)]
    flags = ("--source-lang", "xx", "--target-lang", "yy", *prefixes, "--destdir", folder / "data-bin")
    support.run_fairseq("preprocess", *flags)
    shutil.copytree(text, folder / "raw")
    summary = {"source_lang": "xx", "target_lang": "yy", "data_bin": "data-bin", "bpe": "subword-nmt"}
    summary |= {"tokenizer": "none", "lowercase": False, "references": {"test": "raw/test.yy"}}
    (folder / "prepare.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def models(train_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints with few and with many positions, in a folder with a colon."""
    folder = tmp_path_factory.mktemp("models") / "x:y"
    for name, source in (("short", POSITIONS), ("long", 2048)):
        limits = ("--max-source-positions", source, "--max-target-positions", POSITIONS)
        train_tiny(folder / name, *limits, "--source-lang", "xx", "--target-lang", "yy", arch="transformer_dsp")
    return {name: folder / name / "checkpoint_last.pt" for name in ("short", "long")}


def evaluated(checkpoint: object, data: Path, folder: Path, *flags: str) -> tuple[dict[str, Any], list[str]]:
    """The scores and the translations that ``fairseq-dsp evaluate`` writes."""
    out = ["--json", str(folder / "scores.json"), "--translations", str(folder / "text")]
    assert main(["evaluate", str(checkpoint), "--data", str(data), "--beam", "2", "--cpu", *out, *flags]) == 0
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))[0]
    return scores, (folder / "text").read_text(encoding="utf-8").removesuffix("\n").split("\n")


def test_long_sentences_are_cut_and_blank_ones_stay_blank(
    models: dict[str, Path], data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scores, lines = evaluated(models["short"], data, tmp_path)
    assert "test: 2 of 26 sentences are longer than the model's 12 positions and are cut" in capsys.readouterr().err
    assert (scores["sentences"], scores["cut"], len(lines)) == (26, 2, 26)
    assert [i for i, line in enumerate(lines) if not line] == [22, 23]
    assert lines[20] == lines[25]


def test_references_beyond_the_positions_in_files_of_the_other_direction(
    models: dict[str, Path], data: Path, tmp_path: Path
) -> None:
    other = support.named_other_way_round(data / "data-bin", tmp_path / "bin")
    given = ("--references", str(data / "raw/test.yy"))
    lines, expected = (
        evaluated(models["short"], *folder)[1] for folder in ((other, tmp_path, *given), (data, tmp_path))
    )
    del lines[23], expected[23]  # a blank one, which its subwords do not tell
    assert lines == expected


def test_the_positions_are_the_checkpoints(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """2,048 of them; a batch of fewer tokens than the longest sentence does not stop it either."""
    scores, lines = evaluated(models["long"], data, tmp_path, "--max-tokens", "100")
    assert (scores["cut"], len(lines)) == (0, 26)
    both = f"{models['short']}:{models['long']}"
    assert evaluated(both, data, tmp_path)[0]["cut"] == 2


def test_a_sentence_alone_is_translated_as_with_others(models: dict[str, Path], data: Path, tmp_path: Path) -> None:
    """Leaving the references out, for their length, changes no translation."""
    short = tmp_path / "short"
    shutil.copytree(data, short)
    for language in ("xx", "yy"):
        path = short / f"raw/test.{language}"
        lines = path.read_text(encoding="utf-8").split("\n")[:20]
        path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    prefix = ["--testpref", short / "raw/test", "--destdir", short / "new"]
    prefix += ["--source-lang", "xx", "--target-lang", "yy"]
    dictionaries = ["--srcdict", short / "data-bin/dict.xx.txt", "--tgtdict", short / "data-bin/dict.yy.txt"]
    support.run_fairseq("preprocess", *prefix, *dictionaries)
    shutil.rmtree(short / "data-bin")
    (short / "new").rename(short / "data-bin")
    assert evaluated(models["long"], short, tmp_path)[1] == evaluated(models["long"], data, tmp_path)[1][:20]


def test_paths_of_an_ensemble(tmp_path: Path) -> None:
    for name in ("a", "b:c", "d"):
        (tmp_path / name).touch()
    a, b, d = (str(tmp_path / name) for name in ("a", "b:c", "d"))
    assert checkpoint_paths(b) == [b]
    assert checkpoint_paths(f"{a}:{b}:{d}") == [a, b, d]
    for given in (f"{a}:{b}:nowhere", "nowhere", ""):
        with pytest.raises(UserError, match="is missing"):
            checkpoint_paths(given)


def test_a_study_cannot_train_on_a_path_with_a_colon(data: Path, write_study: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="a colon in its path"):
        read_study(write_study(data=str(data)))


def test_a_long_sentence_costs_no_epoch(
    train_tiny: Callable[..., Any], run_fairseq: Callable[..., Any], tmp_path: Path
) -> None:
    """Of the validation set: beyond the positions, and beyond the tokens of a batch."""
    support.write_tiny_corpus(tmp_path)
    for language, lines in (("xx", [WORDS, WORDS[:42]]), ("yy", ["BA", "BA"])):  # 21 words, and 14
        with (tmp_path / f"valid.{language}").open("a", encoding="utf-8") as file:
            file.writelines(line + "\n" for line in lines)
    prefixes = [word for split in ("train", "valid") for word in (f"--{split}pref", tmp_path / split)]
    run_fairseq("preprocess", "--source-lang", "xx", "--target-lang", "yy", *prefixes, "--destdir", tmp_path / "bin")
    flags = ("--max-source-positions", 16, "--max-tokens-valid", 12, "--max-update", 2)
    arguments = support.tiny_train_args(tmp_path / "bin", tmp_path / "run", *flags, arch="transformer_dsp")
    printed = run_fairseq("train", *arguments).stdout
    assert "1 samples have invalid sizes and will be skipped" in printed
    assert "valid on 'valid' subset" in printed
    assert (tmp_path / "run/checkpoint_best.pt").exists()
    state = torch.load(tmp_path / "run/checkpoint_best.pt")
    assert state["cfg"]["dataset"]["skip_invalid_size_inputs_valid_test"] is False
    assert state["cfg"]["dataset"]["max_tokens_valid"] == 12
