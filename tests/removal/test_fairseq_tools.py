"""Compact checkpoints in fairseq's own tools, which know nothing of them but ``--user-dir``."""

from __future__ import annotations

import re

import pytest
import torch

from fairseq_dsp.cli import main
from fairseq_dsp.model import PrunableTransformer


def hypotheses(output):
    found = re.findall(r"^H-(\d+)\t([^\t]*)\t(.*)", output, re.MULTILINE)
    return [(text, float(score)) for _, score, text in sorted((int(n), score, text) for n, score, text in found)]


def same(one, other, tolerance=2e-4):
    """Whether two outputs have the same translations, with the same scores, which fairseq prints with few digits."""
    assert [text for text, _ in one] == [text for text, _ in other]
    assert [score for _, score in one] == pytest.approx([score for _, score in other], abs=tolerance)


@pytest.fixture(scope="module")
def generate(run_fairseq, tiny_data):
    def generate(path, *flags):
        options = ("--user-dir", "fairseq_dsp", "--path", path, "--beam", 5, "--batch-size", 7, "--cpu")
        found = hypotheses(run_fairseq("generate", tiny_data, *options, *flags).stdout)
        assert len(found) == 20
        return found

    return generate


@pytest.fixture(scope="module")
def expected(generate, pruned):
    return generate(pruned)


def test_generate_interactive_and_the_hub_interface(generate, run_fairseq, tiny_data, compact, expected):
    same(generate(compact), expected)
    source = tiny_data.parent / "test.xx"
    options = ("--user-dir", "fairseq_dsp", "--path", compact, "--beam", 5, "--cpu", "-s", "xx", "-t", "yy")
    done = run_fairseq("interactive", tiny_data, *options, "--buffer-size", 20, "--batch-size", 7, "--input", source)
    same(hypotheses(done.stdout), expected)
    hub = PrunableTransformer.from_pretrained(str(compact.parent), compact.name, data_name_or_path=str(tiny_data))
    assert hub.translate(source.read_text().splitlines(), beam=5) == [text for text, _ in expected]
    assert hub.models[0].kept_heads.kept == 5


def test_validate_gives_the_loss_of_the_masked_model(run_fairseq, tiny_data, pruned, compact):
    def loss(path):
        options = ("--user-dir", "fairseq_dsp", "--path", path, "--task", "translation", "--batch-size", 7, "--cpu")
        return re.findall(r"\| (?:loss|nll_loss) ([\d.]+)", run_fairseq("validate", tiny_data, *options).stdout)

    assert len(loss(compact)) == 2
    assert loss(compact) == loss(pruned)


def test_ensemble_of_files_with_different_heads(generate, pruned, compact, tmp_path):
    other = tmp_path / "other.pt"
    assert main(["compact", str(pruned), str(other), "--heads-to-keep", "9"]) == 0
    assert main(["export-fairseq", str(pruned), str(tmp_path / "stock.pt"), "--heads-to-keep", "9"]) == 0
    same(generate(f"{compact}:{other}"), generate(f"{pruned}:{tmp_path / 'stock.pt'}"))


@pytest.mark.parametrize("size", [1, 20])
def test_half_precision_generates(generate, compact, expected, size):
    found = generate(compact, "--fp16", "--batch-size", size)
    agree = [one == other for (one, _), (other, _) in zip(found, expected, strict=True)]
    assert sum(agree) >= 17  # halves may tie


def test_training_goes_on_in_half_precision_and_resumes(compact, train_tiny, tmp_path):
    flags = ("--kept-heads", compact.with_suffix(".heads.json"), "--compact", "--memory-efficient-fp16", "--cpu")
    flags = (*flags, "--fp16-init-scale", 4)  # fairseq cannot recover from an overflow without a GPU
    train_tiny(tmp_path, *flags, "--finetune-from-model", compact, "--max-update", 4, arch="transformer_dsp")
    again = train_tiny(tmp_path, *flags, "--max-update", 8, arch="transformer_dsp").stdout
    assert "Loaded checkpoint" in again
    assert "num_updates 8" in again
    weights = torch.load(tmp_path / "checkpoint_last.pt")["model"]
    assert weights["encoder.layers.0.self_attn.q_proj.weight"].shape == (8, 16)
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_printed_training_command_works(pruned, tiny_data, run_fairseq, tmp_path, capsys):
    assert main(["compact", str(pruned), str(tmp_path / "a.pt")]) == 0
    command = capsys.readouterr().out.splitlines()[-1].split()
    assert command[0] == "fairseq-train"
    usual = "--optimizer adam --lr 0.001 --max-tokens 400 --max-update 2 --num-workers 0 --no-progress-bar".split()
    done = run_fairseq("train", *command[1:], *usual, "--save-dir", tmp_path / "run")
    assert "num_updates 2" in done.stdout
