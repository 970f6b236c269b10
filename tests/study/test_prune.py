"""Pruning a trained model in one command, for real: it chooses heads, trains on, compacts, scores and compares."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
import torch
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from pruning import SHORT, call, files, refused, value, words_of
from quick_python import quick_python

from fairseq_dsp.cli import main
from fairseq_dsp.evaluation.prepared import PreparedData
from fairseq_dsp.model import HeadSet

pytestmark = pytest.mark.usefixtures("quick_steps")

NO_EFFECT = ["--num-workers", "1", "--log-interval", "3"]
"""Options that may be others when a call goes on."""


def test_it_prunes_a_stock_checkpoint_to_several_numbers_of_heads(pruned_out: tuple[Path, str]) -> None:
    out, printed = pruned_out
    for k, folder in ((6, "recovered"), (3, "checkpoints")):
        heads = json.loads((out / f"compact-k{k}.heads.json").read_text())
        assert heads["kept"] == k
        state = load_checkpoint_to_cpu(str(out / f"compact-k{k}.pt"))
        assert state["cfg"]["model"].compact
        trained = load_checkpoint_to_cpu(str(out / f"runs/pruned-k{k}-s1/{folder}/checkpoint_last.pt"))
        assert trained["optimizer_history"][-1]["num_updates"] == 20
        assert trained["cfg"]["model"].dropout == 0  # as the base, not as the architecture
        assert trained["cfg"]["optimization"]["update_freq"] == [2]
    text = (out / "table.md").read_text()
    assert text in printed
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == [
        "model", "heads", "BLEU", "95% CI", "difference", "95% CI of it", "parameters", "sentences/s",
    ]  # fmt: skip
    assert [row[:2] for row in rows[2:]] == [["original", "12"], ["pruned", "6"], ["pruned", "3"]]
    scores = [json.loads((out / f"runs/{run}/scores.json").read_text())[0] for run in ("base-s1", "pruned-k6-s1")]
    for row, score in zip(rows[2:], scores, strict=False):
        assert float(row[2]) == pytest.approx(score["bleu"]["score"], abs=0.005)
        assert int(row[6].replace(",", "")) == score["parameters"]
        assert float(row[7]) > 0
    assert float(rows[3][4]) == pytest.approx(scores[1]["bleu"]["score"] - scores[0]["bleu"]["score"], abs=0.01)


@pytest.mark.slow
def test_it_takes_a_data_bin_of_fairseq(
    pruned_out: tuple[Path, str], stock_checkpoint: Path, prepared: Path, tmp_path: Path, dsp: Callable[..., Any]
) -> None:
    """A plain data-bin, with the references given, has what the prepared folder has; what is printed runs anywhere.

    Its files may be named after the other direction.
    """
    support.named_other_way_round(prepared / "data-bin", tmp_path / "bin")
    command = ("prune", stock_checkpoint, tmp_path / "bin", tmp_path / "out", "--heads-to-keep", 6, *SHORT)
    assert "--references FILE" in dsp(*command, check=False).stdout
    printed = dsp(*command, "--references", prepared / "raw/test.yy", "--bpe", "subword-nmt").stdout
    scores = [json.loads((out / "runs/pruned-k6-s1/scores.json").read_text())[0]["bleu"] for out in
              (pruned_out[0], tmp_path / "out")]  # fmt: skip
    assert scores[0] == scores[1]
    (line,) = [line for line in printed.splitlines() if line.strip().startswith("fairseq-generate")]
    _, *words = shlex.split(line)
    assert words[-2:] == ["--post-process", "subword_nmt"]
    support.run_fairseq("generate", *words, cwd=tmp_path)


def test_shares_are_written_out_as_updates(pruned_out: tuple[Path, str], stock_checkpoint: Path) -> None:
    out, printed = pruned_out
    in_both = {
        "lr": 0.01, "lr-scheduler": "polynomial_decay", "total-num-update": 20, "max-update": 20, "warmup-updates": 1,
        "update-freq": 2, "max-tokens": 400, "attention-dropout": 0.1, "weight-decay": 1e-4, "label-smoothing": 0.1,
        "arch": "transformer_dsp",
    }  # fmt: skip
    few = {
        "heads-to-keep": 3, "heads-to-keep-updates": 5, "cooldown-updates": 6,
        "pruning-lr": 0.02, "min-encoder-heads": 1, "min-decoder-heads": 1,
        "finetune-from-model": stock_checkpoint,
    }  # fmt: skip
    half = {"head-selection": "fixed", "finetune-from-model": out / "runs/pruned-k6-s1/fitted.pt"}
    for k, own in ((3, few), (6, half)):
        words, expected = words_of(out, f"pruned-k{k}-s1"), in_both | own
        assert {name: value(words, f"--{name}") for name in expected} == {n: str(v) for n, v in expected.items()}
        recorded = json.loads((out / "prune.json").read_text())["options"][str(k)]
        for name in ("heads-to-keep", "finetune-from-model"):
            expected.pop(name, None)
        assert {name: str(recorded[name]) for name in expected} == {n: str(v) for n, v in expected.items()}
    assert "--heads-to-keep-updates 5 --min-encoder-heads 1 --min-decoder-heads 1 --heads-to-keep 3\n" in printed
    assert f"--head-selection fixed --kept-heads {out / 'runs/pruned-k6-s1/kept.json'}\n" in printed


def test_half_of_the_heads_are_scored_and_fitted_before_the_first_update(
    pruned_out: tuple[Path, str], stock_checkpoint: Path, prepared: Path, tmp_path: Path
) -> None:
    """What the command does is what its commands do by hand."""
    out, printed = pruned_out
    data, heads, fitted = prepared / "data-bin", tmp_path / "heads.json", tmp_path / "fitted.pt"
    lines = [line.strip() for line in printed.splitlines() if "fairseq_dsp.cli" in line]
    assert [shlex.split(line)[3] for line in lines] == ["score-heads", "compensate"]
    scoring = ("--split", "train", "--sentences", 2000, "--heads-to-keep", 6, "--steps", 6, "--out", heads)
    for words in (
        ("score-heads", stock_checkpoint, "--data", data, *scoring),
        ("compensate", stock_checkpoint, fitted, "--data", data, "--kept-heads", heads),
    ):
        assert main([str(word) for word in words]) == 0
    run = out / "runs/pruned-k6-s1"
    assert (run / "kept.json").read_text() == heads.read_text()
    assert HeadSet.read(str(heads)) == HeadSet.read(str(out / "compact-k6.heads.json"))
    found, expected = (load_checkpoint_to_cpu(str(path))["model"] for path in (run / "fitted.pt", fitted))
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_it_prunes_feed_forward_units_and_as_many_heads_everywhere(
    stock_checkpoint: Path, prepared: Path, tmp_path: Path, dsp: Callable[..., Any]
) -> None:
    out, kept = tmp_path / "out", 6
    budgets = ("--heads-to-keep", kept, "--ffn-units-to-keep", 21, "--uniform-heads")
    printed = dsp("prune", stock_checkpoint, prepared, out, *budgets, *SHORT).stdout
    assert f"| pruned | {kept} + 21 units |" in printed
    words = words_of(out, f"pruned-k{kept}-s1")
    expected = {"heads-to-keep": kept, "ffn-units-to-keep": 21, "heads-to-keep-updates": 5, "cooldown-updates": 6}
    assert {name: value(words, f"--{name}") for name in expected} == {n: str(v) for n, v in expected.items()}
    found = json.loads((out / "compact.heads.json").read_text())
    assert (found["kept"], found["ffn"]["kept"], found["ffn"]["total"]) == (kept, 21, 64)
    assert [len(layer) for name in ("encoder_self", "decoder_self", "cross") for layer in found[name]] == [1] * 6


@pytest.mark.slow
def test_one_training_for_a_range(
    stock_checkpoint: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dsp: Callable[..., Any]
) -> None:
    """Each model is the trained one cut to its K, and learns from the original's translations."""
    out = tmp_path / "out"
    call(stock_checkpoint, prepared, out, *SHORT, heads=[12, 6, 4], range=True, distill=True)
    printed = capsys.readouterr().out
    assert re.findall(r"^\| (.*?) \| (\d+) \|", printed, re.MULTILINE) == [
        ("original", "12"), ("pruned", "12"), ("pruned", "6"), ("pruned", "4"),
    ]  # fmt: skip
    words = words_of(out, "pruned-training-s1")
    expected = {
        "heads-to-keep": 4, "heads-to-keep-low": 4, "heads-to-keep-high": 12, "cooldown-updates": 6,
        "pruning-lr": 0.02,
    }  # fmt: skip
    corpus = out / "runs/translations-s1/corpus"
    assert words[4] == str(corpus / "data-bin")
    sentences = len(PreparedData.read(prepared).binarised("train.xx-yy.xx"))
    assert len(PreparedData.read(corpus).binarised("train.xx-yy.xx")) == 2 * sentences
    assert {name: value(words, f"--{name}") for name in expected} == {n: str(v) for n, v in expected.items()}
    assert "--heads-to-keep-updates" not in words
    assert sorted(path.name for path in (out / "runs").iterdir()) == [
        "base-s1", "pruned-k12-s1", "pruned-k4-s1", "pruned-k6-s1", "pruned-training-s1", "translations-s1",
    ]  # fmt: skip
    assert sorted(path.name for path in out.glob("*.pt")) == [
        "compact-k12.pt", "compact-k4.pt", "compact-k6.pt", "range.pt",
    ]  # fmt: skip
    assert main(["report", str(out)]) == 0
    dsp("compact", out / "range.pt", tmp_path / "k6.pt", "--heads-to-keep", 6)
    assert (tmp_path / "k6.heads.json").read_text() == (out / "compact-k6.heads.json").read_text()
    before = files(out)
    call(stock_checkpoint, prepared, out, *SHORT, heads=[12, 6, 4], range=True, distill=True)
    assert files(out) == before
    message = refused(stock_checkpoint, prepared, out, *SHORT, heads=[12, 6, 4], range=True)
    assert "holds the result of another call (distill true, now false)" in message
    assert "--range is one training for every K between two, but --heads-to-keep is 6" in refused(
        stock_checkpoint, prepared, tmp_path / "one", heads=[6], range=True
    )


@pytest.mark.slow
def test_each_k_of_a_range_is_touched_up(stock_checkpoint: Path, prepared: Path, tmp_path: Path) -> None:
    """The heads are those of the range's model; the weights are those of the next larger K, trained on, with the same
    learning rate.
    """
    out = tmp_path / "out"
    call(stock_checkpoint, prepared, out, *SHORT, heads=[12, 6], range=True, touch_up=8)
    first = out / "runs/pruned-training-s1/checkpoints/checkpoint_best.pt"
    assert value(words_of(out, "pruned-k12-s1"), "--finetune-from-model") == str(first)
    words = words_of(out, "pruned-k6-s1")
    start = out / "runs/pruned-k12-s1/recovered/checkpoint_best.pt"
    expected = {
        "finetune-from-model": start, "max-update": 8, "lr": 0.01, "total-num-update": 8, "warmup-updates": 1,
        "head-selection": "fixed", "dropout": 0.0,
    }  # fmt: skip
    assert {name: value(words, f"--{name}") for name in expected} == {n: str(v) for n, v in expected.items()}
    assert "--heads-to-keep-low" not in words
    found = json.loads((out / "compact-k6.heads.json").read_text())
    assert found == json.loads((out / "runs/pruned-k6-s1/kept.json").read_text())
    trained = load_checkpoint_to_cpu(str(out / "runs/pruned-k6-s1/recovered/checkpoint_last.pt"))
    assert trained["optimizer_history"][-1]["num_updates"] == 8
    message = refused(stock_checkpoint, prepared, out, *SHORT, heads=[12, 6], range=True)
    assert "holds the result of another call (touch-up 8, now null)" in message


def test_run_again_it_does_nothing_twice(
    pruned_out: tuple[Path, str],
    stock_checkpoint: Path,
    prepared: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, _ = pruned_out
    before = files(out)
    moved = tmp_path / "moved.pt"
    shutil.copy(stock_checkpoint, moved)
    call(moved, prepared, out, *SHORT, *NO_EFFECT, heads=[6, 3])
    assert (out / "table.md").read_text() in capsys.readouterr().out
    after = files(out)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == ["prune.json"]  # the checkpoint's new place
    options = json.loads(after["prune.json"])["options"]
    assert {name: own["num-workers"] for name, own in options.items()} == {"6": "1", "3": "1"}
    call(moved, prepared, out, *SHORT, heads=[6, 3])
    options = json.loads(files(out)["prune.json"])["options"]
    assert not [own for own in options.values() if "num-workers" in own]  # it has its default again


@pytest.mark.slow
def test_killed_half_way_it_goes_on(
    pruned_out: tuple[Path, str], stock_checkpoint: Path, prepared: Path, dsp: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["prune", stock_checkpoint, prepared, out, "--heads-to-keep", 6, *SHORT]
    command = [quick_python(), "-m", "fairseq_dsp.cli", *map(str, arguments)]
    process = subprocess.Popen(
        command, env=support.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    log, deadline = out / "runs/pruned-k6-s1/log.txt", time.monotonic() + 240
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and "train_inner" in log.read_text():
            break
        time.sleep(0.05)
    assert process.poll() is None
    process.kill()
    process.wait()
    assert not (out / "compact.pt").exists()
    dsp(*arguments, *NO_EFFECT)
    straight = pruned_out[0]
    assert (out / "compact.heads.json").read_bytes() == (straight / "compact-k6.heads.json").read_bytes()
    one, other = (load_checkpoint_to_cpu(str(path)) for path in (out / "compact.pt", straight / "compact-k6.pt"))
    assert one["model"].keys() == other["model"].keys()
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    row = r"\| pruned \| 6 \|.*\| [\d,]+ \|"  # all but the speed
    found = [re.search(row, (folder / "table.md").read_text()) for folder in (out, straight)]
    assert found[0]
    assert found[1]
    assert found[0][0] == found[1][0]
