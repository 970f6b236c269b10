"""Training heads and feed-forward units to their budgets: exactly, and exactly the same when it is interrupted."""

from __future__ import annotations

from pathlib import Path

import inprocess
import pytest
import torch
from support import mostly_slow

from fairseq_dsp.model.gates import CHOOSING, FIXED
from fairseq_dsp.removal.checkpoint import TrainedModel

BUDGETS = {"heads": ("--heads-to-keep", 5), "ffn": ("--ffn-units-to-keep", 7, "--ffn-unit-width", 8)}
BOTH = (*BUDGETS["heads"], *BUDGETS["ffn"])
SHARES = [(f"--{what}-to-keep", 0.4, "--ffn-unit-width", 8) for what in ("parameters", "flops")]
SCHEDULE = ("--cpu", "--cooldown-updates", 6, "--dropout", 0.1)


@pytest.mark.parametrize("selection", mostly_slow(["simple", "gumbel", "ste", "hard_concrete"], "simple"))
@pytest.mark.parametrize("kinds", [("ffn",), ("heads", "ffn")], ids=["units", "both"])
def test_exactly_as_many_units_stay(tiny_data: Path, tmp_path: Path, selection: str, kinds: tuple[str, ...]) -> None:
    flags = [flag for kind in kinds for flag in BUDGETS[kind]]
    state = inprocess.train(tiny_data, tmp_path, *SCHEDULE, *flags, "--head-selection", selection, "--max-update", 8)
    kept = {name: int(state["model"][f"{name}.kept"].sum()) for name in BUDGETS}
    assert kept == {"heads": 5 if "heads" in kinds else 12, "ffn": 7}
    assert bool(state["model"]["ffn.importance"].any())
    assert bool(state["model"]["heads.importance"].any()) == ("heads" in kinds)


@pytest.mark.parametrize("selection", mostly_slow(["simple", "gumbel", "ste", "hard_concrete"], "simple"))
def test_a_share_of_the_parameters_stays(tiny_data: Path, tmp_path: Path, selection: str) -> None:
    """A head has 536 parameters, a unit 264."""
    flags = [*SCHEDULE, *SHARES[0], "--head-selection", selection, "--max-update", 8]
    model = inprocess.train(tiny_data, tmp_path, *flags)["model"]
    heads, units = (int(model[f"{name}.kept"].sum()) for name in BUDGETS)
    assert 0.4 * (12 * 536 + 16 * 264) - 264 <= 536 * heads + 264 * units <= 0.4 * (12 * 536 + 16 * 264)
    kept = TrainedModel.read(str(tmp_path / "checkpoint_last.pt")).heads
    assert [one.kept for one in kept.all] == [heads, units]


@pytest.mark.parametrize("hydra", [False, True], ids=["argparse", "hydra"])
def test_a_training_goes_on_without_a_width(
    hydra: bool, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is that of the layers then, when it begins and when it goes on."""
    for end in (2, 4):
        if hydra:
            overrides = [
                "model.heads_to_keep=6",
                "+model.ffn_units_to_keep=11",
                "model.cooldown_updates=6",
                f"optimization.max_update={end}",
            ]
            state = inprocess.train_hydra("joint", tiny_data, tmp_path, *inprocess.HYDRA_TINY, *overrides)
        else:
            sizes = ["--encoder-ffn-embed-dim", 64, "--decoder-ffn-embed-dim", 64, "--ffn-units-to-keep", 11]
            state = inprocess.train(tiny_data, tmp_path, *SCHEDULE, *sizes, "--max-update", end)
        options = state["cfg"]["model"]
        width = options["ffn_unit_width"] if isinstance(options, dict) else options.ffn_unit_width
        assert width == (2 if hydra else 4)
        assert state["optimizer_history"][-1]["num_updates"] == end
    assert "in this training so far" not in caplog.text


@pytest.mark.parametrize("budget", [BOTH, *SHARES], ids=["numbers", "parameters", "flops"])
@pytest.mark.parametrize("stop", mostly_slow([4, 6, 7], 6))
def test_resuming_is_exact_across_the_update_that_fixes_units(
    tiny_data: Path, tmp_path: Path, stop: int, budget: tuple[str, ...]
) -> None:
    if budget is not BOTH and stop == 7:
        budget = (*budget, "--heads-to-keep-updates", 5)
    flags = [*SCHEDULE, *budget]
    whole = inprocess.train(tiny_data, tmp_path / "whole", *flags, "--max-update", 9)
    part = inprocess.train(tiny_data, tmp_path / "parts", *flags, "--max-update", stop)
    assert int(part["model"]["ffn.phase"]) == (CHOOSING if stop <= 6 else FIXED)
    resumed = inprocess.train(tiny_data, tmp_path / "parts", *flags, "--max-update", 9)
    for name, value in whole["model"].items():
        assert torch.equal(value, resumed["model"][name]), name
    for key, values in whole["last_optimizer_state"]["state"].items():
        for name, value in values.items():
            assert torch.equal(
                torch.as_tensor(value), torch.as_tensor(resumed["last_optimizer_state"]["state"][key][name])
            )
    groups = whole["last_optimizer_state"]["param_groups"]
    assert len(groups[1]["params"]) == 2, "the importances of both kinds"


def test_the_log_tells_of_both_kinds(train_tiny, tmp_path: Path) -> None:
    flags = ["--task", "translation_dsp", *SCHEDULE, *BOTH]
    printed = train_tiny(tmp_path, *flags, arch="transformer_dsp").stdout
    last = [line for line in printed.splitlines() if "ffn_encoder=" in line][-1]
    values = dict(part.split("=") for part in last.replace(",", "").split() if "=" in part)
    assert int(float(values["ffn_encoder"]) + float(values["ffn_decoder"])) == 7
    assert sum(float(values[f"heads_{kind}"]) for kind in ("encoder_self", "decoder_self", "cross")) == 5
    assert float(values["ffn_gate_softness"]) == 0, "they are fixed"


@pytest.mark.parametrize("budget", [BOTH, SHARES[1]], ids=["numbers", "flops"])
def test_frozen_weights_train_both_importances_alone(tiny_data: Path, tmp_path: Path, budget: tuple[str, ...]) -> None:
    inprocess.train(tiny_data, tmp_path / "base", "--cpu", "--max-update", 3)
    base = tmp_path / "base/checkpoint_last.pt"
    flags = [*SCHEDULE, *budget, "--freeze-weights", "--finetune-from-model", base]
    after = inprocess.train(tiny_data, tmp_path / "frozen", *flags, "--max-update", 5)["model"]
    before = inprocess.checkpoint(tmp_path / "base")["model"]
    moved = {name for name, value in after.items() if name not in before or not torch.equal(value, before[name])}
    assert {"ffn.importance", "heads.importance"} <= moved
    assert all(name.startswith(("ffn.", "heads.")) for name in moved)
