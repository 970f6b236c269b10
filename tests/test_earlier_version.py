"""What version 0.1 wrote: checkpoints, an exported folder and a study give the same heads, translations and table.

``tests/data/version-0.1.tar.xz`` was made by that version on generated text (a corpus of 800 phrases, a model of 2 + 2
layers with 12 heads), with what it said of it in ``expected.json``.
"""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inprocess
import pytest
import support
import torch
from fairseq import checkpoint_utils

import fairseq_dsp
from fairseq_dsp.cli import main
from fairseq_dsp.model import HeadSet

ARCHIVE = Path(__file__).parent / "data/version-0.1.tar.xz"


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked archive."""
    folder = tmp_path_factory.mktemp("past")
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder, filter="data")
    return folder / "version-0.1"


@pytest.fixture(scope="module")
def expected(past: Path) -> dict[str, Any]:
    return json.loads((past / "expected.json").read_text(encoding="utf-8"))


def shown(capsys: pytest.CaptureFixture[str], *args: object) -> HeadSet:
    assert main(["heads", *map(str, args), "--format", "json"]) == 0
    return HeadSet.read(capsys.readouterr().out)


@pytest.mark.parametrize("name", ["simple", "gumbel", "choosing", "compact"])
def test_the_heads_of_a_checkpoint(name: str, past: Path, expected: dict[str, Any], capsys) -> None:
    heads = HeadSet.from_json(expected["heads"][name])
    assert shown(capsys, past / f"{name}.pt") == heads
    (model,), _ = checkpoint_utils.load_model_ensemble(
        [str(past / f"{name}.pt")], {"data": str(past / "data/data-bin")}
    )
    assert (model.kept_heads or model.pruner.kept()) == heads


def test_the_heads_at_other_budgets(past: Path, expected: dict[str, Any], capsys) -> None:
    for k, heads in expected["heads_at"].items():
        assert shown(capsys, past / "simple.pt", "--heads-to-keep", k) == HeadSet.from_json(heads)


@pytest.mark.parametrize("name", ["simple", "gumbel", "compact"])
def test_the_translations_of_a_checkpoint(
    name: str, past: Path, expected: dict[str, Any], run_fairseq: Callable[..., Any]
) -> None:
    done = run_fairseq(
        "generate", past / "data/data-bin", "--user-dir", support.PLUGIN, "--path", past / f"{name}.pt", "--beam", 5,
        "--cpu", "-s", "de", "-t", "en", "--remove-bpe", "sentencepiece",
    )  # fmt: skip
    found = dict(line[2:].split("\t")[::2] for line in done.stdout.splitlines() if line.startswith("H-"))
    assert [found[str(i)] for i in range(len(found))] == expected["translations"][name]


def test_the_translations_of_an_exported_folder(past: Path, expected: dict[str, Any]) -> None:
    lines = (past / "data/raw/test.de").read_text(encoding="utf-8").splitlines()
    assert fairseq_dsp.from_pretrained(str(past / "folder")).translate(lines) == expected["folder"]


def test_the_table_of_a_study(past: Path, tmp_path: Path) -> None:
    assert main(["report", str(past / "results"), "--out", str(tmp_path / "report")]) == 0
    found, before = (
        list(csv.DictReader(table.open(encoding="utf-8")))
        for table in (tmp_path / "report/table.csv", past / "table.csv")
    )
    for key in ("heads", "seeds", "valid_loss", "bleu", "chrf", "parameters"):
        assert [row[key] for row in found] == [row[key] for row in before], key


def test_a_training_goes_on(past: Path, tmp_path: Path) -> None:
    """With its importance and the optimiser's state of it, which version 0.1 had module by module."""
    save = tmp_path / "run"
    save.mkdir()
    shutil.copy(past / "choosing.pt", save / "checkpoint_last.pt")
    before = torch.load(past / "choosing.pt", weights_only=True)
    names = [
        f"{stack}.layers.{layer}.{part}.out_proj.importance"
        for stack, part in (("encoder", "self_attn"), ("decoder", "self_attn"), ("decoder", "encoder_attn"))
        for layer in (0, 1)
    ]
    importance = torch.cat([before["model"][name] for name in names])
    flags = ["--cpu", "--heads-to-keep", 5, "--cooldown-updates", 210, "--share-all-embeddings", "--dropout", 0]
    flags += ["--lr", 0.01, "--lr-scheduler", "polynomial_decay", "--total-num-update", 700, "--warmup-updates", 20]
    flags += ["--adam-betas", "(0.9,0.98)", "--max-tokens", 3000, "-s", "de", "-t", "en", "--seed", 1]
    flags += ["--task", "translation_dsp", "--criterion", "label_smoothed_cross_entropy_dsp"]
    state = inprocess.train(past / "data/data-bin", save, *flags, "--max-update", 101)
    moved = (inprocess.importance(state["model"]) - importance).abs()
    assert 0 < moved.max() < 0.5, "one step of about --pruning-lr"
    assert len(state["last_optimizer_state"]["param_groups"][1]["params"]) == 1
    # Adam's mean of the squared gradients, whose decay of 0.98 no step can pass
    old, new = (one["last_optimizer_state"]["state"] for one in (before, state))
    by_layer = [names[i] for i in (0, 1, 2, 4, 3, 5)]  # the order of the parameters: self- and cross-attention in turn
    members = before["last_optimizer_state"]["param_groups"][1]["params"]
    squares = {name: old[i]["exp_avg_sq"] for name, i in zip(by_layer, members, strict=True)}
    (mine,) = state["last_optimizer_state"]["param_groups"][1]["params"]
    assert new[mine]["step"] == old[members[0]]["step"] + 1
    least = 0.98 * torch.cat([squares[name] for name in names])
    assert (new[mine]["exp_avg_sq"] >= least * (1 - 1e-6)).all()
    assert (new[mine]["exp_avg_sq"] - least).median() < 0.5 * least.median(), "so these are the same heads'"
