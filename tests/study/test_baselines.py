"""The baselines of a choice: random heads with recovery, and the chosen heads with new weights."""

from __future__ import annotations

import collections
import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from studies import do

from fairseq_dsp.errors import UserError
from fairseq_dsp.model import HeadSet
from fairseq_dsp.study.runner import is_done, missing_steps, with_wanted
from fairseq_dsp.study.runs import expand
from fairseq_dsp.study.study_file import read_study
from fairseq_dsp.study.training_options import random_heads

SHAPE = {"encoder_self": [2], "decoder_self": [1], "cross": [2]}


def test_each_set_with_cross_attention_is_as_probable_as_any_other() -> None:
    sets = [
        HeadSet.from_gates(torch.tensor([float(i in chosen) for i in range(5)]), SHAPE)
        for chosen in itertools.combinations(range(5), 2)
    ]
    possible = {kept.to_json() for kept in sets if any(kept.of("cross"))}
    draws = 2100
    counts = collections.Counter(random_heads(SHAPE, 2, seed).to_json() for seed in range(draws))
    assert set(counts) == possible
    expected = draws / len(possible)
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 20.1  # χ² with 6 degrees, p > 0.0027


def test_the_ends() -> None:
    assert random_heads(SHAPE, 0, 1).kept == 0
    assert random_heads(SHAPE, 5, 1).kept == 5
    assert random_heads({**SHAPE, "decoder_self": [], "cross": []}, 1, 1).kept == 1


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"of": None}, "structure lacks the key of, but the name of a method that chooses heads is expected"),
        ({"of": "jiont"}, "structure takes the heads of jiont"),
        ({"of": "structure"}, "structure takes the heads of structure"),
        ({"of": "joint", "heads": [4]}, "joint at K = 4 with seed 1, but no such run is in the study"),
        ({"of": "joint", "seeds": [2]}, "joint at K = 6 with seed 2, but no such run is in the study"),
        ({"of": "joint", "start": "base"}, "structure is trained from scratch"),
        ({"of": "share"}, "structure takes the heads of share at given numbers, but share has shares of the cost"),
    ],
)
def test_a_structure_that_nothing_finds(entry: dict[str, Any], message: str, write_study: Callable[..., Path]) -> None:
    share = {"method": "joint", "name": "share", "parameters-to-keep": [0.5]}
    methods = ["joint", share, {"method": "structure", **{key: v for key, v in entry.items() if v is not None}}]
    with pytest.raises(UserError) as error:
        read_study(write_study(methods=methods))
    assert message in str(error.value)


def test_a_structure_needs_no_more_than_the_heads(
    finished: tuple[Path, Any], write_study: Callable[..., Path], tmp_path: Path
) -> None:
    """Of a run whose models were removed, its heads are there still."""
    results = Path(shutil.copytree(finished[0] / "results", tmp_path / "results"))
    for path in results.glob("runs/joint-k6-s1/**/*.pt"):
        path.unlink()
    study = read_study(write_study(methods=["joint", {"method": "structure", "of": "joint"}]))
    runs = {run.name: run for run in with_wanted(expand(study, results))}
    heads = results / "runs/joint-k6-s1/compact.heads.json"
    assert is_done(runs["joint-k6-s1"])
    train = runs["structure-k6-s1"].steps[0].command
    assert train[train.index("--kept-heads") + 1] == str(heads)
    heads.unlink()
    owner = next(run for run in with_wanted(list(runs.values())) if run.name == "joint-k6-s1")
    assert [step.name for step in missing_steps(owner)] == ["train", "compact"]


def test_what_a_choice_is_compared_with_trains_for_as_long(
    write_study: Callable[..., Path], tiny_recipe: dict[str, Any], tmp_path: Path
) -> None:
    """Also where few heads stay, which take as many updates as the unpruned model had."""
    methods = [{"method": "joint", "start": "base"}, {"method": "ste", "start": "base"}, "random"]
    study = write_study(recipe={**tiny_recipe, "max-update": 3000}, heads=[6, 3], methods=methods)
    updates = {
        run.name: command[command.index("--max-update") + 1]
        for run in expand(read_study(study), tmp_path / "results")
        for command in [list(run.steps[0].command)]
    }
    of_method = {name: (updates[f"{name}-k6-s1"], updates[f"{name}-k3-s1"]) for name in ("joint", "ste", "random")}
    assert of_method == dict.fromkeys(of_method, ("1000", "3000"))


@pytest.mark.slow
def test_both_for_real(write_study: Callable[..., Path], tmp_path: Path) -> None:
    study = write_study(methods=["random", {"method": "structure", "of": "joint"}, "joint"])
    runs = {run.name: run for run in expand(read_study(study), tmp_path / "results")}
    assert list(runs).index("joint-k6-s1") < list(runs).index("structure-k6-s1")
    assert runs["structure-k6-s1"].needs == ("joint-k6-s1",)
    assert runs["random-k6-s1"].needs == ("base-s1",)
    for run in runs.values():
        do(run)

    def kept(name: str) -> HeadSet:
        (scores,) = json.loads((runs[name].folder / "scores.json").read_text())
        return HeadSet.from_json(scores["kept"])

    def weights(name: str) -> Any:
        return load_checkpoint_to_cpu(str(runs[name].folder / "checkpoints/checkpoint_last.pt"))

    assert kept("structure-k6-s1") == kept("joint-k6-s1")
    shape = {kind: [2] * len(kept("random-k6-s1").of(kind)) for kind in ("encoder_self", "decoder_self", "cross")}
    assert kept("random-k6-s1") == random_heads(shape, 6, 1)
    log = (runs["random-k6-s1"].steps[0].command, runs["structure-k6-s1"].steps[0].command)
    assert "--finetune-from-model" in log[0]
    assert "--finetune-from-model" not in log[1]
    assert weights("structure-k6-s1")["cfg"]["model"].head_selection == "fixed"
