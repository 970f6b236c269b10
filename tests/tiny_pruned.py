"""A tiny pruned model, 5 of 12 heads, and its checkpoint; what its weights say is not important, only their shapes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inprocess
import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_dsp.cli import main
from fairseq_dsp.model import TYPES

# Modules with 2, 1 and 0 heads in every stack.
HEADS = {
    "version": 2,
    "total": 12,
    "kept": 5,
    "encoder_self": [[1], []],
    "decoder_self": [[], [0]],
    "cross": [[0, 1], [0]],
}


@pytest.fixture(scope="session")
def pruned(train_tiny: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run with ``--heads-to-keep 5``, whose importance then was set to choose `HEADS`."""
    folder = tmp_path_factory.mktemp("pruned")
    train_tiny(folder, "--heads-to-keep", 5, arch="transformer_dsp")
    path = folder / "checkpoint_last.pt"
    state = torch.load(path)
    kept = [float(h in heads) for kind in TYPES for heads in HEADS[kind] for h in range(2)]
    state["model"]["heads.importance"].copy_(2 * torch.tensor(kept) - 1 + torch.tensor([0.0, 0.0, 0.01, 0.01] * 3))
    state["model"]["heads.kept"].copy_(torch.tensor(kept))
    torch.save(state, path)
    return path


@pytest.fixture(scope="session")
def compact(pruned: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compact checkpoint made of `pruned`; its heads are in ``compact.heads.json`` beside it."""
    out = tmp_path_factory.mktemp("compact") / "compact.pt"
    assert main(["compact", str(pruned), str(out)]) == 0
    assert json.loads(out.with_suffix(".heads.json").read_text()) == HEADS
    return out


@pytest.fixture(scope="session")
def load(tiny_data: Path) -> Callable[..., tuple[Any, Any]]:
    """``load(PATH)`` gives model and task as fairseq's tools load them; overrides as keywords."""

    def load(path: Path, **overrides: Any) -> tuple[Any, Any]:
        overrides = {"data": str(tiny_data), **overrides}
        (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
        return model.eval(), task

    return load


@pytest.fixture(scope="session")
def stock(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model of fairseq's own architecture: it knows nothing of importance."""
    folder = tmp_path_factory.mktemp("stock")
    inprocess.train(tiny_data, folder, "--cpu", arch="transformer")
    return folder / "checkpoint_last.pt"
