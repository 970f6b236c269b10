"""Models built as fairseq-train builds them, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import inprocess
import pytest
import torch

Build = Callable[..., Any]


@pytest.fixture(scope="session")
def build(tiny_data: Path) -> Build:
    """``build("--heads-to-keep", 3, arch=…, seed=…)``: a tiny model of 12 heads, from command-line flags."""

    return partial(inprocess.model, tiny_data)


@pytest.fixture(scope="session")
def batch() -> dict[str, torch.Tensor]:
    """Input of a model's forward: 5 padded sentences of up to 7 tokens, 6 on the target side."""
    draw = torch.Generator().manual_seed(5)
    source = torch.randint(4, 30, (5, 7), generator=draw)
    source[0, :3] = source[3, :1] = 1  # fairseq pads sources on the left
    target = torch.randint(4, 30, (5, 6), generator=draw)
    return {
        "src_tokens": source,
        "src_lengths": source.ne(1).sum(1),
        "prev_output_tokens": target,
    }
