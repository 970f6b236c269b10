"""A joint run at the budget and temperature where the exact gradient of a sample explodes."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from fairseq import checkpoint_utils


@pytest.mark.slow
def test_a_joint_run_at_68_of_72_heads_passes_through_low_temperatures(train_tiny, tmp_path: Path) -> None:
    done = train_tiny(
        tmp_path, "--encoder-layers", 6, "--decoder-layers", 6, "--encoder-attention-heads", 4,
        "--decoder-attention-heads", 4, "--heads-to-keep", 68, "--head-selection", "gumbel",
        "--initial-temperature", 0.1, "--final-temperature", 0.001, "--cooldown-updates", 40, "--clip-norm", 1,
        "--max-update", 60,
        "--log-interval", 1, arch="transformer_dsp",
    )  # fmt: skip
    norms = [float(norm) for norm in re.findall(r"train_inner.*gnorm=([\w.]+)", done.stdout)]
    assert len(norms) == 60
    assert all(math.isfinite(norm) and norm < 100 for norm in norms), "the norm is that of the model's gradients alone"
    assert "scaled down to its bound" in done.stdout
    state = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "checkpoint_last.pt"))["model"]
    assert all(value.isfinite().all() for value in state.values())
    assert state["heads.importance"].unique().numel() > 60
