"""Studies in which heads, feed-forward units or both are pruned: 12 heads and 64 units of two neurons."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studies import do, plan

from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError
from fairseq_dsp.files import write_json
from fairseq_dsp.model import HeadSet
from fairseq_dsp.study import sweep
from fairseq_dsp.study.checks import check_runs
from fairseq_dsp.study.results import read_results, summary_table
from fairseq_dsp.study.runner import _result
from fairseq_dsp.study.runs import RESULT, expand
from fairseq_dsp.study.study_file import read_study
from fairseq_dsp.study.training_options import of_random

pytestmark = pytest.mark.slow

UNITS, SHORT = {"ffn-units-to-keep": 24}, {"max-update": 6}
METHODS: list[Any] = [
    {"method": "joint", "name": "heads", "start": "base", "options": SHORT},
    {"method": "joint", "name": "units", "heads": [12], "start": "base", "options": UNITS | SHORT},
    {"method": "joint", "name": "both", "start": "base", "options": UNITS | SHORT},
    {"method": "joint", "name": "share", "heads": [], "parameters-to-keep": [0.4], "start": "base", "options": SHORT},
    {"method": "structure", "of": "both"},
    {"method": "random", "options": {**UNITS, "ffn-unit-width": 2}},
]
KEPT = {
    "base": (12, None), "heads-k6": (6, None), "units-k12": (12, 24), "both-k6": (6, 24), "structure-k6": (6, 24),
    "random-k6": (6, 24),
}  # fmt: skip
HEAD, UNIT = 4 * 16 * 8 + 3 * 8, 2 * (2 * 16 + 1)
"""The parameters of one: four matrices and three biases, eight wide; a row, a column and a bias for each neuron."""


@pytest.fixture(scope="module")
def results(
    tmp_path_factory: pytest.TempPathFactory, write_study_to: Callable[..., Path], tiny_recipe: dict[str, Any]
) -> Path:
    """The results of the study."""
    folder = tmp_path_factory.mktemp("units")
    study = read_study(write_study_to(folder, recipe=tiny_recipe | SHORT, methods=METHODS))
    runs = check_runs(study, expand(study, folder / "results"))
    for run in runs:
        do(run)
        write_json(run.folder / RESULT, _result(run))
    sweep.write_study(folder / "results", study, runs)
    return folder / "results"


def scores(results: Path, run: str) -> dict[str, Any]:
    """The scores of a run."""
    found: dict[str, Any] = json.loads((results / f"runs/{run}-s1/scores.json").read_text())[0]
    return found


@pytest.mark.parametrize("run", KEPT)
def test_each_model_has_as_many_parameters_as_it_keeps(results: Path, run: str) -> None:
    found, whole = scores(results, run), scores(results, "base")["parameters"]
    heads = HeadSet.from_json(found["kept"])
    units = [others.kept for others in heads.others]
    assert (heads.kept, *units) == tuple(number for number in KEPT[run] if number is not None)
    gone = sum(64 - number for number in units)
    assert found["parameters"] == whole - (12 - heads.kept) * HEAD - gone * UNIT


def test_a_share_of_the_parameters_stays(results: Path) -> None:
    found, base = scores(results, "share-p0.4"), scores(results, "base")
    prunable = 12 * HEAD + 64 * UNIT
    stays = prunable - (base["parameters"] - found["parameters"])
    assert 0.4 * prunable - UNIT <= stays <= 0.4 * prunable
    assert read_results(results).rows()[-3].budget == "0.4 of the parameters"


def test_random_units_are_others_with_another_seed(results: Path) -> None:
    study = read_study(results.parent / "study.yaml")
    method = study.methods[-1]
    sets = [json.loads(of_random(study, method, 6, seed)["kept-heads"]) for seed in (1, 1, 2)]
    assert sets[0] == sets[1] == scores(results, "random-k6")["kept"]
    assert sets[0]["ffn"]["encoder"] != sets[2]["ffn"]["encoder"]
    assert sets[0]["ffn"]["width"] == 2


def test_a_structure_has_the_units_too(results: Path) -> None:
    assert scores(results, "structure-k6")["kept"] == scores(results, "both-k6")["kept"]


def test_tables_and_pictures_tell_units(results: Path) -> None:
    assert " 6 of 12 + 24 units " in summary_table(read_results(results))
    assert main(["report", str(results)]) == 0
    heads, units = (one.kept for one in HeadSet.from_json(scores(results, "share-p0.4")["kept"]).all)
    with (results / "report/table.csv").open() as file:
        rows = {(row["method"], row["heads"]): row["units"] for row in csv.DictReader(file)}
    assert rows == {
        ("unpruned", "12"): "", ("heads", "6"): "", ("units", "12"): "24", ("both", "6"): "24",
        ("structure", "6"): "24", ("random", "6"): "24", ("share", str(heads)): str(units),
    }  # fmt: skip
    page = (results / "report/report.html").read_text()
    assert "<td>6 + 24 units</td>" in page
    assert ">feed-forward<" in page or "feed-forward -->" in page, "beside its map"


@pytest.mark.parametrize(
    ("heads", "units", "expected"),
    [(6, 24, 2000), (4, 22, 2000), (12, 21, 6000), (3, 64, 6000), (12, 48, 2000)],
)
def test_few_of_any_kind_are_trained_for_longer(
    write_study: Callable[..., Path], tiny_recipe: dict[str, Any], tmp_path: Path, heads: int, units: int, expected: int
) -> None:
    method = {"method": "joint", "heads": [heads], "start": "base", "options": {"ffn-units-to-keep": units}}
    study = write_study(recipe={**tiny_recipe, "max-update": 6000}, methods=[method])
    (run,) = (run for run in expand(read_study(study), tmp_path) if run.method == "joint")
    words = run.steps[0].command
    names = ("max-update", "heads-to-keep-updates", "cooldown-updates")
    assert [int(words[words.index(f"--{name}") + 1]) for name in names] == [expected, expected // 4, expected * 3 // 10]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"recipe": UNITS},
            "recipe has the option ffn-units-to-keep, but units are chosen in the training",
        ),
        ({"base": UNITS}, "base has the option ffn-units-to-keep"),
        (
            {"methods": [{"method": "random", "options": {"ffn-units-to-keep": 65}}]},
            "65 feed-forward units are to be d",
        ),
        ({"methods": [{"method": "michel", "parameters-to-keep": [0.5]}]}, "parameters-to-keep, which is for joint, s"),
        ({"parameters-to-keep": [0.5]}, "the study gives heads and parameters-to-keep, but only one of them"),
        ({"methods": [{"method": "joint", "flops-to-keep": [1.5]}]}, "flops-to-keep of joint"),
        ({"heads": None, "flops-to-keep": [0.5], "methods": ["michel"]}, "michel has no head counts"),
        ({"methods": [{"method": "joint", "options": {"flops-to-keep": 0.5}}]}, "but a sweep sets it itself"),
        (
            {"methods": [{"method": "joint", "parameters-to-keep": [0.2], "options": {"min-heads-per-module": 1}}]},
            "parameters-to-keep is 0.2, but the least numbers of units that are asked for have 0.302",
        ),
        ({"methods": [{"method": "unpruned", "name": "other", "options": UNITS}]}, "options of other has"),
        ({"methods": [{"method": "joint", "recovery": {**UNITS, "max-update": 2}}]}, "recovery of joint has"),
        (
            {"methods": [{"method": "joint", "start": "base", "options": {"ffn-units-to-keep": 65}}]},
            "ffn-units-to-keep is 65, but there are 64 such feed-forward units",
        ),
        (
            {"methods": [{"method": "joint", "start": "base", "options": {**UNITS, "ffn-unit-width": 5}}]},
            "ffn-unit-width is 5, but the encoder's feed-forward layers have 32 hidden neurons",
        ),
    ],
)
def test_budgets_of_units_that_make_no_sense(
    write_study: Callable[..., Path], tiny_recipe: dict[str, Any], tmp_path: Path, changes: Any, message: str
) -> None:
    if "recipe" in changes:
        changes = {"recipe": {**tiny_recipe, **changes["recipe"]}}
    with pytest.raises(UserError, match=message):
        plan(write_study(**changes), tmp_path / "results")
