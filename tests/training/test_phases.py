"""Trainings across the updates in which pruning begins and in which heads become fixed."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import inprocess
import kills
import pytest
import support
import torch
from fairseq.distributed import ModuleProxyWrapper
from ranks import SAME_DATA, assert_same_model, train_on_two_processes
from support import mostly_slow

from fairseq_dsp.model.gates import ALL, CHOOSING, FIXED

RATE = 0.2
CHOICE = ["--cpu", "--heads-to-keep", 5, "--pruning-lr", RATE, "--cooldown-updates", 6]


@pytest.mark.parametrize(
    "flags", mostly_slow([[], ["--update-freq", 2], ["--store-ema"]], []), ids=["plain", "update-freq", "ema"]
)
def test_resuming_around_the_update_that_fixes_the_heads(flags: list, tiny_data: Path, tmp_path: Path):
    straight = inprocess.train(tiny_data, tmp_path / "straight", *CHOICE, *flags, "--max-update", 12)
    for stop in (5, 6, 7):
        folder = tmp_path / str(stop)
        inprocess.train(tiny_data, folder, *CHOICE, *flags, "--max-update", stop)
        resumed = inprocess.train(tiny_data, folder, *CHOICE, *flags, "--max-update", 12)
        for name, value in straight["model"].items():
            assert torch.equal(value, resumed["model"][name]), f"{name}, stopped after {stop}"


def updates(checkpoint: Path) -> int:
    made: int = torch.load(checkpoint, weights_only=True)["optimizer_history"][-1]["num_updates"]
    return made


@pytest.mark.slow
def test_killed_on_either_side_of_the_update_that_fixes_the_heads(train_tiny, tiny_data: Path, tmp_path: Path):
    """Killed while a checkpoint is written: training goes on before the last choice, after it, and an update later."""
    flags = [*CHOICE, "--save-interval-updates", 1, "--max-update", 12]
    train_tiny(tmp_path / "straight", *flags, arch="transformer_dsp")
    args = support.tiny_train_args(tiny_data, tmp_path / "killed", *flags, arch="transformer_dsp")
    names = {updates(path): path.name for path in (tmp_path / "straight").glob("checkpoint_[0-9]*.pt")}
    for update in (6, 7, 8):
        kills.kill_in_write(args, names[update], tmp_path)
        assert updates(tmp_path / "killed/checkpoint_last.pt") == update - 1
    train_tiny(tmp_path / "killed", *flags, arch="transformer_dsp")
    kills.assert_same_training(*(tmp_path / run / "checkpoint_last.pt" for run in ("straight", "killed")))


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(
    "flags", [[], ["--fp16"], ["--fp16", "--ffn-units-to-keep", 40], ["--heads-to-keep-updates", 4]]
)
def test_a_gpu_trains_through_all_phases(flags: list, tiny_data: Path, tmp_path: Path):
    options = [*CHOICE[1:], "--pruning-warmup-updates", 2, *flags, "--max-update", 12]
    state = inprocess.train(tiny_data, tmp_path, *options)
    assert state["model"]["heads.kept"].sum() == 5
    assert state["model"]["heads.phase"] == FIXED


@pytest.mark.parametrize("before", [["--pruning-warmup-updates", 8], ["--heads-to-keep-updates", 119]])
def test_nothing_moves_before_pruning_begins_and_the_first_step_is_no_longer_than_any(
    before: list, tiny_data: Path, tmp_path: Path
):
    """A budget that shrinks from 12 to 5 in 119 updates is 12 until update 8."""
    flags = ["--cpu", "--heads-to-keep", 5, "--pruning-lr", RATE, "--adam-betas", "(0.9, 0.999)", *before]
    flags += ["--cooldown-updates", 150, "--log-interval", 100]
    begun = 8 if "--pruning-warmup-updates" in before else 9
    at_rest = inprocess.train(tiny_data, tmp_path, *flags, "--max-update", begun)
    assert not inprocess.importance(at_rest["model"]).any()
    importance = at_rest["last_optimizer_state"]["param_groups"][1]["params"]
    assert not set(importance) & set(at_rest["last_optimizer_state"]["state"]), "no state of Adam's either"
    moved = inprocess.train(tiny_data, tmp_path, *flags, "--max-update", begun + 1)
    steps = inprocess.importance(moved["model"]).abs()
    assert steps.max() == pytest.approx(RATE, rel=1e-3)
    later = inprocess.train(tiny_data, tmp_path, *flags, "--max-update", begun + 3)
    assert inprocess.importance(later["model"]).abs().max() <= 3 * RATE * 1.01


OPTIONS = {
    "quantisation noise": "--quant-noise-pq 0.1 --quant-noise-pq-block-size 4",
    "cross-self-attention": "--cross-self-attention --no-cross-attention --min-cross-heads 0",
    "another width": "--encoder-embed-dim 32 --encoder-attention-heads 4",
    "activation checkpointing": "--checkpoint-activations",
    "LayerDrop": "--encoder-layerdrop 0.3 --decoder-layerdrop 0.3",
    "EMA": "--store-ema --ema-decay 0.9",
    "attention dropout": "--attention-dropout 0.3 --activation-dropout 0.1",
}


@pytest.mark.parametrize("option", mostly_slow(OPTIONS, "activation checkpointing"))
def test_stock_options_while_choosing_and_after(option: str, tiny_data: Path, tmp_path: Path):
    flags = ["--cpu", "--heads-to-keep", 5, "--ffn-units-to-keep", 9, "--ffn-unit-width", 4, "--cooldown-updates", 4]
    flags += OPTIONS[option].split()
    state = inprocess.train(tiny_data, tmp_path, *flags, "--max-update", 4)
    chosen = [state["model"][f"{kind}.kept"] for kind in ("heads", "ffn")]
    assert [int(kept.sum()) for kept in chosen] == [5, 9]
    state = inprocess.train(tiny_data, tmp_path, *flags, "--max-update", 9)
    for kind, kept in zip(("heads", "ffn"), chosen, strict=True):
        assert torch.equal(state["model"][f"{kind}.kept"], kept)
    assert all(value.isfinite().all() for value in state["model"].values())


def test_the_matrices_of_modules_without_heads_are_left_as_they_are(tiny_data: Path, tmp_path: Path):
    flags = ["--cpu", "--heads-to-keep", 2, "--cooldown-updates", 4, "--weight-decay", 0.1]
    before = inprocess.train(tiny_data, tmp_path, *flags, "--max-update", 4)["model"]
    after = inprocess.train(tiny_data, tmp_path, *flags, "--max-update", 9)["model"]
    matrices = [name for name in before if name.endswith("_proj.weight") and "output" not in name]
    same = {name.rsplit(".", 2)[0] for name in matrices if torch.equal(before[name], after[name])}
    moved = {name.rsplit(".", 2)[0] for name in matrices if not torch.equal(before[name], after[name])}
    assert len(moved) in (1, 2)  # two heads are in one or two modules
    assert len(same | moved) == 6
    biases = [name for name in before if name.endswith("out_proj.bias")]
    assert not any(torch.equal(before[name], after[name]) for name in biases)


@pytest.mark.slow
def test_two_processes_with_fixed_heads_and_activation_checkpointing(tiny_data: Path, tmp_path: Path):
    flags = [*SAME_DATA, *CHOICE, "--heads-to-keep", 2, "--checkpoint-activations"]  # modules without heads, too
    whole = inprocess.train(tiny_data, tmp_path / "whole", *flags, "--batch-size", 20)
    pair, records = train_on_two_processes(tiny_data, tmp_path, *flags, "--batch-size", 10)
    assert records[0] == records[1]
    assert int(pair["model"]["heads.phase"]) == FIXED
    assert_same_model(whole, pair)


def wrap_in_ddp(flags: list, tiny_data: Path, folder: Path) -> None:
    """Go through the phases of a training with what fairseq's pytorch_ddp wraps a model in."""
    budgets = ("--heads-to-keep", 2, "--ffn-units-to-keep", 3, "--ffn-unit-width", 8)  # modules without units, too
    schedule = ("--pruning-warmup-updates", 2, "--cooldown-updates", 2)
    config = inprocess.argparse_config(tiny_data, folder, *budgets, *schedule, *flags)
    model, criterion, samples = inprocess.with_criterion(config, 5)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=0, world_size=1)
    wrapped = ModuleProxyWrapper(torch.nn.parallel.DistributedDataParallel(model.train()))
    for update in range(7):
        model.set_num_updates(update)
        criterion(wrapped, samples[0])[0].backward()
        assert model.pruner.plan.phase(update) == [ALL, ALL, CHOOSING, CHOOSING, FIXED, FIXED, FIXED][update]
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)
    (folder / "done").touch()
    os._exit(0)  # a gloo group that Python takes apart may wait for ever


@pytest.mark.parametrize(
    "flags",
    mostly_slow([[], ["--checkpoint-activations"]], ["--checkpoint-activations"]),
    ids=["plain", "checkpointing"],
)
def test_torch_ddp_finds_a_gradient_of_every_parameter_in_every_phase(flags: list, tiny_data: Path, tmp_path: Path):
    """fairseq's pytorch_ddp asks for a GPU; what it wraps does not, and a gradient that is missing ends it."""
    process = multiprocessing.get_context("spawn").Process(target=wrap_in_ddp, args=(flags, tiny_data, tmp_path))
    process.start()
    process.join(240)
    process.kill()
    assert (tmp_path / "done").exists(), "the process has printed why"
