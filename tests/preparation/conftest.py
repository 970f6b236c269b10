"""Corpora for the tests of data-prep."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # for preparing.py

import preparing  # noqa: E402


@pytest.fixture(scope="session")
def corpora() -> Path:
    """The folder with the real corpora."""
    folder = preparing.corpora()
    if folder is None:
        pytest.skip("no corpora here: set FAIRSEQ_DSP_CORPORA to the folder that has multi30k/ and iwslt14-raw/")
    return folder


@pytest.fixture(scope="session")
def small_multi30k(corpora: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 300 lines of every file of Multi30k but the last two test sets'."""
    folder = tmp_path_factory.mktemp("multi30k")
    for path in (corpora / "multi30k").iterdir():
        if "mscoco" not in path.name and "2018" not in path.name:
            preparing.write(folder / path.name, preparing.lines(path)[:300])
    return folder
