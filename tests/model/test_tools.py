"""A pruned model in fairseq's own tools, which know nothing of it but ``--user-dir``."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import support
import torch
from fairseq import checkpoint_utils

from fairseq_dsp.model import PrunableTransformer

KEPT = 5


@pytest.fixture(scope="module")
def stock(train_tiny, tmp_path_factory) -> Path:
    """A checkpoint of fairseq's own transformer, trained without this plugin's model."""
    folder = tmp_path_factory.mktemp("stock")
    train_tiny(folder, arch="transformer")
    return folder / "checkpoint_best.pt"


@pytest.fixture(scope="module")
def pruned(train_tiny, tmp_path_factory, stock) -> Path:
    """A pruning run by the command the users know: stock task, stock criterion, stock adam; from a stock checkpoint."""
    folder = tmp_path_factory.mktemp("pruned")
    flags = ("--heads-to-keep", KEPT, "--cooldown-updates", 15, "--finetune-from-model", stock)
    done = train_tiny(folder, *flags, "--task", "translation", arch="transformer_dsp")
    assert "LabelSmoothedCrossEntropyCriterion" in done.stdout
    assert "task: TranslationTask" in done.stdout
    return folder / "checkpoint_best.pt"


def hypotheses(output: str) -> list[str]:
    """The translations that fairseq-generate or fairseq-interactive printed, in the order of the sentences."""
    found = re.findall(r"H-(\d+)\t[^\t]*\t(.*)", output)
    return [text for _, text in sorted((int(number), text) for number, text in found)]


def test_generate_interactive_and_the_hub_interface_agree(
    run_fairseq, tiny_data: Path, pruned: Path, tmp_path: Path
) -> None:
    options = ("--user-dir", support.PLUGIN, "--path", pruned, "--beam", 3, "--cpu")
    generated = hypotheses(run_fairseq("generate", tiny_data, *options, "--batch-size", 1).stdout)
    assert len(generated) == 20
    source = (tiny_data.parent / "test.xx").read_text()
    (tmp_path / "source").write_text(source)
    options = (*options, "-s", "xx", "-t", "yy")
    assert hypotheses(run_fairseq("interactive", tiny_data, *options, stdin=tmp_path / "source").stdout) == generated
    hub = PrunableTransformer.from_pretrained(str(pruned.parent), pruned.name, data_name_or_path=str(tiny_data))
    assert hub.translate(source.splitlines(), beam=3) == generated
    assert hub.models[0].kept_heads.kept == KEPT


def test_validate_is_deterministic(run_fairseq, tiny_data: Path, pruned: Path) -> None:
    options = ("--user-dir", support.PLUGIN, "--path", pruned, "--task", "translation", "--max-tokens", 400, "--cpu")
    losses = {re.search(r"loss [\d.]+", run_fairseq("validate", tiny_data, *options).stdout)[0] for _ in range(2)}
    assert len(losses) == 1


def test_another_k_can_be_asked_for_when_generating(tiny_data: Path, pruned: Path) -> None:
    for k in (0, 1, 11, 12):
        (model,), _ = checkpoint_utils.load_model_ensemble([str(pruned)], {"heads_to_keep": k, "data": str(tiny_data)})
        assert model.pruner.kept().kept == k


def test_a_stock_checkpoint_gives_the_same_loss_when_all_heads_are_kept(build, batch, stock: Path) -> None:
    state = checkpoint_utils.load_checkpoint_to_cpu(str(stock))["model"]
    ours, theirs = build().eval(), build(arch="transformer").eval()
    ours.load_state_dict(dict(state), strict=True)
    theirs.load_state_dict(dict(state), strict=True)
    target = batch["prev_output_tokens"]
    losses = [
        torch.nn.functional.cross_entropy(model(**batch)[0].transpose(1, 2), target, reduction="sum").item()
        for model in (ours, theirs)
    ]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_a_pruning_run_starts_from_the_stock_weights(stock: Path, pruned: Path, train_tiny, tmp_path: Path) -> None:
    done = train_tiny(
        tmp_path, "--heads-to-keep", KEPT, "--finetune-from-model", stock, "--freeze-weights", "--max-update", 3,
        "--task", "translation_dsp", "--criterion", "label_smoothed_cross_entropy_dsp", arch="transformer_dsp",
    )  # fmt: skip
    before = checkpoint_utils.load_checkpoint_to_cpu(str(stock))["model"]
    after = checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "checkpoint_last.pt"))["model"]
    assert set(after) - set(before) == {"heads.importance", "heads.kept", "heads.phase"}
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert after["heads.importance"].any()
    for what in ("temperature", "heads_encoder_self", "heads_decoder_self", "heads_cross", "gate_softness"):
        assert what in done.stdout


def test_a_checkpoint_of_another_size_is_refused(train_tiny, stock: Path, tmp_path: Path) -> None:
    flags = ("--finetune-from-model", stock, "--encoder-embed-dim", 32, "--decoder-embed-dim", 32)
    done = train_tiny(tmp_path, *flags, arch="transformer_dsp", check=False)
    assert done.returncode != 0
    last = done.stdout.strip().splitlines()[-1]
    assert str(stock) in last
    assert "size mismatch for" in last
    assert "give the architecture and the sizes" in last
    assert not list(tmp_path.iterdir())
