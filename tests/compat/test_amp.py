"""``--amp``, with a scaler of the CPU: what a GPU does."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

import inprocess
import pytest
import torch
from fairseq.optim.adam import FairseqAdam
from fairseq.optim.amp_optimizer import AMPOptimizer
from fairseq.optim.fairseq_optimizer import FairseqOptimizer

SCALE = 2.0**15


@pytest.fixture
def optimizer(monkeypatch: pytest.MonkeyPatch) -> Any:
    """``optimizer(parameter)``: fairseq's, whose scaler is on."""
    monkeypatch.setattr(torch.cuda.amp, "GradScaler", partial(torch.amp.GradScaler, "cpu"))
    adam = Namespace(_name="adam", lr=[0.1], adam_betas="(0.9, 0.98)", adam_eps=1e-8, weight_decay=0.0)
    adam.use_old_adam = adam.fp16_adam_stats = adam.tpu = False
    common = Namespace(fp16_init_scale=SCALE, min_loss_scale=1e-4, amp_scale_window=3, amp_init_scale=9)
    common.tpu = common.bf16 = False

    def make(parameter: torch.Tensor) -> AMPOptimizer:
        return AMPOptimizer(Namespace(optimizer=adam, common=common), [parameter], FairseqAdam(adam, [parameter]))

    return make


def train(optimizer: AMPOptimizer, parameter: torch.Tensor, updates: int = 1) -> None:
    for _ in range(updates):
        optimizer.zero_grad()
        optimizer.backward((1e-5 * parameter).sum())
        optimizer.clip_grad_norm(0.0)
        optimizer.step()


def test_a_small_gradient_is_not_lost(optimizer: Any) -> None:
    """Adam moves by its learning rate where ε is small beside the gradient."""
    parameter = torch.nn.Parameter(torch.ones(3))
    train(optimizer(parameter), parameter)
    torch.testing.assert_close(parameter.data, torch.full((3,), 0.9), rtol=1e-3, atol=0)
    torch.testing.assert_close(parameter.grad, torch.full((3,), 1e-5))


def test_a_checkpoint_holds_the_scale_and_the_updates_at_it(optimizer: Any) -> None:
    parameter = torch.nn.Parameter(torch.ones(3))
    first, second = optimizer(parameter), optimizer(parameter)
    train(first, parameter, 4)
    assert first.scaler.get_scale() == 2 * SCALE  # after the three of --amp-scale-window
    second.load_state_dict(first.state_dict())
    assert second.scaler.get_scale() == 2 * SCALE
    train(second, parameter, 2)
    assert second.scaler.get_scale() == 4 * SCALE
    third = optimizer(parameter)
    third.load_state_dict({name: value for name, value in first.state_dict().items() if name != "grad_scaler"})
    assert third.scaler.get_scale() == SCALE  # of fairseq's own checkpoint


@pytest.mark.parametrize("flags", [[], ["--ema-fp32"]], ids=["ema", "ema-fp32"])
def test_an_average_begins_with_the_weights_of_a_trained_model(flags: list, tiny_data: Path, tmp_path: Path) -> None:
    inprocess.train(tiny_data, tmp_path / "base", "--cpu", "--max-update", 2)
    start = tmp_path / "base/checkpoint_last.pt"
    average = ["--store-ema", "--ema-decay", 1.0, *flags, "--heads-to-keep", 6, "--cooldown-updates", 3]
    state = inprocess.train(
        tiny_data, tmp_path / "on", "--cpu", *average, "--finetune-from-model", start, "--max-update", 5
    )
    before, found = torch.load(start, weights_only=True)["model"], state["extra_state"]["ema"]
    names = [name for name in before if name in found and not name.startswith("heads.") and "version" not in name]
    assert len(names) > 10
    assert [name for name in names if not torch.equal(before[name].float(), found[name].float())] == []
    # but keeps the heads that the training keeps
    for name in ("heads.importance", "heads.kept"):
        assert torch.equal(state["model"][name], found[name]), name


def test_loading_goes_through_what_is_done_around_every_optimizers(
    optimizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for the own settings of the importance, which come after the fixes of fairseq."""
    seen = []
    monkeypatch.setattr(FairseqOptimizer, "load_state_dict", lambda _, state, overrides=None: seen.append(overrides))
    parameter = torch.nn.Parameter(torch.ones(2))
    one = optimizer(parameter)
    train(one, parameter)
    one.load_state_dict(one.state_dict(), {"weight_decay": 0.1})
    assert seen == [{"weight_decay": 0.1}]
