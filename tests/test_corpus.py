"""Commands take a prepared corpus for its data-bin."""

from __future__ import annotations

from pathlib import Path

import torch
from fairseq.checkpoint_utils import load_checkpoint_to_cpu

from fairseq_dsp.cli import main
from fairseq_dsp.corpus import data_bin_of


def test_the_data_bin_of_a_corpus(prepared: Path, tiny_data: Path, tmp_path: Path) -> None:
    assert data_bin_of(str(prepared)) == str(prepared / "data-bin")
    for other in (tiny_data, tmp_path / "none", f"{prepared}:{prepared}"):
        assert data_bin_of(str(other)) == str(other)
    for content in ("", "[]", "{}", '{"data_bin": 1}'):
        (tmp_path / "prepare.json").write_text(content)
        assert data_bin_of(str(tmp_path)) == str(tmp_path)


def test_commands_take_either(stock: Path, prepared: Path, tmp_path: Path) -> None:
    heads, found = tmp_path / "heads.json", []
    for name, data in (("corpus", prepared), ("data-bin", prepared / "data-bin")):
        given, fitted = ["--data", str(data)], tmp_path / f"{name}.pt"
        assert main(["score-heads", str(stock), *given, "--cpu", "--heads-to-keep", "5", "--out", str(heads)]) == 0
        assert main(["compensate", str(stock), str(fitted), *given, "--cpu", "--kept-heads", str(heads)]) == 0
        found.append((heads.read_text(), load_checkpoint_to_cpu(str(fitted))["model"]))
    (one, weights), (other, others) = found
    assert one == other
    assert all(torch.equal(weights[key], others[key]) for key in weights)
