"""One checkpoint of a range of numbers of heads: every command takes any number of it, and no other."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import inprocess
import pytest
from support import mostly_slow

from fairseq_dsp.cli import main

TOLD = "this model was trained for every number from 3 to 9: ask for one of these"


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint for 3 to 9 of 12 heads."""
    folder = tmp_path_factory.mktemp("range")
    flags = ["--heads-to-keep-low", 3, "--heads-to-keep-high", 9, "--cooldown-updates", 10, "--task", "translation_dsp"]
    inprocess.train(tiny_data, folder, "--cpu", *flags)
    return folder / "checkpoint_last.pt"


def kept(checkpoint: Path, k: int, folder: Path) -> set[tuple[str, int, int]]:
    """The heads that the command ``heads`` says."""
    out = folder / f"{k}.json"
    out.unlink(missing_ok=True)
    assert main(["heads", str(checkpoint), "--heads-to-keep", str(k), "--format", "json", "--output", str(out)]) == 0
    found = json.loads(out.read_text())
    types = ("encoder_self", "decoder_self", "cross")
    return {(name, layer, head) for name in types for layer, heads in enumerate(found[name]) for head in heads}


def test_the_curve(trained: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "curve.json"
    words = ["evaluate", str(trained), "--data", str(prepared), "--beam", "1", "--max-len-b", "6"]
    assert main([*words, "--heads-to-keep", "9,6,3", "--json", str(out)]) == 0
    curve = json.loads(out.read_text())
    title, header, *rows = capsys.readouterr().out.splitlines()
    assert title == f"{trained}: test, 20 sentences, beam 1"
    assert header.split() == ["heads", "BLEU", "chrF", "tokenised", "BLEU", "sentences", "a", "second"]
    assert [row.split()[0] for row in rows] == ["9", "6", "3"]
    assert [float(row.split()[1]) for row in rows] == [round(one["bleu"]["score"], 2) for one in curve]
    assert [one["heads_to_keep"] for one in curve] == [one["kept"]["kept"] for one in curve] == [9, 6, 3]
    assert main([*words, "--heads-to-keep", "6", "--json", str(out)]) == 0
    (alone,) = json.loads(out.read_text())
    assert (alone["bleu"], alone["kept"]) == (curve[1]["bleu"], curve[1]["kept"])


def test_the_map_says_the_range(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["heads", str(trained)]) == 0
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "9 of 12 heads are kept; this model was trained for every number of heads from 3 to 9"


def test_the_heads_are_nested_and_compact_models_have_them(trained: Path, tmp_path: Path) -> None:
    sets = [kept(trained, k, tmp_path) for k in range(3, 10)]
    assert all(smaller < larger for smaller, larger in itertools.pairwise(sets))
    small = tmp_path / "small.pt"
    assert main(["compact", str(trained), str(small), "--heads-to-keep", "4"]) == 0
    assert json.loads(small.with_suffix(".heads.json").read_text())["kept"] == 4


@pytest.mark.parametrize(
    "words",
    [
        ["heads", "CKPT"],
        ["compact", "CKPT", "OUT"],
        ["export-fairseq", "CKPT", "OUT"],
        ["export-folder", "CKPT", "OUT", "--data", "DATA"],
        ["evaluate", "CKPT", "--data", "DATA"],
    ],
    ids=lambda words: words[0],
)
@pytest.mark.parametrize("k", [2, 10, 12])
def test_a_number_outside_of_the_range(
    words: list[str], k: int, trained: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places: dict[str, Any] = {"CKPT": trained, "OUT": tmp_path / "out.pt", "DATA": prepared}
    assert main([*(str(places.get(word, word)) for word in words), "--heads-to-keep", str(k)]) == 1
    assert f"{k} heads are asked for, but {TOLD}" in capsys.readouterr().err
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ("6,6", "6,6 has a number twice: give each once"),
        ("6,x", "is no number of heads"),
        ("", "is no number of heads"),
    ],
)
def test_numbers_that_are_none(numbers: str, message: str, trained: Path, prepared: Path, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        main(["evaluate", str(trained), "--data", str(prepared), "--heads-to-keep", numbers])
    assert message in capsys.readouterr().err


def test_a_curve_has_no_single_file_of_translations(trained: Path, prepared: Path, tmp_path: Path, capsys: Any) -> None:
    words = ["evaluate", str(trained), "--data", str(prepared), "--translations", str(tmp_path / "text")]
    assert main([*words, "--heads-to-keep", "6,3"]) == 1
    assert "--translations takes the output of one number of heads, but 2 are given" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "k"),
    mostly_slow(
        [
            ("--heads-to-keep-low 2 --heads-to-keep-high 9 --heads-to-keep 2 --min-encoder-heads 4", 4),
            ("--heads-to-keep 8 --min-encoder-heads 4", 3),
            ("--parameters-to-keep 0.5", 3),
            ("--encoder-heads-to-keep 3", 3),
        ],
        ("--heads-to-keep 8 --min-encoder-heads 4", 3),
    ),
)
def test_evaluation_has_the_heads_that_the_compact_model_has(
    flags: str, k: int, tiny_data: Path, prepared: Path, tmp_path: Path
) -> None:
    """Floors and budgets of the training say nothing against another number of heads."""
    inprocess.train(tiny_data, tmp_path, "--cpu", *flags.split(), "--cooldown-updates", 10, "--max-update", 12)
    pruned, small = tmp_path / "checkpoint_last.pt", tmp_path / "small.pt"
    assert main(["compact", str(pruned), str(small), "--heads-to-keep", str(k)]) == 0
    found = []
    for words in ([str(pruned), "--heads-to-keep", str(k)], [str(small)], [str(pruned), "--kept-heads", "heads.json"]):
        words = [str(tmp_path / "small.heads.json") if word == "heads.json" else word for word in words]
        out = tmp_path / f"{len(found)}.json"
        search = ["--data", str(prepared), "--beam", "1", "--max-len-b", "6", "--json", str(out)]
        assert main(["evaluate", *words, *search, "--translations", str(tmp_path / "text")]) == 0
        (scores,) = json.loads(out.read_text())
        found.append((scores["kept"], scores["chrf"], (tmp_path / "text").read_text()))
    assert found[0][0]["kept"] == k
    assert found[0] == found[1] == found[2]
