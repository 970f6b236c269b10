"""A selection of the user's own, in a file that an environment variable names, from training to the compact model."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inprocess
import pytest
import support
from quick_python import quick_python

from fairseq_dsp.model import HeadSet

LOWEST = """
from __future__ import annotations

from dataclasses import dataclass

from fairseq_dsp.subset import Gumbel, hard_gates, register_selection

@dataclass
class Note:
    text: str

@register_selection("lowest")
class Lowest(Gumbel):
    def keep(self, importance, budget):
        return hard_gates(-importance, budget)
"""


def test_from_training_to_the_compact_model(train_tiny: Callable, run_fairseq: Callable, tiny_data, tmp_path: Path):
    mine, run, small = tmp_path / "mine.py", tmp_path / "run", tmp_path / "small.pt"
    mine.write_text(LOWEST)
    variables = {"FAIRSEQ_DSP_SELECTIONS": "mine.py"}
    flags: list[Any] = ["--heads-to-keep", 5, "--head-selection", "lowest"]
    train_tiny(run, *flags, arch="transformer_dsp", cwd=tmp_path, **variables)
    command = [quick_python(), "-m", "fairseq_dsp.cli", "compact", run / "checkpoint_best.pt", small]
    refused = support.run_command(command, check=False)
    assert refused.returncode == 1
    assert "--head-selection is lowest, but one of fixed, gumbel" in refused.stdout
    assert "in the environment variable FAIRSEQ_DSP_SELECTIONS" in refused.stdout
    assert not small.exists()
    support.run_command(command, FAIRSEQ_DSP_SELECTIONS=str(mine))
    model = inprocess.checkpoint(run, "checkpoint_best.pt")["model"]
    importance = inprocess.importance(model).tolist()
    heads = HeadSet.read(str(small.with_suffix(".heads.json")))
    kept = [
        head in layer
        for kind in ("encoder_self", "decoder_self", "cross")
        for layer in heads.of(kind)
        for head in (0, 1)
    ]
    assert len(set(importance)) == 12
    assert sum(kept) == 5
    assert max(v for v, k in zip(importance, kept, strict=True) if k) < min(
        v for v, k in zip(importance, kept, strict=True) if not k
    )
    # the compact model is like any other
    run_fairseq("generate", tiny_data, "--user-dir", support.PLUGIN, "--path", small, "--cpu", "--max-tokens", 400)


@pytest.mark.slow
def test_a_missing_file_is_told_in_one_sentence(train_tiny: Callable, tmp_path: Path):
    done = train_tiny(tmp_path / "run", arch="transformer_dsp", check=False, FAIRSEQ_DSP_SELECTIONS="absent.py")
    assert done.returncode == 1
    assert "absent.py, but the path of a Python file is expected" in done.stdout
    assert "Traceback" not in done.stdout
    command = [sys.executable, "-m", "fairseq_dsp.cli", "heads", "any.pt"]
    done = support.run_command(command, check=False, FAIRSEQ_DSP_SELECTIONS="absent.py")
    assert done.returncode == 1
    assert done.stdout.startswith("fairseq-dsp heads: FAIRSEQ_DSP_SELECTIONS is ")
    assert done.stdout.count("\n") == 1
