"""Sets of heads and their JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import support
import torch
from fairseq import options

from fairseq_dsp.model import HeadSet
from fairseq_dsp.model.units import shape_by

SHAPE = {"encoder_self": [2, 3], "decoder_self": [2], "cross": [4]}
GATES = torch.tensor([0, 1, 0, 0, 0, 1, 0, 0, 1, 0, 1.0])


def test_gates_and_json_describe_the_same_set(tmp_path: Path) -> None:
    heads = HeadSet.from_gates(GATES, SHAPE)
    assert heads.kept == 4
    assert json.loads(heads.to_json()) == {
        "version": 2,
        "total": 11,
        "kept": 4,
        "encoder_self": [[1], []],
        "decoder_self": [[0]],
        "cross": [[1, 3]],
    }
    file = tmp_path / "heads.json"
    first = {key: value for key, value in json.loads(heads.to_json()).items() if key != "version"}  # of version 1
    for content in (heads.to_json(), json.dumps(first)):
        file.write_text(content)
        assert HeadSet.read(file) == heads
    assert torch.equal(HeadSet.read(file).to_gates(SHAPE), GATES)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"version": 3}, "it is of version 3, but this package reads versions 1 to 2"),
        ({"total": 12}, "for a model of 12 heads, but this model has 11"),
        ({"kept": 3}, "says that 3 heads are kept, but lists 4"),
        ({"cross": [[1, 1, 3]]}, "lists a head twice"),
        ({"cross": [[1, 4]]}, "keeps head 4 of cross layer 0, but that module has heads 0 to 3"),
        ({"cross": [[1, -1]]}, "keeps head -1"),
        ({"cross": [[1, 0.5]]}, "whole numbers"),
        ({"cross": [[1], [3]]}, "2 layers of cross-attention, but this model has 1"),
        ({"cross": 7}, "a list with a list"),
        ({"more": 1}, "exactly the keys"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    content = json.loads(HeadSet.from_gates(GATES, SHAPE).to_json()) | change
    file = tmp_path / "heads.json"
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=sentence):
        HeadSet.read(file).to_gates(SHAPE)


def test_a_file_that_is_missing_or_no_json_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be read \(No such file"):
        HeadSet.read(tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"total": 11, "ke')
    with pytest.raises(ValueError, match="is not JSON"):
        HeadSet.read(tmp_path / "cut.json")


@pytest.mark.parametrize("flags", [[], ["--no-cross-attention"], ["--cross-self-attention"], ["--decoder-layers", 3]])
def test_the_shape_that_options_say_is_the_models(build: Any, flags: list[Any]) -> None:
    words = support.tiny_train_args(Path("data"), Path("out"), *flags, arch="transformer_dsp")
    args = options.parse_args_and_arch(options.get_training_parser(), [words[0], *words[3:]])
    assert shape_by(args) == build(*flags).pruner.plan.shape
