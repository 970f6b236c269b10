"""The options of the training of ``fairseq-dsp prune``, which follow from the model that is pruned."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inprocess
import pytest
import support

from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation import preprocessed
from fairseq_dsp.evaluation.prepared import PreparedData
from fairseq_dsp.files import write_json
from fairseq_dsp.study import prune, pruning_recipe
from fairseq_dsp.study.options import parse_options
from fairseq_dsp.study.unpruned_model import UnprunedModel


def options_of(model: UnprunedModel, data: PreparedData, k: int, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the training that keeps K heads."""
    return prune._options(model, data, {str(k): {"heads-to-keep": k}}, given)[str(k)]


def test_the_options_of_a_model(
    stock_checkpoint: Path, prepared: Path, train_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    """What is given wins, and its own scheduler stays where an option of it is given."""
    model = UnprunedModel.read(stock_checkpoint)
    data = PreparedData.read(prepared)
    assert (model.heads, model.updates, model.sizes["arch"]) == (12, 20, "transformer_dsp")
    options = options_of(model, data, 5, {})
    assert (options["max-update"], options["total-num-update"], options["warmup-updates"]) == (500, 500, 25)
    assert (options["heads-to-keep-updates"], options["cooldown-updates"]) == (125, 150)
    scored = {k: options_of(model, data, k, {}).get("head-selection") for k in (12, 11, 6, 5)}
    assert scored == {12: None, 11: "fixed", 6: "fixed", 5: None}  # half of the heads and more
    assert not {"cooldown-updates", "pruning-lr", "heads-to-keep-updates"} & options_of(model, data, 6, {}).keys()
    chosen = {"head-selection": "simple"}
    floors = {k: options_of(model, data, k, chosen).get("min-encoder-heads") for k in (12, 11, 5, 4, 2, 1)}
    assert floors == {12: None, 11: 3, 5: 2, 4: 1, 2: 1, 1: 0}  # of the encoder's 4 of 12; one in cross-attention stays
    floors = {k: options_of(model, data, k, chosen).get("min-decoder-heads") for k in (12, 11, 3, 2, 1)}
    assert floors == {12: None, 11: 1, 3: 1, 2: None, 1: None}
    for own in ("min-encoder-heads", "min-cross-heads", "encoder-heads-to-keep", "min-heads-per-module"):
        found = pruning_recipe.schedule({"max-update": 100, "heads-to-keep": 6, own: 1}, model.shape)
        assert "min-encoder-heads" not in found, f"{own} shares the heads out"
    given = {"max-update": "100", "cooldown-updates": "20", "lr": "0.5", "pruning-lr": "0.2"}
    options = options_of(model, data, 6, given)
    assert options | given == options
    assert options["heads-to-keep-updates"] == 20  # the budget does not shrink after the heads are fixed
    options = options_of(model, data, 6, {"lr-scheduler": "inverse_sqrt", "warmup-updates": "7"})
    assert "total-num-update" not in options
    own = options_of(model, data, 6, {"criterion": "cross_entropy", "optimizer": "sgd"})
    assert not {"label-smoothing", "adam-betas", "adam-eps"} & own.keys()  # which these do not take
    assert own["weight-decay"] == options["weight-decay"]
    own = options_of(model, data, 6, {"criterion": "label_smoothed_cross_entropy"})
    assert own["label-smoothing"] == options["label-smoothing"]
    model.state["optimizer_history"][-1]["num_updates"] = 6000
    lengths = {k: options_of(model, data, k, {})["max-update"] for k in (12, 6, 4, 3)}
    assert lengths == {12: 2000, 6: 2000, 4: 2000, 3: 6000}  # for less than a third as long as it was trained
    units = {"ffn-units-to-keep": 64, "ffn-unit-width": 1}  # of 128
    assert options_of(model, data, 6, units)["max-update"] == 2000
    options = options_of(model, data, 6, units | {"ffn-units-to-keep": 42})
    assert (options["max-update"], options["total-num-update"], options["cooldown-updates"]) == (6000, 6000, 1800)
    ends = {"heads-to-keep": 3, "heads-to-keep-low": 3, "heads-to-keep-high": 12}
    options = prune._options(model, data, {"3 to 12": ends}, {})["3 to 12"]
    assert (options["max-update"], options["cooldown-updates"], options["min-encoder-heads"]) == (4000, 1200, 3)
    assert options["min-decoder-heads"] == 1
    for low, floor in ((2, 1), (1, None), (0, None)):  # of a single head, cross-attention has the floor
        fewer = ends | {"heads-to-keep": low, "heads-to-keep-low": low}
        assert prune._options(model, data, {"few": fewer}, {})["few"].get("min-decoder-heads") == floor
    units = {"ffn-units-to-keep": 40, "max-update": 1000}
    for cooldown, shrinking in ((50, 50), (400, 250)):  # of the units; that of the heads is drawn
        options = prune._options(model, data, {"few": ends}, units | {"cooldown-updates": cooldown})["few"]
        assert (options["heads-to-keep-updates"], options["cooldown-updates"]) == (shrinking, cooldown)
    options = options_of(model, data, 6, {"head-selection": "gumbel", "max-update": 1000})
    assert options["cooldown-updates"] == 900
    share = pruning_recipe.schedule({"max-update": 100, "parameters-to-keep": 0.5}, model.shape)
    assert share["min-encoder-heads"] == 2
    assert "min-decoder-heads" not in share
    assert not ends.keys() & options.keys()
    found = pruning_recipe.touch_up({"lr": "0.4", "max-update": 100, "lr-shrink": "0.5"}, 20)
    assert found == {"lr": "0.4", "max-update": 20, "lr-shrink": "0.5"}, "fairseq's own scheduler, which has no length"
    lengths = {"max-update": 100, "warmup-updates": 5, "total-num-update": 100, "save-interval-updates": 20}
    less = {"max-update": 20, "warmup-updates": 1, "total-num-update": 20, "save-interval-updates": 4}
    assert pruning_recipe.touch_up({"lr": 0.4} | lengths, 20) == {"lr": 0.4} | less
    given = {"max-update": "100", "warmup-updates": "40", "total-num-update": "2e2", "save-interval-updates": "0"}
    less = {"max-update": 20, "warmup-updates": 8, "total-num-update": 40, "save-interval-updates": 0}
    assert pruning_recipe.touch_up(given, 20) == less
    hydra = ("model._name=transformer", "criterion._name=label_smoothed_cross_entropy", "optimization.max_update=1")
    inprocess.train_hydra("base", data.data_bin, tmp_path / "hydra", *inprocess.HYDRA_TINY, *hydra)
    own = UnprunedModel.read(tmp_path / "hydra/checkpoint_last.pt")
    assert (own.heads, own.sizes["arch"], own.sizes["encoder-embed-dim"]) == (12, "transformer_dsp", 16)
    options = options_of(own, data, 6, {})
    assert (options["lr"], options["adam-betas"], options["dropout"]) == (0.005, "(0.9,0.98)", 0.3)
    train_tiny(tmp_path, "--max-update", 1, arch="transformer_dsp_tiny")
    assert UnprunedModel.read(tmp_path / "checkpoint_last.pt").sizes["arch"] == "transformer_dsp_tiny"
    assert main(["export-fairseq", str(tmp_path / "checkpoint_last.pt"), str(tmp_path / "exported.pt")]) == 0
    exported = UnprunedModel.read(tmp_path / "exported.pt")
    assert (exported.heads, exported.sizes["arch"], exported.sizes["encoder-embed-dim"]) == (12, "transformer_dsp", 16)


def test_a_learning_rate_of_another_optimiser(stock_checkpoint: Path, prepared: Path) -> None:
    model, data = UnprunedModel.read(stock_checkpoint), PreparedData.read(prepared)
    model.state["cfg"]["optimizer"] = Namespace(_name="nag")
    model.state["cfg"]["optimization"].lr = [0.25]
    with pytest.raises(UserError, match=r"was trained by nag with the learning rate 0.25, .*: give --lr, such as"):
        options_of(model, data, 6, {})
    assert options_of(model, data, 6, {"lr": "0.001"})["lr"] == "0.001"
    assert options_of(model, data, 6, {"optimizer": "nag"})["lr"] == 0.25


def test_files_that_are_named_after_the_other_direction(stock_checkpoint: Path, prepared: Path, tmp_path: Path) -> None:
    """The options of a training are read for the model's direction, whose dictionaries may be of different sizes."""
    support.named_other_way_round(prepared / "data-bin", tmp_path / "bin")
    model = UnprunedModel.read(stock_checkpoint)
    given = {"references": str(prepared / "raw/test.yy")}
    data = preprocessed.for_model(preprocessed.read_data(tmp_path / "bin", "test", given), model.state, "test")
    args = parse_options(data, model.sizes, "the command line")
    assert (args.source_lang, args.target_lang) == ("xx", "yy")


def test_a_folder_of_an_earlier_version(stock_checkpoint: Path, tmp_path: Path) -> None:
    """It lacks what there was not yet; and what does not change the result has its default again if it is left out."""
    asked = {"checkpoint": {"sha256": "1"}, "data": "d", "heads": [6], "given": {}, "touch-up": None, "range": False}
    own = {"max-update": 100, "lr": 0.1, "keep-interval-updates": "2"}
    there = {name: value for name, value in asked.items() if name not in ("touch-up", "range")}
    there |= {"given": {"keep-interval-updates": "2"}, "options": {"6": own}}
    write_json(tmp_path / prune.ASKED, there)
    found = prune._recorded(tmp_path, asked)
    assert found == {"6": own | {"save-interval-updates": 20, "keep-interval-updates": 1, "log-interval": 20}}
    with pytest.raises(UserError, match=r"another call \(touch-up null, now 50\)"):
        prune._recorded(tmp_path, asked | {"touch-up": 50})


def test_it_learns_from_what_it_learnt_from(stock_checkpoint: Path, prepared: Path) -> None:
    """From sentences that were cut, and not from the first words of a translation."""
    model, data = UnprunedModel.read(stock_checkpoint), PreparedData.read(prepared)
    names = {"truncate-source", "ignore-prefix-size"}
    assert not names & options_of(model, data, 6, {}).keys()
    assert model.longest == 1023
    model.state["cfg"]["task"].update({"truncate_source": True, "max_source_positions": 24})
    model.state["cfg"]["model"].max_source_positions = 24
    model.state["cfg"]["criterion"]["ignore_prefix_size"] = 1
    options = options_of(model, data, 6, {})
    assert (options["truncate-source"], options["ignore-prefix-size"], options["max-source-positions"]) == (True, 1, 24)
    assert model.longest == 24


def test_the_precision_of_a_model(stock_checkpoint: Path, prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU as it was trained, unless another precision is given; on a CPU what is given."""
    model, data = UnprunedModel.read(stock_checkpoint), PreparedData.read(prepared)
    model.state["cfg"]["common"]["bf16"] = True

    def precisions(**given: bool) -> set[str]:
        return options_of(model, data, 6, dict(given)).keys() & {"fp16", "bf16", "amp"}

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert (precisions(), precisions(amp=True)) == ({"bf16"}, {"amp"})
    assert not precisions(**{"memory-efficient-fp16": True}) | precisions(cpu=True)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert (precisions(), precisions(bf16=True)) == (set(), {"bf16"})


@pytest.mark.parametrize("more", [[], ["--cpu"]])
def test_no_step_uses_a_gpu_if_the_training_does_not(
    more: list[str], stock_checkpoint: Path, prepared: Path, tmp_path: Path, capsys: Any
) -> None:
    asked = ["--heads-to-keep", "6", "5", "--distill", "--dry-run"]
    assert main(["prune", str(stock_checkpoint), str(prepared), str(tmp_path / "out"), *asked, *more]) == 0
    lines = capsys.readouterr().out.splitlines()
    of_device = ("fairseq_cli.train", "prepare distilled", "score-heads", "compensate", "evaluate")
    commands = {name: [line for line in lines if f" {name} " in line] for name in of_device}
    assert [len(found) for found in commands.values()] == [2, 1, 1, 1, 3]
    for command in [line for found in commands.values() for line in found]:
        assert ("--cpu" in command.split()) is bool(more), command
