"""Pruning a trained model in one command, for real: it chooses heads, trains on, compacts, scores and compares."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inprocess
import pytest
import support
import torch
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from quick_python import quick_python

from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation import preprocessed
from fairseq_dsp.evaluation.prepared import PreparedData
from fairseq_dsp.study import prune, pruning_recipe
from fairseq_dsp.study.unpruned_model import UnprunedModel

SHORT = ["--max-update", "20", "--log-interval", "5"]


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory, train_tiny: Callable[..., Any]) -> Path:
    """A trained model of stock fairseq's ``transformer``, with 12 heads, dropout and an optimiser of its own."""
    folder = tmp_path_factory.mktemp("stock")
    flags = ("--attention-dropout", 0.1, "--dropout", 0, "--adam-betas", "(0.9, 0.98)", "--weight-decay", 1e-4)
    train_tiny(folder, *flags, "--lr", 0.01, "--update-freq", 2)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, stock: Path, prepared: Path, dsp: Callable[..., Any]
) -> tuple[Path, str]:
    """The stock model pruned to 6 and to 3 heads: OUT, and what was printed."""
    out = tmp_path_factory.mktemp("pruned") / "out"
    return out, dsp("prune", stock, prepared, out, "--heads-to-keep", 6, 3, *SHORT).stdout


def words_of(out: Path, run: str) -> list[str]:
    """The first command of a run's log."""
    log = (out / f"runs/{run}/log.txt").read_text()
    return log.split("\n$ ", 1)[1].splitlines()[0].split(" ")


def value(words: list[str], option: str) -> str:
    """The value of an option of a command."""
    return words[words.index(option) + 1]


def files(folder: Path) -> dict[str, bytes]:
    """The files of a folder with their contents, without locks."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def call(checkpoint: Path, data: Path, out: Path, *more: str, heads: list[int] | None, **options: Any) -> None:
    """The command in this process."""
    arguments = {"checkpoint": str(checkpoint), "data": str(data), "out": out, "heads_to_keep": heads}
    arguments |= dict.fromkeys(("ffn_units_to_keep", "parameters_to_keep", "flops_to_keep"))
    arguments |= {"range": False, "distill": False, "dry_run": False, **dict.fromkeys(preprocessed.KEYS)}
    prune.run(Namespace(**{**arguments, "more": list(more), "seed": 1, "split": "test", **options}))


def refused(*arguments: Any, **options: Any) -> str:
    """The sentence with which the command refuses."""
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_it_prunes_a_stock_checkpoint_to_several_numbers_of_heads(finished: tuple[Path, str]) -> None:
    out, printed = finished
    for k in (6, 3):
        heads = json.loads((out / f"compact-k{k}.heads.json").read_text())
        assert heads["kept"] == k
        state = load_checkpoint_to_cpu(str(out / f"compact-k{k}.pt"))
        assert state["cfg"]["model"].compact
        trained = load_checkpoint_to_cpu(str(out / f"runs/pruned-k{k}-s1/checkpoints/checkpoint_last.pt"))
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


def test_it_takes_a_data_bin_of_fairseq(
    finished: tuple[Path, str], stock: Path, prepared: Path, tmp_path: Path, dsp: Callable[..., Any]
) -> None:
    """A plain data-bin, with the references given, has what the prepared folder has; what is printed runs anywhere."""
    shutil.copytree(prepared / "data-bin", tmp_path / "bin")
    command = ("prune", stock, tmp_path / "bin", tmp_path / "out", "--heads-to-keep", 6, *SHORT)
    assert "--references FILE" in dsp(*command, check=False).stdout
    printed = dsp(*command, "--references", prepared / "raw/test.yy", "--bpe", "subword-nmt").stdout
    scores = [json.loads((out / "runs/pruned-k6-s1/scores.json").read_text())[0]["bleu"] for out in
              (finished[0], tmp_path / "out")]  # fmt: skip
    assert scores[0] == scores[1]
    (line,) = [line for line in printed.splitlines() if line.strip().startswith("fairseq-generate")]
    _, *words = shlex.split(line)
    assert words[-2:] == ["--post-process", "subword_nmt"]
    support.run_fairseq("generate", *words, cwd=tmp_path)


def test_shares_are_written_out_as_updates(finished: tuple[Path, str], stock: Path) -> None:
    out, printed = finished
    for k, shrinking, cooldown, floor in ((6, 5, 6, 2), (3, 8, 9, None)):  # a third of 12 heads and more, or less
        words = words_of(out, f"pruned-k{k}-s1")
        assert value(words, "--finetune-from-model") == str(stock)
        expected = {
            "heads-to-keep": k, "heads-to-keep-start": 12, "heads-to-keep-updates": shrinking,
            "cooldown-updates": cooldown, "pruning-lr": 0.02, "lr": 0.01, "lr-scheduler": "polynomial_decay",
            "total-num-update": 20, "max-update": 20, "warmup-updates": 1, "update-freq": 2, "max-tokens": 400,
            "attention-dropout": 0.1, "weight-decay": 1e-4, "label-smoothing": 0.1, "arch": "transformer_dsp",
        }  # fmt: skip
        assert {name: value(words, f"--{name}") for name in expected} == {n: str(v) for n, v in expected.items()}
        recorded = json.loads((out / "prune.json").read_text())["options"][str(k)]
        expected.pop("heads-to-keep")
        assert {name: str(recorded[name]) for name in expected} == {n: str(v) for n, v in expected.items()}
        least = "" if floor is None else f"--min-encoder-heads {floor} "
        assert f"--heads-to-keep-updates {shrinking} {least}--heads-to-keep {k}" in printed


def test_it_prunes_feed_forward_units_and_as_many_heads_everywhere(
    stock: Path, prepared: Path, tmp_path: Path, dsp: Callable[..., Any]
) -> None:
    out, kept = tmp_path / "out", 6
    budgets = ("--heads-to-keep", kept, "--ffn-units-to-keep", 21, "--uniform-heads")
    printed = dsp("prune", stock, prepared, out, *budgets, *SHORT).stdout
    assert f"| pruned | {kept} + 21 units |" in printed
    words = words_of(out, f"pruned-k{kept}-s1")
    expected = {"heads-to-keep": kept, "ffn-units-to-keep": 21, "heads-to-keep-updates": 8, "cooldown-updates": 9}
    assert {name: value(words, f"--{name}") for name in expected} == {n: str(v) for n, v in expected.items()}
    found = json.loads((out / "compact.heads.json").read_text())
    assert (found["kept"], found["ffn"]["kept"], found["ffn"]["total"]) == (kept, 21, 64)
    assert [len(layer) for name in ("encoder_self", "decoder_self", "cross") for layer in found[name]] == [1] * 6


def test_one_training_for_a_range(
    stock: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], dsp: Callable[..., Any]
) -> None:
    """Each model is the trained one cut to its K, and the original is the teacher."""
    out = tmp_path / "out"
    call(stock, prepared, out, *SHORT, heads=[12, 6, 4], range=True, distill=True)
    printed = capsys.readouterr().out
    assert re.findall(r"^\| (.*?) \| (\d+) \|", printed, re.MULTILINE) == [
        ("original", "12"), ("pruned", "12"), ("pruned", "6"), ("pruned", "4"),
    ]  # fmt: skip
    words = words_of(out, "pruned-training-s1")
    expected = {
        "heads-to-keep": 4, "heads-to-keep-low": 4, "heads-to-keep-high": 12, "cooldown-updates": 6,
        "pruning-lr": 0.02, "distill-from": stock,
    }  # fmt: skip
    assert {name: value(words, f"--{name}") for name in expected} == {n: str(v) for n, v in expected.items()}
    assert not {"--heads-to-keep-start", "--heads-to-keep-updates"} & set(words)
    assert sorted(path.name for path in (out / "runs").iterdir()) == [
        "base-s1", "pruned-k12-s1", "pruned-k4-s1", "pruned-k6-s1", "pruned-training-s1",
    ]  # fmt: skip
    assert sorted(path.name for path in out.glob("*.pt")) == [
        "compact-k12.pt", "compact-k4.pt", "compact-k6.pt", "range.pt",
    ]  # fmt: skip
    dsp("compact", out / "range.pt", tmp_path / "k6.pt", "--heads-to-keep", 6)
    assert (tmp_path / "k6.heads.json").read_text() == (out / "compact-k6.heads.json").read_text()
    before = files(out)
    call(stock, prepared, out, *SHORT, heads=[12, 6, 4], range=True, distill=True)
    assert files(out) == before
    message = refused(stock, prepared, out, *SHORT, heads=[12, 6, 4], range=True)
    assert "holds the result of another call (distill true, now false)" in message
    assert "--range is one training for every K between two, but --heads-to-keep is 6" in refused(
        stock, prepared, tmp_path / "one", heads=[6], range=True
    )


def test_run_again_it_does_nothing_twice(
    finished: tuple[Path, str], stock: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, _ = finished
    before = files(out)
    moved = tmp_path / "moved.pt"
    shutil.copy(stock, moved)
    call(moved, prepared, out, *SHORT, heads=[6, 3])
    assert (out / "table.md").read_text() in capsys.readouterr().out
    after = files(out)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] != after[name]] == ["prune.json"]  # the checkpoint's new place


def test_killed_half_way_it_goes_on(
    finished: tuple[Path, str], stock: Path, prepared: Path, dsp: Callable[..., Any], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["prune", stock, prepared, out, "--heads-to-keep", 6, *SHORT]
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
    dsp(*arguments)
    straight = finished[0]
    assert (out / "compact.heads.json").read_bytes() == (straight / "compact-k6.heads.json").read_bytes()
    one, other = (load_checkpoint_to_cpu(str(path)) for path in (out / "compact.pt", straight / "compact-k6.pt"))
    assert one["model"].keys() == other["model"].keys()
    assert all(torch.equal(one["model"][name], other["model"][name]) for name in one["model"])
    row = r"\| pruned \| 6 \|.*\| [\d,]+ \|"  # all but the speed
    found = [re.search(row, (folder / "table.md").read_text()) for folder in (out, straight)]
    assert found[0]
    assert found[1]
    assert found[0][0] == found[1][0]


def test_what_cannot_be_pruned(finished: tuple[Path, str], stock: Path, prepared: Path, tmp_path: Path) -> None:
    out, pruned = tmp_path / "out", finished[0]
    compact, trained = pruned / "compact-k6.pt", pruned / "runs/pruned-k6-s1/checkpoints/checkpoint_best.pt"
    lstm = tmp_path / "lstm"
    sizes = [f"--{side}-{name}" for side in ("encoder", "decoder") for name in ("embed-dim", "hidden-size")]
    flags = [word for size in [*sizes, "--decoder-out-embed-dim"] for word in (size, "16")]
    arguments = [prepared / "data-bin", "--save-dir", lstm, "--arch", "lstm", *flags, *support.TINY_TRAINING]
    support.run_fairseq("train", *arguments, "--max-update", 1)
    for checkpoint, message in (
        (tmp_path / "none.pt", "there is no checkpoint"),
        (compact, "is compact already: give the unpruned model that it was made from"),
        (trained, "is pruned already: give the unpruned model"),
        (lstm / "checkpoint_last.pt", "is of the architecture lstm, whose heads cannot be pruned"),
    ):
        assert message in refused(checkpoint, prepared, out, heads=[6])
    for heads, message in (
        ([13], "--heads-to-keep holds 13, but numbers from 0 to 12 are expected"),
        ([6, 6], "--heads-to-keep holds a number twice"),
        (None, "no number of heads is given: give --heads-to-keep K, how many of the 12 heads of"),
    ):
        assert message in refused(stock, prepared, out, heads=heads)
    assert "--seed holds -1, but numbers from 0" in refused(stock, prepared, out, heads=[6], seed=-1)
    for more, message in (
        (["--max-update", "0"], "--max-update is 0, but a number from 1 is expected"),
        (["--max-epoch", "2"], "give --max-update too"),
        (["--max-update", "two"], "--max-update is two, but a number of updates is expected"),
        (["--cooldown-updates", "x"], "--cooldown-updates is x, but a number of updates is expected"),
        (["--pruning-lr", "x"], "argument --pruning-lr: invalid float value: 'x'"),
        (["--lrr", "1"], "unrecognized arguments: --lrr 1"),
        (["--seed"], "the command line has the option seed, but this command sets it itself"),
        (["--lr", "1", "2"], "the command line has the word 2, which does not belong to an option"),
        (["--encoder-layers", "3"], "leave out options that set the model's sizes: the checkpoint has them"),
        (["--min-encoder-heads", "4"], "4"),
    ):
        assert message in refused(stock, prepared, out, *more, heads=[3])
    for units, more, message in (
        (65, [], "--ffn-units-to-keep is 65, but there are 64 such feed-forward units: give a number from 0 to 64"),
        (-1, [], "--ffn-units-to-keep is -1, but there are 64"),
        (3, ["--ffn-unit-width", "5"], "--ffn-unit-width is 5, but the encoder's feed-forward layers have 32 hidden"),
    ):
        assert message in refused(stock, prepared, out, *more, heads=None, ffn_units_to_keep=units)
    assert not out.exists()


def test_a_corpus_of_another_model(stock: Path, prepared: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(prepared, other)
    words = (other / "data-bin/dict.yy.txt").read_text().splitlines()
    advice = "give the corpus that it was trained on, or one prepared with its subwords and dictionaries"
    for lines, message in (
        ([*words, "new 1"], f"has {len(words) + 5} entries, but the decoder of {stock} has {len(words) + 4}: {advice}"),
        ([words[1], words[0], *words[2:]], "has other words than"),
    ):
        (other / "data-bin/dict.yy.txt").write_text("".join(f"{line}\n" for line in lines))
        assert message in refused(stock, other, tmp_path / "out", heads=[6])
    (other / "data-bin/dict.yy.txt").unlink()
    assert "dict.yy.txt is missing" in refused(stock, other, tmp_path / "out", heads=[6])
    beside = tmp_path / "moved"  # the training data are gone, the dictionaries beside the checkpoint are there
    beside.mkdir()
    state = torch.load(stock, weights_only=True)
    state["cfg"]["task"] |= {"data": str(tmp_path / "gone"), "source_lang": "xx", "target_lang": "yy"}
    torch.save(state, beside / "model.pt")
    (beside / "dict.yy.txt").write_text("".join(f"{line}\n" for line in [words[1], words[0], *words[2:]]))
    assert f"has other words than {beside / 'dict.yy.txt'}" in refused(
        beside / "model.pt", prepared, tmp_path / "out", heads=[6]
    )
    summary = json.loads((other / "prepare.json").read_text()) | {"source_lang": "yy", "target_lang": "xx"}
    (other / "prepare.json").write_text(json.dumps(summary))
    assert "translates from xx to yy, but the corpus" in refused(
        beside / "model.pt", other, tmp_path / "out", heads=[6]
    )
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else(finished: tuple[Path, str], stock: Path, prepared: Path, tmp_path: Path) -> None:
    out, _ = finished
    before = files(out)
    for heads, more, options, message in (
        ([6], SHORT, {}, "holds the result of another call (heads [6, 3], now [6])"),
        ([6, 3], ["--max-update", "40"], {}, 'now {"max-update": "40"}'),
        ([6, 3], SHORT, {"seed": 2}, "(seed 1, now 2): give another folder, or remove that one"),
    ):
        assert message in refused(stock, prepared, out, *more, heads=heads, **options)
    assert files(out) == before
    other = tmp_path / "other.pt"
    state = torch.load(stock, weights_only=True)
    state["model"]["encoder.layers.0.fc1.bias"] += 1
    torch.save(state, other)
    assert "holds the result of another call (checkpoint" in refused(other, prepared, out, *SHORT, heads=[6, 3])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("all of it")
    assert "is not empty, and this command did not make it" in refused(stock, prepared, tmp_path / "full", heads=[6])
    (tmp_path / "full/prune.json").write_text("[1]")
    assert "is not what this command wrote" in refused(stock, prepared, tmp_path / "full", heads=[6])
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["prune.json", "thesis.tex"]


def options_of(model: UnprunedModel, data: PreparedData, k: int, given: dict[str, Any]) -> dict[str, Any]:
    """The options of the training that keeps K heads."""
    return prune._options(model, data, {str(k): {"heads-to-keep": k}}, given)[str(k)]


def test_the_options_of_a_model(stock: Path, prepared: Path, train_tiny: Callable[..., Any], tmp_path: Path) -> None:
    """A third of the updates it had; what is given wins, and its own scheduler stays where an option of it is given."""
    model = UnprunedModel.read(stock)
    data = PreparedData.read(prepared)
    assert (model.heads, model.updates, model.sizes["arch"]) == (12, 20, "transformer_dsp")
    options = options_of(model, data, 6, {})
    assert (options["max-update"], options["total-num-update"], options["warmup-updates"]) == (500, 500, 25)
    assert (options["heads-to-keep-updates"], options["cooldown-updates"]) == (125, 150)
    floors = {k: options_of(model, data, k, {}).get("min-encoder-heads") for k in (11, 5, 4, 3)}
    assert floors == {11: 3, 5: 2, 4: 1, 3: None}  # of the encoder's 4 of 12; below a third the choice is free
    for own in ("min-encoder-heads", "min-cross-heads", "encoder-heads-to-keep", "min-heads-per-module"):
        found = pruning_recipe.schedule(data, {"max-update": 100, "heads-to-keep": 6, own: 1}, model.shape)
        assert "min-encoder-heads" not in found, f"{own} shares the heads out"
    given = {"max-update": "100", "cooldown-updates": "20", "lr": "0.5", "pruning-lr": "0.2"}
    options = options_of(model, data, 6, given)
    assert options | given == options
    assert options["heads-to-keep-updates"] == 20  # the budget does not shrink after the heads are fixed
    options = options_of(model, data, 6, {"lr-scheduler": "inverse_sqrt", "warmup-updates": "7"})
    assert "total-num-update" not in options
    model.state["optimizer_history"][-1]["num_updates"] = 6000
    assert options_of(model, data, 6, {})["max-update"] == 2000
    ends = {"heads-to-keep": 3, "heads-to-keep-low": 3, "heads-to-keep-high": 12}
    options = prune._options(model, data, {"3 to 12": ends}, {})["3 to 12"]
    assert (options["max-update"], options["cooldown-updates"], options["min-encoder-heads"]) == (4000, 1200, 3)
    assert not ends.keys() & options.keys()
    hydra = ("model._name=transformer", "criterion._name=label_smoothed_cross_entropy", "optimization.max_update=1")
    inprocess.train_hydra("base", data.data_bin, tmp_path / "hydra", *inprocess.HYDRA_TINY, *hydra)
    own = UnprunedModel.read(tmp_path / "hydra/checkpoint_last.pt")
    assert (own.heads, own.sizes["arch"], own.sizes["encoder-embed-dim"]) == (12, "transformer_dsp", 16)
    options = options_of(own, data, 6, {})
    assert (options["lr"], options["adam-betas"], options["dropout"]) == (0.005, "(0.9,0.98)", 0.3)
    train_tiny(tmp_path, "--max-update", 1, arch="transformer_dsp_tiny")
    assert UnprunedModel.read(tmp_path / "checkpoint_last.pt").sizes["arch"] == "transformer_dsp_tiny"
    assert main(["export-fairseq", str(tmp_path / "checkpoint_last.pt"), str(tmp_path / "exported.pt")]) == 0
    exported = UnprunedModel.read(tmp_path / "exported.pt")
    assert (exported.heads, exported.sizes["arch"], exported.sizes["encoder-embed-dim"]) == (12, "transformer_dsp", 16)
    assert options_of(exported, data, 6, {})["heads-to-keep-start"] == 12
