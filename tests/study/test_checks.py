"""What would be found after the trainings is found before the first."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
import yaml

from fairseq_dsp.errors import UserError
from fairseq_dsp.study.checks import check_runs
from fairseq_dsp.study.runs import Run, expand
from fairseq_dsp.study.study_file import read_study

Completed = subprocess.CompletedProcess[str]

BLEU = {"best-checkpoint-metric": "bleu", "eval-bleu": True, "maximize-best-checkpoint-metric": True}


@pytest.fixture
def checked(write_study: Callable[..., Path], tiny_recipe: dict[str, Any]) -> Callable[..., list[Run]]:
    """``checked({"no-save": True}, methods=[…])``: the runs of a study with further options in its recipe, checked."""

    def checked(options: dict[str, Any], **changes: Any) -> list[Run]:
        path = write_study(recipe={**tiny_recipe, **options}, **changes)
        study = read_study(path)
        return check_runs(study, expand(study, path.parent / "results"))

    return checked


@pytest.mark.parametrize("option", [{"max-epoch": 1}, {"stop-time-hours": 1}, {"stop-min-lr": 1e-9}, {"patience": 2}])
def test_what_may_end_a_choice_early_is_refused(checked: Callable[..., list[Run]], option: dict[str, Any]) -> None:
    (name,) = option
    with pytest.raises(UserError, match=f"{name} may end the training before the 4 updates"):
        checked({"max-update": 4, **option}, methods=["joint"])
    checked({"max-update": 4, **option}, methods=["random"])  # its heads are fixed from the first update on


def test_schedules_that_do_not_fit_are_found_before_the_first_training(
    checked: Callable[..., list[Run]], capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"max-update": 20, "cooldown-updates": 4, "heads-to-keep-updates": 9}
    with pytest.raises(UserError, match="joint, train: --heads-to-keep-updates is 9, but with --cooldown-updates 4"):
        checked(options, methods=["joint"])
    checked({"max-update": 20, "cooldown-updates": 9}, methods=["joint"])
    assert not capsys.readouterr().err
    checked({"max-update": 20, "cooldown-updates": 99}, methods=["joint"])
    told = "joint, train: --max-update 20 ends this training before update 99, from which on the heads are fixed"
    assert capsys.readouterr().err.startswith(told)


@pytest.mark.parametrize(
    ("checkpoint", "options", "reason"),
    [
        ("best", {"no-save": True}, "with no-save it keeps no checkpoint"),
        ("last", {"no-last-checkpoints": True}, "no-last-checkpoints is given"),
        ("best", {"disable-validation": True}, "disable-validation is given, so that no checkpoint is the best"),
        ("best", {"validate-after-updates": 5}, "validate-after-updates is 5, after the 4 updates of max-update"),
        ("last", {"write-checkpoints-asynchronously": True}, "takes the package iopath"),
        ("best", {"checkpoint-suffix": "_a"}, "checkpoint-suffix _a changes the names"),
        ("last", {"valid-subset": "valid,dev"}, "valid-subset of base, train is dev, but fairseq cannot load"),
        ("best", {**BLEU, "eval-bleu": False}, "is bleu, which validation computes with --eval-bleu only"),
        ("best", {"best-checkpoint-metric": "nll_los"}, "validation does not compute, did you mean nll_loss?"),
        ("best", {"criterion": "cross_entropy", "best-checkpoint-metric": "nll_loss"}, "nll_loss, which validation"),
        ("best", {"report-accuracy": True, "best-checkpoint-metric": "accuracy",
                  "maximize-best-checkpoint-metric": True}, None),
        ("best", BLEU, None),
        ("best", {"no-last-checkpoints": True, "no-save-optimizer-state": True}, None),
        ("last", {"disable-validation": True, "valid-subset": "dev", "best-checkpoint-metric": "bleu"}, None),
        ("last", {"validate-after-updates": 5, "keep-last-epochs": 1}, None),
    ],
)  # fmt: skip
def test_a_training_is_refused_exactly_if_it_leaves_no_checkpoint(
    checked: Callable[..., list[Run]],
    tmp_path: Path,
    checkpoint: str,
    options: dict[str, Any],
    reason: str | None,
) -> None:
    options = {"max-update": 4, **options}
    if options.get("criterion"):
        options["label-smoothing"] = False
    if reason is None:
        step = checked(options, checkpoint=checkpoint)[0].steps[0]
    else:
        with pytest.raises(UserError) as error:
            checked(options, checkpoint=checkpoint)
        assert reason in str(error.value)
        assert "\n" not in str(error.value)
        step = expand(read_study(tmp_path / "study.yaml"), tmp_path / "results")[0].steps[0]
    done: Completed = support.run_fairseq("train", *step.command[3:], check=reason is None)
    left = done.returncode == 0 and step.products[0].exists()
    assert left == (reason is None), done.stdout


@pytest.mark.parametrize(
    ("options", "changes", "reason"),
    [
        ({"eval-bleu": True, "best-checkpoint-metric": "bleu"}, {}, "base, train: the highest bleu is the best, but"),
        ({"maximize-best-checkpoint-metric": True}, {}, "the lowest loss is the best"),
        ({"train-subset": "trian"}, {}, "train-subset of base, train is trian"),
        ({"reset-optimizer": True}, {"methods": ["pipelined"]}, "pipelined, train: reset-optimizer is given"),
        ({}, {"methods": [{"method": "joint", "options": {"arch": "transformer_tiny"}}]}, "joint, train: unrecognized"),
        ({"min-cross-heads": 4}, {"heads": [6, 3]}, "--min-cross-heads is 4, but only 3 heads are to be kept"),
        ({"final-temperature": -1.0}, {}, "base, train: "),
        ({}, {"methods": [{"method": "michel", "options": {"split": "test"}}]}, "michel, score-heads: --split test is"),
        ({}, {"methods": [{"method": "michel", "options": {"split": "dev"}}]}, "split of michel, score-heads is dev"),
        ({}, {"methods": [{"method": "michel", "options": {"steps": 0}}]}, "--steps is 0, but it must be 1 or more"),
        ({}, {"methods": [{"method": "michel", "options": {"steps": "two"}}]}, "--steps: invalid int value: 'two'"),
        ({}, {"methods": [{"method": "michel", "options": {"min-heads-per-module": 2}}]}, "keeps 12 heads, but only 6"),
    ],
)
def test_what_else_is_told_before(
    checked: Callable[..., list[Run]], options: dict[str, Any], changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UserError) as error:
        checked(options, **changes)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_texts_that_scoring_needs(write_study: Callable[..., Path], prepared: Path, tmp_path: Path) -> None:
    data = tmp_path / "prepared"
    shutil.copytree(prepared, data)
    study = read_study(write_study(data=str(data)))
    runs = expand(study, tmp_path / "results")
    (data / "raw/test.yy").write_text("a line\n" * 19, encoding="utf-8")
    with pytest.raises(UserError, match="has 20 sentences of test, but there are 19 references"):
        check_runs(study, runs)
    (data / "raw/test.yy").unlink()
    with pytest.raises(UserError, match=r"test\.yy cannot be read"):
        check_runs(study, runs)
    for path in data.glob("data-bin/valid*"):
        shutil.copy(path, path.with_name(path.name.replace("valid", "valid1")))
    with pytest.raises(UserError, match=r"base, train: Valid paths .*valid1.* will be ignored"):
        check_runs(study, runs)
    for path in data.glob("data-bin/valid1*"):
        path.unlink()
    for path in data.glob("data-bin/test*"):
        path.unlink()
    with pytest.raises(UserError, match="split of evaluate is test, but fairseq cannot load such a text"):
        check_runs(study, runs)


def test_options_of_each_run_as_fairseq_resolves_them(checked: Callable[..., list[Run]], tmp_path: Path) -> None:
    methods = ["joint", {"method": "pipelined", "recovery": {"max-update": 3}}, "range"]
    runs = {run.name: run for run in checked({}, methods=methods, heads=[6, 3], seeds=[1, 2])}
    joint = runs["joint-k3-s2"].record["resolved"]["train"]
    assert (joint["heads_to_keep"], joint["seed"], joint["lr"]) == (3, 2, [0.005])
    assert joint["adam_betas"] == [0.9, 0.999]  # a default of fairseq
    assert joint["pruning_lr"] == 0.2  # and one of this package
    assert "distributed_world_size" not in joint  # this machine's number of GPUs
    assert list(runs["pipelined-k3-s1"].record["resolved"]) == ["train", "recover"]
    assert runs["range-k3-s1"].record["resolved"] == {}
    for name in ("joint-k3-s2", "range-k3-s1"):
        needs = runs[name].record["needs"]
        assert list(needs) == list(runs[name].needs)
    seeds = [runs[f"pipelined-k3-s{seed}"].record["needs"][f"base-s{seed}"] for seed in (1, 2)]
    assert seeds[0] != seeds[1]
    assert yaml.safe_load(yaml.safe_dump(joint)) == joint
