"""A study on somebody's trained, unpruned model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
import torch
from studies import TINY_RECIPE, do, plan

from fairseq_dsp.errors import UserError
from fairseq_dsp.study.records import begin
from fairseq_dsp.study.runs import expand
from fairseq_dsp.study.study_file import read_study
from fairseq_dsp.study.sweep import checked_runs

RECIPE = {
    name: value
    for name, value in TINY_RECIPE.items()
    if name != "arch" and "layers" not in name and "embed-dim" not in name and "attention-heads" not in name
}
METHODS = [{"method": "joint", "start": "base", "options": {"max-update": 4}}]
MICHEL = {"method": "michel", "options": {"steps": 2}}


@pytest.fixture(scope="module")
def stock(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of stock fairseq."""
    folder = tmp_path_factory.mktemp("stock")
    support.run_fairseq("train", *support.tiny_train_args(tiny_data, folder, "--max-update", 8))
    return folder / "checkpoint_last.pt"


def test_it_is_scored_and_pruned_and_not_trained(stock: Path, write_study: Callable[..., Path], tmp_path: Path) -> None:
    study = read_study(write_study(base={"checkpoint": str(stock)}, recipe=RECIPE, methods=METHODS))
    assert study.total == 12
    runs = {run.method: run for run in expand(study, tmp_path / "results")}
    assert [step.name for step in runs["base"].steps] == ["evaluate"]
    for run in runs.values():
        assert str(stock) in " ".join(run.steps[0].command)
        do(run)
    joint = runs["joint"].steps[0].command
    assert joint[joint.index("--finetune-from-model") + 1] == str(stock)


def test_another_model_in_its_place_is_refused(
    stock: Path, write_study: Callable[..., Path], tmp_path: Path, train_tiny: Callable[..., Any]
) -> None:
    copy = tmp_path / "theirs.pt"
    copy.write_bytes(stock.read_bytes())
    study = write_study(base={"checkpoint": str(copy)}, recipe=RECIPE, methods=METHODS)
    results = tmp_path / "results"
    plan(study, results)
    for run in checked_runs(read_study(study), results):
        run.folder.mkdir(parents=True)
        begin(run)
        (run.folder / "result.json").write_text("{}")
    train_tiny(tmp_path / "other", "--max-update", 3)
    copy.write_bytes((tmp_path / "other/checkpoint_last.pt").read_bytes())
    with pytest.raises(UserError, match="base"):
        plan(study, results)


def test_a_smaller_seed_joins_what_is_there(
    stock: Path, write_study: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"base": {"checkpoint": str(stock)}, "recipe": RECIPE, "methods": METHODS}
    results = tmp_path / "results"
    for run in checked_runs(read_study(write_study(seeds=[3, 2], **changes)), results):
        run.folder.mkdir(parents=True)
        begin(run)
        (run.folder / "result.json").write_text("{}")
    assert {path.name for path in (results / "runs").iterdir()} == {"base-s2", "joint-k6-s2", "joint-k6-s3"}
    (results / "runs/base-slow-k6-s1").mkdir()  # of a method of that name
    plan(write_study(seeds=[1, 2, 3], **changes), results)
    printed = capsys.readouterr().out
    assert [line for line in printed.splitlines() if line.endswith(": done")] == [
        "# base-s2: done", "# joint-k6-s2: done", "# joint-k6-s3: done",
    ]  # fmt: skip
    assert "joint-k6-s1" in printed
    assert "base-s1" not in printed


@pytest.mark.parametrize(
    ("base", "recipe", "told"),
    [
        ({"checkpoint": "nowhere.pt"}, {}, "The checkpoint .*nowhere.pt cannot be read"),
        ({"lr": 0.1}, {}, "base has a checkpoint, which is not trained again, and the option lr"),
        ({}, {"encoder-embed-dim": 32}, "do not fit the model of these options"),
    ],
)
def test_what_does_not_fit(
    stock: Path, write_study: Callable[..., Path], base: dict[str, Any], recipe: dict[str, Any], told: str
) -> None:
    study = write_study(base={"checkpoint": str(stock), **base}, recipe=RECIPE | recipe, methods=METHODS)
    with pytest.raises(UserError, match=told):
        read_study(study)


def test_heads_of_a_stock_model_are_not_removed_as_it_is(
    stock: Path, write_study: Callable[..., Path], train_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    base = {"checkpoint": str(stock)}
    with pytest.raises(UserError, match=r"michel removes heads of the model as it is, but .* of fairseq's transformer"):
        read_study(write_study(base=base, recipe=RECIPE, methods=[*METHODS, MICHEL]))
    ours = ["--max-update", 1, "--finetune-from-model", stock]
    train_tiny(tmp_path, *ours, arch="transformer_dsp")
    base = {"checkpoint": str(tmp_path / "checkpoint_last.pt")}
    assert read_study(write_study(base=base, recipe=RECIPE, methods=[MICHEL])).trained


def test_heads_of_a_stock_model_that_is_trained_on_are_scored_and_fitted(
    stock: Path, write_study: Callable[..., Path], tmp_path: Path
) -> None:
    """Each step reads what the one before it left; what the fitting did is part of the run's record."""
    fitted = MICHEL | {"compensate": True, "recovery": {"max-update": 2}, "heads": [6]}
    study = read_study(write_study(base={"checkpoint": str(stock)}, recipe=RECIPE, methods=[fitted]))
    runs = checked_runs(study, tmp_path / "results")
    run = next(run for run in runs if run.method == "michel")
    assert [step.name for step in run.steps] == ["score-heads", "compensate", "recover", "compact", "evaluate"]
    start = run.folder / "fitted.pt"
    train = run.steps[2].command
    assert train[train.index("--finetune-from-model") + 1] == str(start)
    assert train[train.index("--lr-scheduler") + 1] == "polynomial_decay"  # as `prune` trains
    assert train[train.index("--total-num-update") + 1] == "2"
    assert run.record["resolved"]["compensate"] == {"split": "train", "sentences": 2000, "seed": 1}
    do(run)
    state = torch.load(start, weights_only=True)["model"]
    before = torch.load(stock, weights_only=True)["model"]
    changed = {name for name in before if not torch.equal(before[name], state[name])}
    assert changed
    assert all(".out_proj." in name for name in changed)
    assert json.loads((run.folder / "compact.heads.json").read_text())["kept"] == 6
    alone = fitted | {"recovery": None}
    with pytest.raises(UserError, match="michel removes heads of the model as it is"):
        read_study(write_study(base={"checkpoint": str(stock)}, recipe=RECIPE, methods=[alone]))


def test_it_translates_once_for_all_seeds(stock: Path, write_study: Callable[..., Path], tmp_path: Path) -> None:
    """And is the same run in whatever order the study has them: its results stay."""
    distilled = [{"method": "joint", "start": "base", "distill": True, "heads": [4]}]
    for seeds in ([3, 2], [2, 3]):
        study = write_study(base={"checkpoint": str(stock)}, recipe=RECIPE, methods=distilled, seeds=seeds)
        runs = checked_runs(read_study(study), tmp_path / "results")  # the second time beside the results of the first
        named = {run.name: run for run in runs}
        assert [name for name in named if name.startswith("translations")] == ["translations-s2"]
        assert named["joint-k4-s3"].needs == ("base-s2", "translations-s2")
        assert [name for name in named if name.startswith("base")] == ["base-s2"]  # one model is no sample of seeds
        for run in runs:
            begin(run)
            (run.folder / "result.json").write_text("{}")


def test_how_long_others_go_on_follows_from_it(stock: Path, write_study: Callable[..., Path], tmp_path: Path) -> None:
    recipe = {name: value for name, value in RECIPE.items() if name != "max-update"}
    methods = [{"method": "joint", "start": "base"}]
    study = read_study(write_study(base={"checkpoint": str(stock)}, recipe=recipe, methods=methods))
    joint = next(run for run in expand(study, tmp_path) if run.method == "joint")
    assert "--max-update 500" in " ".join(joint.steps[0].command)  # the least, for a model of 8 updates
    scratch = [*methods, {"method": "joint", "name": "scratch"}]
    with pytest.raises(UserError, match="neither recipe nor scratch has max-update"):
        read_study(write_study(base={"checkpoint": str(stock)}, recipe=recipe, methods=scratch))


def test_a_recipe_without_an_architecture(write_study: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match="recipe has no arch: give the architecture of the model, such as"):
        read_study(write_study(recipe=RECIPE))
