"""Checkpoints from which the training tests start."""

from __future__ import annotations

from pathlib import Path

import inprocess
import pytest
import torch


@pytest.fixture(scope="session")
def equal_importance(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in which each importance variable is 10, far from 0, so that weight decay would show."""
    folder = tmp_path_factory.mktemp("start")
    state = inprocess.train(tiny_data, folder, "--cpu", "--heads-to-keep", 6, "--max-update", 1)
    inprocess.importance(state["model"]).fill_(10.0)
    torch.save(state, folder / "start.pt")
    return folder / "start.pt"
