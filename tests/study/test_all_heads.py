"""The ends of a curve: every method at K = N works to the end, and so does K = 0."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studies import do

from fairseq_dsp.study.checks import check_runs
from fairseq_dsp.study.runs import expand
from fairseq_dsp.study.study_file import read_study

pytestmark = pytest.mark.slow

METHODS: list[Any] = [
    "joint",
    "ste",
    "michel",
    "range",
    {"method": "pipelined", "recovery": {"max-update": 2}},
    {"method": "voita", "heads": [12]},
    "random",
    {"method": "structure", "of": "joint"},
]


@pytest.fixture(scope="module")
def scores(
    tmp_path_factory: pytest.TempPathFactory, write_study_to: Callable[..., Path], tiny_recipe: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """The scores of all methods with all 12 heads, and of two without any, by the names of runs."""
    folder = tmp_path_factory.mktemp("all-heads")
    methods = [*METHODS, {"method": "joint", "heads": [0]}, {"method": "michel", "heads": [0]}]
    study = read_study(write_study_to(folder, recipe={**tiny_recipe, "max-update": 3}, heads=[12], methods=methods))
    runs = check_runs(study, expand(study, folder / "results"))
    for run in runs:
        do(run)
    return {run.name: json.loads((run.folder / "scores.json").read_text())[0] for run in runs if run.scored}


@pytest.mark.parametrize("method", ["joint", "ste", "michel", "range", "pipelined", "voita"])
def test_with_all_heads_a_method_has_a_compact_model_of_all(scores: dict[str, dict[str, Any]], method: str) -> None:
    found = scores[f"{method}-k12-s1"]
    assert (found["kept"]["kept"], found["heads"]) == (12, 12)
    assert found["parameters"] == scores["base-s1"]["parameters"]
    if method == "michel":  # which trains nothing
        assert found["bleu"] == scores["base-s1"]["bleu"]


@pytest.mark.parametrize("method", ["joint", "michel"])
def test_without_heads(scores: dict[str, dict[str, Any]], method: str) -> None:
    found = scores[f"{method}-k0-s1"]
    assert (found["kept"]["kept"], found["heads"]) == (0, 12)
    assert found["parameters"] < scores["base-s1"]["parameters"]
