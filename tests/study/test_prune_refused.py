"""What ``fairseq-dsp prune`` refuses, in one sentence, before anything is written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import support
import torch
from pruning import SHORT, files, refused


def test_what_cannot_be_pruned(
    pruned_out: tuple[Path, str], stock_checkpoint: Path, prepared: Path, tmp_path: Path
) -> None:
    out, pruned = tmp_path / "out", pruned_out[0]
    compact, trained = pruned / "compact-k6.pt", pruned / "runs/pruned-k3-s1/checkpoints/checkpoint_best.pt"
    lstm = tmp_path / "lstm"
    sizes = [f"--{side}-{name}" for side in ("encoder", "decoder") for name in ("embed-dim", "hidden-size")]
    flags = [word for size in [*sizes, "--decoder-out-embed-dim"] for word in (size, "16")]
    arguments = [prepared / "data-bin", "--save-dir", lstm, "--arch", "lstm", *flags, *support.TINY_TRAINING]
    support.run_fairseq("train", *arguments, "--max-update", 1)
    for checkpoint, message in (
        (tmp_path / "none.pt", "none.pt cannot be read: No such file"),
        (compact, "is compact already: give the unpruned model that it was made from"),
        (trained, "is pruned already: give the unpruned model"),
        (lstm / "checkpoint_last.pt", "is of the architecture lstm, whose heads cannot be pruned"),
    ):
        assert message in refused(checkpoint, prepared, out, heads=[6])
    for heads, message in (
        ([13], "--heads-to-keep holds 13, but whole numbers from 0 to 12 are expected"),
        ([6, 6], "--heads-to-keep holds a number twice"),
        (None, "no number of heads is given: give --heads-to-keep K, how many of the 12 heads of"),
    ):
        assert message in refused(stock_checkpoint, prepared, out, heads=heads)
    assert "is a checkpoint, but the folder of a prepared corpus is expected" in refused(
        prepared, stock_checkpoint, out, heads=[6]
    )
    for seed in (-1, 2**31):  # fairseq adds the epoch to it, and numpy takes 32 bits
        message = f"--seed holds {seed}, but whole numbers from 0 to {2**31 - 1} are expected"
        assert message in refused(stock_checkpoint, prepared, out, heads=[6], seed=seed)
    for given, more, message in (
        ({"heads": [6], "touch_up": 5}, [], "--touch-up is 5 without --range, but it is how many updates"),
        ({"heads": [6, 3], "range": True, "touch_up": 0}, [], "--touch-up is 0, but it is how many updates, 1 or more"),
        ({"heads": [6, 3], "range": True}, ["--uniform-heads"], "the modules of a range have different numbers"),
        (
            {"heads": [6, 3], "range": True},
            ["--cooldown-updates", "0"],
            "--cooldown-updates is 0, so the heads are fixed",
        ),
        ({"heads": [6], "distill": True}, ["--train-subset", "small"], "has train-subset small, but distillation adds"),
        ({"heads": [6]}, ["--encoder-heads-to-keep", "2"], "has one budget for all heads: give --heads-to-keep K"),
        ({"parameters_to_keep": [0.5], "range": True}, [], "--range is for numbers of heads, but a share of the cost"),
        ({"heads": None, "range": True, "ffn_units_to_keep": 20}, [], "between two, but --heads-to-keep is not given"),
        ({"flops_to_keep": [0.5, 0.5 + 1e-13]}, [], "flops-to-keep of the command line holds a number twice"),
    ):
        assert message in refused(stock_checkpoint, prepared, out, *more, **given)
    for more, message in (
        (["--max-update", "0"], "--max-update is 0, but a number from 1 is expected"),
        (["--max-epoch", "2"], "give --max-update instead"),
        (["--max-update", "two"], "--max-update is two, but a number of updates is expected"),
        (["--cooldown-updates", "x"], "--cooldown-updates is x, but a number of updates is expected"),
        (["--pruning-lr", "x"], "argument --pruning-lr: invalid float value: 'x'"),
        (["--lrr", "1"], "unrecognized arguments: --lrr 1"),
        (
            ["--arch", "transformer"],
            "arch is transformer, but for translation only transformer_dsp and its architectures",
        ),
        (["--head-selection", "fixed"], "--head-selection fixed is given, but this command chooses the heads"),
        (["--seed"], "the command line has the option seed, but this command sets it itself"),
        (["--lr", "1", "2"], "the command line has the word 2, which does not belong to an option"),
        (["--encoder-layers", "3"], "leave out options that set the model's sizes: the checkpoint has them"),
        (["--min-encoder-heads", "4"], "4"),
        (["--module-penalty", "0.02"], "--module-penalty is 0.02, but is an option no more"),
    ):
        assert message in refused(stock_checkpoint, prepared, out, *more, heads=[3])
    translated = tmp_path / "translated"
    translated.mkdir()
    summary = json.loads((prepared / "prepare.json").read_text())
    there = {"data_bin": str(prepared / "data-bin"), "settings": {"models": ["5e"]}}
    (translated / "prepare.json").write_text(json.dumps(summary | there))
    message = "has translations already: give the corpus that it was made of"
    assert message in refused(stock_checkpoint, translated, out, heads=[3], distill=True)
    adaptive = tmp_path / "adaptive"
    support.train_adaptive(prepared / "data-bin", adaptive)
    message = (
        "it has an adaptive softmax, which this command does not train: use fairseq-train --criterion adaptive_loss"
    )
    assert message in refused(adaptive / "checkpoint_last.pt", prepared, out, heads=[6])
    for units, more, message in (
        (65, [], "--ffn-units-to-keep is 65, but there are 64 such feed-forward units: give a number from 0 to 64"),
        (-1, [], "--ffn-units-to-keep is -1, but there are 64"),
        (3, ["--ffn-unit-width", "5"], "--ffn-unit-width is 5, but the encoder's feed-forward layers have 32 hidden"),
    ):
        assert message in refused(stock_checkpoint, prepared, out, *more, heads=None, ffn_units_to_keep=units)
    assert not out.exists()


def test_a_corpus_of_another_model(stock_checkpoint: Path, prepared: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(prepared, other)
    words = (other / "data-bin/dict.yy.txt").read_text().splitlines()
    advice = "give the corpus that it was trained on, or one prepared with its subwords and dictionaries"
    for lines, message in (
        (
            [*words, "new 1"],
            f"another target dictionary ({len(words) + 4} words, here {len(words) + 5}), so words would be confused",
        ),
        ([words[1], words[0], *words[2:]], f"the dictionary of {stock_checkpoint}: {advice}"),
    ):
        (other / "data-bin/dict.yy.txt").write_text("".join(f"{line}\n" for line in lines))
        assert message in refused(stock_checkpoint, other, tmp_path / "out", heads=[6])
    for damage, reason in (("xyz", "Incorrect dictionary format"), (words[0], "Duplicate word")):
        (other / "data-bin/dict.yy.txt").write_text("".join(f"{line}\n" for line in [*words[:-1], damage]))
        assert f"is no dictionary of fairseq's ({reason}" in refused(
            stock_checkpoint, other, tmp_path / "out", heads=[6]
        )
    (other / "data-bin/dict.yy.txt").unlink()
    assert "dict.yy.txt is missing" in refused(stock_checkpoint, other, tmp_path / "out", heads=[6])
    beside = tmp_path / "moved"  # the training data are gone, the dictionaries beside the checkpoint are there
    beside.mkdir()
    state = torch.load(stock_checkpoint, weights_only=True)
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


def test_a_folder_with_something_else(
    pruned_out: tuple[Path, str], stock_checkpoint: Path, prepared: Path, tmp_path: Path
) -> None:
    out, _ = pruned_out
    before = files(out)
    for heads, more, options, message in (
        ([6], SHORT, {}, "holds the result of another call (heads [6, 3], now [6])"),
        ([6, 3], ["--max-update", "40"], {}, 'now {"max-update": "40"}'),
        ([6, 3], SHORT, {"seed": 2}, "(seed 1, now 2): give another folder, or remove that one"),
    ):
        assert message in refused(stock_checkpoint, prepared, out, *more, heads=heads, **options)
    record = json.loads((out / "prune.json").read_text())
    (out / "prune.json").write_text(json.dumps(record | {"text": {"bpe": "subword-nmt"}}))
    message = 'holds the result of another call (text {"bpe": "subword-nmt"}, now null)'
    assert message in refused(stock_checkpoint, prepared, out, *SHORT, heads=[6, 3])
    (out / "prune.json").write_bytes(before["prune.json"])
    assert files(out) == before
    other = tmp_path / "other.pt"
    state = torch.load(stock_checkpoint, weights_only=True)
    state["model"]["encoder.layers.0.fc1.bias"] += 1
    torch.save(state, other)
    assert "holds the result of another call (checkpoint" in refused(other, prepared, out, *SHORT, heads=[6, 3])
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis.tex").write_text("all of it")
    assert "is not empty, and this command did not make it" in refused(
        stock_checkpoint, prepared, tmp_path / "full", heads=[6]
    )
    (tmp_path / "full/prune.json").write_text("[1]")
    assert "is not what this command wrote" in refused(stock_checkpoint, prepared, tmp_path / "full", heads=[6])
    assert sorted(path.name for path in (tmp_path / "full").iterdir()) == ["prune.json", "thesis.tex"]
