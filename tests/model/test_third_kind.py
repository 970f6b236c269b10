"""A third kind of units needs a file of its own and the name of its options; all the rest follows."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import support
import torch

KIND = """
from dataclasses import dataclass, field, replace
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass

from .feed_forward import FeedForward, _module
from .kinds import Kind, register
from .sets import given_units


@dataclass
class BlockOptions(FairseqDataclass):
    ffn_blocks_to_keep: Optional[int] = field(default=None, metadata={"help": "whole feed-forward layers kept"})


class _Blocks(Kind):
    def is_chosen(self, options: Any) -> bool:
        return super().is_chosen(options) or given_units(options, self) is not None

    def unit_width(self, options: Any) -> None:
        return None  # the size of the layer says it

    def describe(self, kind: str, layer: int, name: str, module: Any, options: Any) -> Any:
        size = int(options.encoder_ffn_embed_dim)
        left = getattr(module.fc1, "out_features", 0)
        found = _module(kind, layer, name, module.fc2.bias.numel(), left, size, FeedForward(module, size))
        return replace(found, kind=self)

    def find(self, kind: str, layer: int, name: str, names: Any, options: Any) -> Any:
        if f"{name}.fc2.bias" not in names:
            return None
        size = int(options.encoder_ffn_embed_dim)
        return replace(_module(kind, layer, name, options.encoder_embed_dim, size, size), kind=self)


BLOCKS = register(
    _Blocks(
        name="blocks",
        units="feed-forward layers",
        titles={"encoder": "encoder", "decoder": "decoder"},
        places={"encoder": ("encoder", ""), "decoder": ("decoder", "")},
        options={"to_keep": "ffn_blocks_to_keep"},
    )
)
"""


@pytest.mark.slow
def test_a_third_kind_is_one_file(tiny_data: Path, tmp_path: Path) -> None:
    """Whole feed-forward layers, trained beside heads to an exact budget, shown, removed, exported and evaluated."""
    package = tmp_path / "fairseq_dsp"
    shutil.copytree(support.PLUGIN, package, ignore=shutil.ignore_patterns("__pycache__"))
    (package / "model" / "blocks.py").write_text(KIND)
    options = package / "model" / "pruning_options.py"
    listed = options.read_text().replace("PruningConfig(", "PruningConfig(BlockOptions, ", 1)
    options.write_text(
        listed.replace("\nfrom .feed_forward", "\nfrom .blocks import BlockOptions\nfrom .feed_forward", 1)
    )

    def run(module: str, *args: object) -> str:
        command = (sys.executable, "-m", module, *args)
        return support.run_command(command, cwd=tmp_path, PYTHONPATH=str(tmp_path)).stdout

    budgets = ("--heads-to-keep", 5, "--ffn-blocks-to-keep", 3, "--task", "translation_dsp")
    run("fairseq_cli.train", *support.tiny_train_args(
        tiny_data, tmp_path, *budgets, arch="transformer_dsp", plugin=package
    ))  # fmt: skip
    trained, small, stock = (tmp_path / f"{name}.pt" for name in ("checkpoint_last", "small", "stock"))
    kept = torch.load(trained)["model"]
    assert (int(kept["heads.kept"].sum()), int(kept["blocks.kept"].sum())) == (5, 3)

    run("fairseq_dsp.cli", "compact", trained, small)
    blocks = json.loads((tmp_path / "small.heads.json").read_text())["blocks"]
    assert (blocks["total"], blocks["kept"]) == (4, 3)
    gone = next((side, i) for side in ("encoder", "decoder") for i in range(2) if not blocks[side][i])
    left = [name for name in torch.load(small)["model"] if name.startswith(f"{gone[0]}.layers.{gone[1]}.fc")]
    assert left == [f"{gone[0]}.layers.{gone[1]}.fc2.bias"]
    assert "3 of 4 feed-forward layers" in run("fairseq_dsp.cli", "heads", small)

    run("fairseq_dsp.cli", "export-fairseq", small, stock)
    words = []
    for path in (trained, small, stock):
        run("fairseq_cli.generate", tiny_data, "--path", path, "--user-dir", package, "--results-path", path.stem)
        lines = (tmp_path / path.stem / "generate-test.txt").read_text().splitlines()
        words.append([line.split("\t")[2] for line in lines if line.startswith("D-")])
    assert len(words[0]) == 20
    assert words[0] == words[1] == words[2]
