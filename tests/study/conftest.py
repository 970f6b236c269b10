"""A prepared corpus and studies on it that train in seconds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
import yaml

TINY_RECIPE = {
    "arch": "transformer_dsp_tiny", "encoder-layers": 2, "decoder-layers": 2, "encoder-embed-dim": 16,
    "decoder-embed-dim": 16, "encoder-ffn-embed-dim": 32, "decoder-ffn-embed-dim": 32, "encoder-attention-heads": 2,
    "decoder-attention-heads": 2, "dropout": 0.1, "optimizer": "adam", "lr": 0.005, "lr-scheduler": "inverse_sqrt",
    "warmup-updates": 4, "label-smoothing": 0.1, "max-tokens": 400, "max-update": 20, "log-interval": 5,
}  # fmt: skip


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


@pytest.fixture
def write_study(tmp_path: Path, prepared: Path) -> Callable[..., Path]:
    """``write_study(heads=[6], methods=[...], **more)`` writes a study of the tiny corpus and returns its path."""

    def write_study(**changes: Any) -> Path:
        content = {
            "name": "tiny", "data": str(prepared), "recipe": TINY_RECIPE, "heads": [6], "methods": ["joint"],
            "evaluate": {"beam": 1}, **changes,
        }  # fmt: skip
        path = tmp_path / "study.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}), encoding="utf-8")
        return path

    return write_study


@pytest.fixture(scope="session")
def dsp() -> Callable[..., Any]:
    """``dsp("sweep", STUDY, …, check=False)`` runs ``fairseq-dsp``; see `support.run_command`."""
    import sys

    def dsp(*args: object, **options: Any) -> Any:
        return support.run_command([sys.executable, "-m", "fairseq_dsp.cli", *map(str, args)], **options)

    return dsp
