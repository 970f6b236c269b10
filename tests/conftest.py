"""Fixtures for all tests; those of pruned models and of studies are in files of their own, functions in support.py."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import support

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: sums have one order, and processes share two cores
for switch in ("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "LOGLEVEL"):
    os.environ.pop(switch, None)

pytest_plugins = ["pairs", "pruned_models", "pruning", "real_slurm", "studies"]

LONGEST = ("test_slurm.py", "test_prune.py", "test_guide.py", "test_sweep.py")
"""Files that take longest: they begin first, so that no process is left alone with one of them at the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


def pytest_collection_finish() -> None:
    """What is imported stays: the collector need not look through it during each training."""
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="session")
def prepared(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny corpus as the data preparation would leave it; ``xx`` → ``yy``, 20 test sentences."""
    folder = tmp_path_factory.mktemp("prepared")
    shutil.copytree(tiny_data, folder / "data-bin")
    (folder / "raw").mkdir()
    for split in ("valid", "test"):
        for language in ("xx", "yy"):
            shutil.copy(tiny_data.parent / f"{split}.{language}", folder / "raw")
    summary = {
        "corpus": "tiny", "source_lang": "xx", "target_lang": "yy", "data_bin": "data-bin", "bpe": "subword-nmt",
        "tokenizer": "none", "lowercase": False, "references": {"test": "raw/test.yy"}, "key": "tiny",
    }  # fmt: skip
    (folder / "prepare.json").write_text(json.dumps(summary), encoding="utf-8")
    return folder
