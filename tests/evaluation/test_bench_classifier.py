"""The benchmark of models that classify."""

from __future__ import annotations

import json
from pathlib import Path

import pairs
import pytest
import torch

from fairseq_dsp import cli
from fairseq_dsp.evaluation.runners import ClassifierRunner, load
from fairseq_dsp.model.units import is_weight


def test_a_compact_classifier_does_fewer_operations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = pairs.make(tmp_path)
    sizes = "--encoder-layers 2 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2".split()
    state = pairs.train(data, tmp_path / "stock", "--arch", "roberta", *sizes, "--max-update", 2)
    pairs.train(data, tmp_path / "pruned", "--heads-to-keep", 1, "--max-update", 2)
    models = [tmp_path / "stock/checkpoint_last.pt", tmp_path / "pruned/checkpoint_last.pt", tmp_path / "small.pt"]
    assert cli.main(["compact", str(models[1]), str(models[2])]) == 0
    command = ["bench", *map(str, models), "--batch-sizes", "1", "3", "--runs", "2", "--length", "12", "--no-memory"]
    assert cli.main([*command, "--profile", "--output", str(tmp_path / "bench")]) == 0
    assert "| attention, ms |" in capsys.readouterr().out
    results = json.loads((tmp_path / "bench/bench.json").read_text())["results"]
    assert len(results) == 6
    stock, pruned, small = results[:3]
    assert stock["parameters"] > pruned["parameters"] == small["parameters"]  # the pruned one is made compact to run
    assert stock["flops"] > pruned["flops"] == small["flops"]
    assert all(result["sentences_per_second"] > 0 for result in results)
    # the language model's head is not run
    runner = load(str(models[0]), 1, 12, "cpu", "float32")
    assert isinstance(runner, ClassifierRunner)
    weights = {name: weight for name, weight in state["model"].items() if is_weight(name) and "lm_head" not in name}
    assert runner.parameters == sum(weight.numel() for weight in weights.values())
    # longer pairs than it has positions for
    assert cli.main(["bench", str(models[0]), "--length", "64", "--no-memory"]) == 1
    assert "takes 40 subwords at most: give --length 40 or less" in capsys.readouterr().err
    assert load(str(models[0]), 1, 40, "cpu", "float32")
    # a RoBERTa without a classification head
    state["model"] = {name: weight for name, weight in state["model"].items() if "classification" not in name}
    torch.save(state, tmp_path / "model.pt")
    assert cli.main(["bench", str(tmp_path / "model.pt"), "--no-memory"]) == 1
    assert "or of a RoBERTa that classifies" in capsys.readouterr().err
