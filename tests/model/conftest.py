"""Models built as fairseq-train builds them, and batches for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
import torch
from fairseq import options, tasks, utils

import fairseq_dsp  # noqa: F401 — registers the plugin

Build = Callable[..., Any]


@pytest.fixture(scope="session")
def build(tiny_data: Path) -> Build:
    """``build("--heads-to-keep", 3, arch=…, seed=…)``: a tiny model of 12 heads, from command-line flags."""

    def build(*flags: object, arch: str = "transformer_dsp", seed: int = 1) -> Any:
        parser = options.get_training_parser()
        args = support.tiny_train_args(tiny_data, Path("unused"), *flags, arch=arch)
        del args[1:3]  # --user-dir: the plugin is imported already
        parsed = options.parse_args_and_arch(parser, args)
        utils.set_torch_seed(seed)
        # the namespace is what models get of fairseq-train, too; the configuration of the rest takes long to compose
        return tasks.setup_task(parsed).build_model(parsed)

    return build


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
