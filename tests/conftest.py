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

pytest_plugins = ["pairs", "pruning", "real_slurm", "studies", "tiny_pruned"]

LONGEST = ("test_slurm.py", "test_prune.py", "test_guide.py", "test_sweep.py")
"""Files that take longest: they begin first, so that no process is left alone with one of them at the end."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that runs everything."""
    parser.addoption(
        "--all", action="store_true", help="run the tests marked slow, too, as continuous integration does"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Whoever names a file or a folder gets all of it; the processes that share the tests are told by the option."""
    if config.args_source is not config.ArgsSource.TESTPATHS and not hasattr(config, "workerinput"):
        config.option.all = True


def pytest_report_header(config: pytest.Config) -> str:
    """Say what is left out."""
    return "all tests" if config.option.all else "without the tests marked slow: --all runs them, too"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is slow, and put the longest files first."""
    if not config.option.all:
        config.hook.pytest_deselected(items=[item for item in items if item.get_closest_marker("slow")])
        items[:] = [item for item in items if not item.get_closest_marker("slow")]
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
