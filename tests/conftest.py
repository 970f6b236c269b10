"""Fixtures for all tests; the functions behind them are in support.py."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import support

Completed = subprocess.CompletedProcess[str]


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data-bin folder of 200 training, 20 validation and 20 test pairs, ``xx`` → ``yy``; see `write_tiny_corpus`."""
    return support.make_tiny_data(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def run_fairseq() -> Callable[..., Completed]:
    """``run_fairseq("generate", DATA, "--path", …, check=True, cwd=…, timeout=…, VARIABLE="value")``: see `run`."""

    def run_fairseq(tool: str, *args: object, **options) -> Completed:
        return support.run(support.fairseq_command(tool, *args), **options)

    return run_fairseq


@pytest.fixture(scope="session")
def train_tiny(run_fairseq: Callable[..., Completed], tiny_data: Path) -> Callable[..., Completed]:
    """``train_tiny(SAVE_DIR, *flags, arch="transformer")`` trains 20 updates of the tiny model; later flags win."""

    def train_tiny(save_dir: Path, *flags: object, arch: str = "transformer", **options) -> Completed:
        return run_fairseq("train", *support.tiny_train_args(tiny_data, save_dir, *flags, arch=arch), **options)

    return train_tiny
