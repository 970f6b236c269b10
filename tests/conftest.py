"""Fixtures for all tests; the functions behind them, and others, are in support.py."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import support

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: sums have one order, and processes share two cores
for switch in ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "LOGLEVEL"):
    os.environ.pop(switch, None)

Completed = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data-bin folder of 200 training, 20 validation and 20 test pairs, ``xx`` → ``yy``; see `write_tiny_corpus`."""
    return support.make_tiny_data(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def run_fairseq() -> Callable[..., Completed]:
    """``run_fairseq("generate", DATA, "--path", …, check=True, cwd=…, VARIABLE="value")``, see support.py."""
    return support.run_fairseq


@pytest.fixture(scope="session")
def train_tiny(tiny_data: Path) -> Callable[..., Completed]:
    """``train_tiny(SAVE_DIR, *flags, arch="transformer", check=True, …)`` trains the tiny model for 20 updates.

    Later flags win over those of support.TINY_MODEL and support.TINY_TRAINING.
    """

    def train_tiny(save_dir: Path, *flags: object, arch: str = "transformer", **options) -> Completed:
        args = support.tiny_train_args(tiny_data, save_dir, *flags, arch=arch)
        return support.run_fairseq("train", *args, **options)

    return train_tiny
