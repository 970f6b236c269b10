"""What people give to ``translate``: blank lines, long lines, what is no text, numbers that have no sense."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fairseq_dsp
from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError


@pytest.fixture(scope="module")
def model(compact: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    target = tmp_path_factory.mktemp("folder") / "model"
    assert main(["export-folder", str(compact), str(target), "--data", str(tiny_data)]) == 0
    model = fairseq_dsp.from_pretrained(target)
    model.folder = target
    return model


def test_blank_stays_blank(model: Any) -> None:
    blank = ["", "  ", "\u200b", "\ufeff", "\t\n", "\u2581", "\x02", "\u00a0\u2028"]
    (expected,) = model.translate(["ba di"])
    assert expected
    assert model.translate(blank) == [""] * len(blank)
    assert model.translate([*blank, "ba di", *blank]) == [*[""] * len(blank), expected, *[""] * len(blank)]
    assert model.translate([]) == []
    assert model.translate(iter(["ba di"])) == [expected]


def test_white_space_is_read_as_in_the_preparation(model: Any) -> None:
    (expected,) = model.translate(["ba di fo"])
    assert model.translate([" ba\u00a0di\t\u2028 fo\r\n", "ba\u2581di\u3000fo"]) == [expected, expected]


def test_text_is_normalised_where_that_of_training_was(model: Any, tmp_path: Path) -> None:
    import json
    import shutil

    from fairseq_dsp.deployment.text import own_checksum

    folder = tmp_path / "copy"
    shutil.copytree(model.folder, folder)
    config = json.loads((folder / "config.json").read_text())
    assert config["normalise"] is None
    config["normalise"] = "nfkc"
    config["sha256"]["config.json"] = own_checksum(config, "config.json")
    (folder / "config.json").write_text(json.dumps(config))
    again = fairseq_dsp.from_pretrained(folder)
    assert again.translate(["ba ｄｉ"]) == model.translate(["ba di"])
    assert again.text.encode("ba ｄｉ") == model.text.encode("ba di") != model.text.encode("ba ｄｉ")


def test_a_long_sentence_is_cut_and_told(model: Any) -> None:
    words = ["ba", "di", "fo"] * 500
    with pytest.warns(UserWarning, match="sentence 2 has 1500 subwords, but the model takes 1023"):
        found = model.translate(["ba di", " ".join(words), "fo"])
    assert found == [*model.translate(["ba di"]), *model.translate([" ".join(words[:1023])]), *model.translate(["fo"])]


@pytest.mark.parametrize(
    ("sentences", "told"),
    [
        ("one string", "one string was given"),
        (b"bytes", "bytes was given"),
        (None, "None was given"),
        (3, "int was given"),
        (["ba", None], "sentence 2 is None"),
        (["ba", b"di"], "sentence 2 is of the type bytes"),
        ([1.5], "sentence 1 is of the type float"),
        (["ba", "di", "f\ud800o"], r"sentence 3 holds half a character \(U\+D800, place 1\)"),
    ],
)
def test_what_is_no_text(model: Any, sentences: Any, told: str) -> None:
    with pytest.raises(UserError, match=told):
        model.translate(sentences)


@pytest.mark.parametrize(
    "option",
    [
        *({"batch_size": value} for value in (0, -1, 2.5, None, True, "3")),
        *({"beam": value} for value in (0, -2, 2.5, None, True)),
        *({"lenpen": value} for value in (math.nan, math.inf, None, "1")),
        *({"max_len_b": value} for value in (0, -3, math.nan, math.inf, None)),
        {"max_len_a": math.nan},
        {"max_len_a": 1, "max_len_b": -3},
    ],
    ids=str,
)
def test_numbers_without_sense(model: Any, option: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="|".join(option)):
        model.translate(["ba di", "fo", ""], **option)


def test_numbers_with_sense(model: Any) -> None:
    expected = model.translate(["ba di", "fo"], beam=3)
    assert model.translate(["ba di", "fo"], beam=np.int64(3), batch_size=np.int32(1), lenpen=1) == expected
    assert all(model.translate(["ba di", "fo"], max_len_a=1.0, max_len_b=0))
    assert len(model.translate(["ba di"], max_len_b=1)[0].split()) == 1
    assert model.translate(["fo"], beam=1000)
