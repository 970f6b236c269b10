"""What evaluation says of an ensemble: the parameters that all members compute with, heads where they have the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import support
from fairseq import checkpoint_utils

from fairseq_dsp.cli import main


@pytest.mark.slow
def test_the_parameters_of_an_ensemble_are_those_of_all_its_members(
    tiny_data: Path, prepared: Path, tmp_path: Path
) -> None:
    models = []
    for kept in (12, 4):
        flags = ["--cpu", "--max-update", 2, "--heads-to-keep", kept]
        args = support.tiny_train_args(tiny_data, tmp_path / str(kept), *flags, arch="transformer_dsp_tiny")
        support.run_fairseq("train", *args)
        models.append(tmp_path / str(kept) / "checkpoint_last.pt")
    small = tmp_path / "compact.pt"
    assert main(["compact", str(models[1]), str(small)]) == 0

    def parameters(path: Path) -> int:
        weights = checkpoint_utils.load_checkpoint_to_cpu(str(path))["model"]
        return sum(value.numel() for name, value in weights.items() if "heads." not in name and "version" not in name)

    def evaluated(checkpoint: str) -> Any:
        out = tmp_path / "out.json"
        assert main(["evaluate", checkpoint, "--data", str(prepared), "--beam", "1", "--json", str(out)]) == 0
        return json.loads(out.read_text())[0]

    alone = evaluated(str(models[0]))
    assert alone["kept"]["kept"] == alone["heads"] == 12
    both = evaluated(f"{models[0]}:{models[1]}")
    assert alone["parameters"] == parameters(models[0]) > parameters(small)
    assert both["parameters"] == parameters(models[0]) + parameters(small)
    assert evaluated(str(models[1]))["parameters"] == parameters(small)
    assert both["heads"] == 12
    assert both["kept"] is None
