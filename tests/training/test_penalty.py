"""The L0 penalty of hard_concrete: per target token, and adapted to a number of heads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import inprocess
import pytest
import torch
from fairseq import criterions, tasks

from fairseq_dsp.errors import UserError

VOITA = ["--cpu", "--head-selection", "hard_concrete", "--criterion", "label_smoothed_cross_entropy_dsp"]


def batches(tiny_data: Path, tmp_path: Path, *flags: object) -> tuple[Any, Any, list[dict[str, Any]]]:
    """A model, its criterion and batches of 5, 10 and 20 sentences."""
    config = inprocess.argparse_config(tiny_data, tmp_path, *VOITA, "--dropout", 0, *flags)
    task = tasks.setup_task(config.task)
    task.load_dataset("valid")
    torch.manual_seed(1)
    model = task.build_model(config.model)
    dataset = task.dataset("valid")
    samples = [dataset.collater([dataset[i] for i in range(size)]) for size in (5, 10, 20)]
    return model, criterions.build_criterion(config.criterion, task), samples


@pytest.mark.parametrize("average", [(), ("--sentence-avg",)])
def test_the_penalty_is_the_same_for_every_batch_size(average: tuple, tiny_data: Path, tmp_path: Path):
    model, criterion, samples = batches(tiny_data, tmp_path, "--l0-penalty", 0.3, *average)
    plain, _, _ = batches(tiny_data, tmp_path, "--l0-penalty", 0.0, *average)
    plain.load_state_dict(model.state_dict())
    expected = float(model.pruner.expected_open())
    for sample in samples:
        size = len(sample["id"]) if average else sample["ntokens"]
        losses = [criterion(m.train(), sample)[0] for m in (model, plain)]
        assert abs(float(losses[0] - losses[1]) / size - 0.3 * expected) < 1e-4
        _, sample_size, log = criterion(model.train(), sample)
        assert sample_size == size
        assert log["expected_heads"] == pytest.approx(expected * size)
    for m in (model, plain):
        assert criterion(m.eval(), samples[0])[0] == criterion(plain.eval(), samples[0])[0], "not in validation"


def test_the_penalty_closes_heads(tiny_data: Path, tmp_path: Path):
    kept = []
    for i, penalty in enumerate((0.0, 10.0)):
        state = inprocess.train(tiny_data, tmp_path / str(i), *VOITA, "--l0-penalty", penalty, "--max-update", 30)
        model = inprocess.build(inprocess.argparse_config(tiny_data, tmp_path, *VOITA, "--l0-penalty", penalty))
        model.load_state_dict(state["model"])
        kept.append(model.pruner.kept().kept)
    assert kept[0] > kept[1] == 0


@pytest.mark.skip(reason="how close it comes in so few updates has not been measured yet")
@pytest.mark.parametrize("wanted", [3, 8])
def test_the_adapted_penalty_meets_the_number_of_heads(wanted: int, tiny_data: Path, tmp_path: Path):
    flags = [*VOITA, "--l0-penalty", 0.05, "--l0-penalty-lr", 0.02, "--heads-to-keep", wanted, "--pruning-lr", 0.1]
    state = inprocess.train(tiny_data, tmp_path, *flags, "--max-update", 150, "--disable-validation")
    model = inprocess.build(inprocess.argparse_config(tiny_data, tmp_path, *flags))
    model.load_state_dict(state["model"])
    pruner = model.pruner
    assert abs(float(pruner.expected_open()) - wanted) < 0.75
    assert state["model"]["l0_multiplier.value"] != 0
    assert state["model"]["l0_multiplier.update"] == 149
    assert pruner.kept().kept == wanted, "exactly, however close the expectation came"


def test_checkpoints_with_and_without_an_adapted_penalty_load_in_both(tiny_data: Path, tmp_path: Path):
    constant = [*VOITA, "--l0-penalty", 0.01]
    adapted = [*constant, "--l0-penalty-lr", 0.1, "--heads-to-keep", 6]
    for name, one, other in (("a", constant, adapted), ("b", adapted, constant)):
        inprocess.train(tiny_data, tmp_path / name, *one, "--max-update", 2)
        start = ["--finetune-from-model", tmp_path / name / "checkpoint_last.pt"]
        state = inprocess.train(tiny_data, tmp_path / (name + "2"), *other, *start, "--max-update", 2)
        assert ("l0_multiplier.value" in state["model"]) == (other is adapted)


@pytest.mark.parametrize("flags", ["--task translation", "--task translation_dsp --update-freq 2"])
def test_a_criterion_that_ignores_the_penalty_is_refused(flags: str, tiny_data: Path, tmp_path: Path):
    stock = [*VOITA[:-1], "label_smoothed_cross_entropy", "--l0-penalty", 0.01, *flags.split()]
    with pytest.raises(UserError, match="use --criterion label_smoothed_cross_entropy_dsp"):
        inprocess.train(tiny_data, tmp_path, *stock)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--head-selection gumbel --l0-penalty 0.1", "is for --head-selection hard_concrete"),
        ("--head-selection hard_concrete", "by a penalty, but none is given"),
        ("--head-selection hard_concrete --l0-penalty nan", "must be a finite number"),
        ("--head-selection hard_concrete --l0-penalty 0.1 --l0-penalty-lr 0.1", "and --heads-to-keep"),
        ("--head-selection gumbel --heads-to-keep 3 --l0-penalty-lr 0.1", "--l0-penalty above 0"),
        ("--head-selection hard_concrete --l0-penalty 0.1 --heads-to-keep 3 --l0-penalty-lr -1", "above 0"),
    ],
)
def test_options_that_make_no_sense_are_refused(flags: str, sentence: str, tiny_data: Path, tmp_path: Path):
    with pytest.raises(UserError, match=sentence):
        inprocess.build(inprocess.argparse_config(tiny_data, tmp_path, *flags.split()))
