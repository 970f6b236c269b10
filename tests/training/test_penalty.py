"""A penalty per target token on open heads, constant or adapted to a number of heads."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import inprocess
import pytest
import torch
from support import mostly_slow

from fairseq_dsp.errors import UserError
from fairseq_dsp.model.pruning_options import PruningConfig, with_heads
from fairseq_dsp.subset.hard_concrete import HardConcrete, hold, open_probability

VOITA = ["--cpu", "--head-selection", "hard_concrete", "--criterion", "label_smoothed_cross_entropy_dsp"]


def batches(tiny_data: Path, tmp_path: Path, *flags: object) -> tuple[Any, Any, list[dict[str, Any]]]:
    """A model, its criterion and batches of 5, 10 and 20 sentences."""
    config = inprocess.argparse_config(tiny_data, tmp_path, *VOITA, "--dropout", 0, *flags)
    return inprocess.with_criterion(config, 5, 10, 20)


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


def test_a_pass_without_a_loss_beside_others_is_no_fault(tiny_data: Path, tmp_path: Path):
    """One that runs out of memory, after which fairseq goes on with the other micro-batches."""
    model, criterion, samples = batches(tiny_data, tmp_path, "--l0-penalty", 0.3)
    model.train()
    model(**samples[0]["net_input"])
    copy.deepcopy(model).set_num_updates(1)  # what is averaged has not been trained
    with pytest.raises(UserError, match="this criterion does not add it"):
        model.set_num_updates(1)
    criterion(model, samples[1])
    model(**samples[0]["net_input"])
    model.set_num_updates(1)


@pytest.mark.slow
def test_the_penalty_closes_heads(tiny_data: Path, tmp_path: Path):
    kept = []
    for i, penalty in enumerate((0.0, 10.0)):
        state = inprocess.train(tiny_data, tmp_path / str(i), *VOITA, "--l0-penalty", penalty, "--max-update", 30)
        model = inprocess.model(tiny_data, *VOITA, "--l0-penalty", penalty)
        model.load_state_dict(state["model"])
        kept.append(model.pruner.kept().kept)
    assert kept[0] > kept[1] == 0


def held(model: Any) -> float:
    """The expected number of open gates of a training update: from the importance, not from a sample."""
    pruner = model.pruner
    return float(open_probability(hold(pruner.importance, pruner.plan.budget)).sum())


@pytest.mark.parametrize(("wanted", "start"), mostly_slow([(3, 0.0), (3, 6.0), (8, -6.0)], (3, 0.0)))
def test_without_a_weight_the_expected_number_of_open_gates_is_the_budget(
    wanted: int, start: float, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whatever the importance starts from: all gates open at 6, hardly any at −6."""
    sampled: list[torch.Tensor] = []
    sample = HardConcrete.sample

    def watched(self: HardConcrete, *args: Any) -> torch.Tensor:
        sampled.append(sample(self, *args).detach())
        return sample(self, *args)

    monkeypatch.setattr(HardConcrete, "sample", watched)
    flags = ["--cpu", "--head-selection", "hard_concrete", "--heads-to-keep", wanted]
    state = inprocess.train(tiny_data, tmp_path / "start", *flags, "--max-update", 1)
    inprocess.importance(state["model"]).fill_(start)
    torch.save(state, tmp_path / "start.pt")
    sampled.clear()
    state = inprocess.train(
        tiny_data, tmp_path / "run", *flags, "--finetune-from-model", tmp_path / "start.pt", "--max-update", 100,
        "--disable-validation", "--save-interval", 100,
    )  # fmt: skip
    model = inprocess.model(tiny_data, *flags)
    model.load_state_dict(state["model"])
    assert held(model) == pytest.approx(wanted, abs=1e-5)
    assert model.pruner.kept().kept == wanted
    opened = torch.stack([(gates > 0).sum() for gates in sampled]).float()
    assert len(opened) == 100
    assert opened.mean() == pytest.approx(wanted, abs=0.5), "and so many were open in training, on average"
    settled = inprocess.importance(state["model"])
    assert settled.std() > 1, "the heads came apart"


def test_the_expectation_follows_a_shrinking_budget(tiny_data: Path):
    flags = ["--head-selection", "hard_concrete", "--heads-to-keep", 2, "--heads-to-keep-updates", 10]
    plan = inprocess.model(tiny_data, *flags).pruner.plan
    importance = torch.linspace(-3, 3, 12)
    means = [sum((plan.sample(importance, u, seed) > 0).sum() for seed in range(300)) / 300 for u in (0, 5, 10, 20)]
    assert means == pytest.approx([12, 7, 2, 2], abs=0.3)


def test_all_heads_stay_if_so_many_are_asked_for(tiny_data: Path):
    """What is at least half open stays only where no number of heads is given."""
    model = inprocess.model(tiny_data, *VOITA, "--l0-penalty", 0.1)
    plan = model.pruner.plan
    importance = torch.linspace(-3, 3, 12)
    assert plan.keep(importance).sum() == 6
    assert plan.keep(importance, 12).sum() == 12
    assert plan.keep(importance, 5).sum() == 5


@pytest.mark.parametrize("flags", ["--task translation", "--task translation_dsp --update-freq 2"])
def test_a_criterion_that_ignores_the_penalty_is_refused(flags: str, tiny_data: Path, tmp_path: Path):
    stock = ["--cpu", "--criterion", "label_smoothed_cross_entropy", *flags.split()]
    stock += ["--head-selection", "hard_concrete", "--l0-penalty", 0.01]
    with pytest.raises(UserError, match="use --criterion label_smoothed_cross_entropy_dsp"):
        inprocess.train(tiny_data, tmp_path, *stock)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--head-selection gumbel --l0-penalty 0.1", "is for --head-selection hard_concrete"),
        ("--head-selection hard_concrete", "neither its weight nor a number of heads is given"),
        ("--head-selection hard_concrete --l0-penalty nan", "must be a finite number"),
        ("--head-selection hard_concrete --l0-penalty -0.1", "must be a finite number, 0 or more"),
    ],
)
def test_options_that_make_no_sense_are_refused(flags: str, sentence: str, tiny_data: Path):
    with pytest.raises(UserError, match=sentence):
        inprocess.model(tiny_data, *flags.split())


def test_any_model_can_be_made_to_keep_given_heads():
    for options in (
        {"heads_to_keep": 6, "pruning_warmup_updates": 5},
        {"head_selection": "hard_concrete", "l0_penalty": 0.1},
        {"heads_to_keep": 6, "freeze_weights": True},
    ):
        PruningConfig(**options).check()
        PruningConfig(**{**options, **with_heads("heads.json")}).check()  # as evaluation overrides a checkpoint's
