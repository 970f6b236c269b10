"""A pruned model that learns from an unpruned one: what the loss is, and what is told to the user."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import inprocess
import pytest
import support
import torch
from fairseq import checkpoint_utils

from fairseq_dsp.errors import UserError

FLAGS = ["--cpu", "--criterion", "label_smoothed_cross_entropy_dsp", "--heads-to-keep", 3]


def build(tiny_data: Path, tmp_path: Path, *flags: object) -> tuple[Any, Any, dict[str, Any]]:
    """A model without dropout, its criterion, and a batch with padding."""
    config = inprocess.argparse_config(tiny_data, tmp_path, *FLAGS, "--dropout", 0, *flags)
    model, criterion, (sample,) = inprocess.with_criterion(config, 8)
    return model, criterion, sample


def distribution(model: Any, sample: dict[str, Any]) -> torch.Tensor:
    """Log-probabilities in float64. *Shape:* (B, T, V)"""
    return model(**sample["net_input"])[0].double().log_softmax(-1)


def test_the_loss_is_the_mixture(stock: Path, tiny_data: Path, tmp_path: Path) -> None:
    model, criterion, sample = build(tiny_data, tmp_path, "--distill-from", stock, "--distill-weight", 0.3)
    _, plain, _ = build(tiny_data, tmp_path)
    (teacher,), _ = checkpoint_utils.load_model_ensemble([str(stock)], task=criterion.task)
    model.train()
    loss, _, log = criterion(model, sample)
    alone, _, _ = plain(model, sample)
    tokens = sample["target"] != criterion.padding_idx
    assert not tokens.all(), "the batch has padding"
    with torch.no_grad():
        theirs, ours = distribution(teacher.eval(), sample), distribution(model, sample)
    taught = -(theirs.exp() * ours).sum(-1)[tokens].sum()
    assert loss.item() == pytest.approx(0.7 * alone.item() + 0.3 * taught.item(), rel=1e-5)
    assert log["nll_loss"] == pytest.approx(plain(model, sample)[2]["nll_loss"].item())
    each, _, _ = criterion(model, sample, reduce=False)
    assert each.sum().item() == pytest.approx(loss.item(), rel=1e-5)
    model.eval()
    assert criterion(model, sample)[0] == plain(model, sample)[0], "validation measures what it always measures"
    assert not list(criterion.parameters())
    assert not criterion.state_dict()


def test_a_training_learns_from_a_teacher_and_resumes(stock: Path, tiny_data: Path, tmp_path: Path) -> None:
    def train(name: str, updates: int, *more: object) -> dict[str, Any]:
        flags = [*FLAGS, "--distill-from", stock, "--max-update", updates, "--cooldown-updates", 8, *more]
        return inprocess.train(tiny_data, tmp_path / name, *flags)["model"]

    taught, untaught = train("taught", 10), train("untaught", 10, "--distill-weight", 0)
    assert any((taught[key] != untaught[key]).any() for key in taught)
    train("resumed", 5)
    resumed = train("resumed", 10)
    assert all(torch.equal(taught[key], resumed[key]) for key in taught)
    # what validates or translates later needs no teacher
    path = tmp_path / "taught/checkpoint_last.pt"
    state = torch.load(path, weights_only=True)
    state["cfg"]["criterion"]["distill_from"] = str(tmp_path / "gone.pt")
    torch.save(state, path)
    args = [tiny_data, "--user-dir", support.PLUGIN, "--task", "translation", "--path", path, "--cpu"]
    assert "valid on 'valid'" in support.run_fairseq("validate", *args, "--max-tokens", 400).stdout


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_weight_out_of_range(weight: float, stock: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--distill-weight is .*0 to 1"):
        build(tiny_data, tmp_path, "--distill-from", stock, f"--distill-weight={weight}")


def test_a_missing_teacher_and_one_with_another_dictionary(stock: Path, tiny_data: Path, tmp_path: Path) -> None:
    model, criterion, sample = build(tiny_data, tmp_path, "--distill-from", tmp_path / "none.pt")
    with pytest.raises(UserError, match=r"--distill-from .*none.pt is missing"):
        criterion(model.train(), sample)
    state = torch.load(stock, weights_only=True)
    for name in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        if name in state["model"]:
            state["model"][name] = torch.cat([state["model"][name]] * 2)
    torch.save(state, tmp_path / "other.pt")
    model, criterion, sample = build(tiny_data, tmp_path, "--distill-from", tmp_path / "other.pt")
    with pytest.raises(UserError, match=r"other.pt cannot be loaded with this training's dictionaries"):
        criterion(model.train(), sample)
