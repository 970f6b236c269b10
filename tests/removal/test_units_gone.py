"""Feed-forward units beside heads, through the real tools: trained to exact budgets, removed, exported, shown."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch

import fairseq_dsp
from fairseq_dsp.cli import main
from fairseq_dsp.model import FFN

OUTSIDE, WIDTH, LAYERS = 16, 8, 4  # 32 hidden neurons in each of four layers: 16 units
# layers with all, some and no units
UNITS = {"width": WIDTH, "total": 16, "kept": 7, "encoder": [[0, 1, 2, 3], [2]], "decoder": [[], [1, 3]]}


@pytest.fixture(scope="module")
def trained(train_tiny, tmp_path_factory) -> Path:
    """A checkpoint of 5 of 12 heads and 7 of 16 units, whose importance then was set to choose `UNITS`."""
    folder = tmp_path_factory.mktemp("trained")
    budgets = ("--heads-to-keep", 5, "--ffn-units-to-keep", 7, "--ffn-unit-width", WIDTH)
    train_tiny(folder, *budgets, "--task", "translation_dsp", arch="transformer_dsp")
    path = folder / "checkpoint_last.pt"
    state = torch.load(path)
    assert (int(state["model"]["heads.kept"].sum()), int(state["model"]["ffn.kept"].sum())) == (5, 7)
    kept = [float(u in layer) for side in ("encoder", "decoder") for layer in UNITS[side] for u in range(4)]
    state["model"]["ffn.importance"].copy_(torch.tensor(kept))
    state["model"]["ffn.kept"].copy_(torch.tensor(kept))
    torch.save(state, path)
    return path


@pytest.fixture(scope="module")
def small(trained: Path, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("small") / "compact.pt"
    assert main(["compact", str(trained), str(out)]) == 0
    content = json.loads(out.with_suffix(".heads.json").read_text())
    assert content["ffn"] == UNITS
    assert content["kept"] == 5
    return out


@pytest.fixture(scope="module")
def batch(load, trained: Path) -> dict[str, Any]:
    _, task = load(trained)
    task.load_dataset("test")
    data = task.dataset("test")
    return data.collater([data[i] for i in range(8)])["net_input"]


@torch.no_grad()
def logits(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    return model(**batch)[0]


def test_masked_compact_and_stock_models_compute_the_same(trained, small, load, batch, tmp_path) -> None:
    masked, _ = load(trained)
    expected = logits(masked, batch)
    torch.testing.assert_close(logits(load(small)[0], batch), expected, atol=1e-5, rtol=1e-5)
    fast, _ = load(trained)
    fast.make_generation_fast_()
    assert fast.kept_heads == masked.kept()
    torch.testing.assert_close(logits(fast, batch), expected, atol=1e-5, rtol=1e-5)
    for source in (trained, small):
        out = tmp_path / f"{source.stem}-stock.pt"
        assert main(["export-fairseq", str(source), str(out)]) == 0
        assert torch.load(out, weights_only=True)["model"]["decoder.layers.0.fc1.weight"].shape == (32, OUTSIDE)
        torch.testing.assert_close(logits(load(out)[0], batch), expected, atol=1e-5, rtol=1e-5)


def test_the_compact_model_has_no_parameter_of_a_removed_unit(trained, small) -> None:
    full, left = torch.load(trained)["model"], torch.load(small)["model"]
    assert not [name for name in left if name.startswith(("heads.", "ffn."))]
    sizes = {name: value.numel() for name, value in left.items() if ".fc" in name}
    assert sum(sizes.values()) == LAYERS * OUTSIDE + UNITS["kept"] * WIDTH * (2 * OUTSIDE + 1)
    assert [name for name in left if name.startswith("decoder.layers.0.fc")] == ["decoder.layers.0.fc2.bias"]
    assert torch.equal(left["decoder.layers.1.fc1.weight"][WIDTH:], full["decoder.layers.1.fc1.weight"][3 * WIDTH :])


def test_a_folder_and_the_engine_translate_the_same(small, load, tiny_data, tmp_path, capsys) -> None:
    folder = tmp_path / "folder"  # writing it compares log-probabilities
    assert main(["export-folder", str(small), str(folder), "--data", str(tiny_data)]) == 0
    assert "with 5 of 12 attention heads and 7 of 16 feed-forward units" in (folder / "README.md").read_text()
    text = (tiny_data.parent / "test.xx").read_text().splitlines()[:5]
    assert len(fairseq_dsp.from_pretrained(folder).translate(text)) == 5
    pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")
    assert main(["export-ctranslate2", str(small), str(tmp_path / "engine"), "--data", str(tiny_data)]) == 0
    assert "7 feed-forward units" in capsys.readouterr().out


def test_the_compact_model_trains_on(small, train_tiny, tmp_path) -> None:
    heads = small.with_suffix(".heads.json")
    flags = ("--compact", "--kept-heads", heads, "--finetune-from-model", small, "--max-update", 3)
    train_tiny(tmp_path, *flags, arch="transformer_dsp")
    before, after = torch.load(small)["model"], torch.load(tmp_path / "checkpoint_last.pt")["model"]
    moved = [name for name in before if ".fc" in name and not torch.equal(before[name], after[name])]
    assert len(moved) == 3 * 4 + 1


def test_both_kinds_are_shown(trained, small, tmp_path, capsys) -> None:
    assert main(["heads", str(trained)]) == 0
    text = capsys.readouterr().out
    assert "5 of 12 heads and 7 of 16 feed-forward units are kept" in text
    assert "decoder feed-forward, units of 8: 2 of 8" in text
    assert "  layer  1   . # . #   2 kept      0.000    1.000    0.000    1.000" in text
    assert main(["heads", str(small), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["ffn"] == UNITS
    assert main(["heads", str(trained), "--ffn-units-to-keep", "3", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["ffn"]["kept"] == 3
    assert main(["heads", str(trained), "--format", "png", "--output", str(tmp_path / "map.png")]) == 0


def test_a_picture_of_many_units_has_a_size(train_tiny, tmp_path) -> None:
    units = ("--ffn-units-to-keep", 20, "--ffn-unit-width", 1, "--encoder-ffn-embed-dim", 256, "--cooldown-updates", 1)
    train_tiny(tmp_path, *units, "--max-update", 2, arch="transformer_dsp")
    picture = tmp_path / "map.png"
    assert main(["heads", str(tmp_path / "checkpoint_last.pt"), "--format", "png", "--output", str(picture)]) == 0
    width, height = struct.unpack(">II", picture.read_bytes()[16:24])
    assert 8000 < width < 10_000
    assert height < 1500


def test_a_choice_of_all_units_is_none(train_tiny, tiny_data, tmp_path) -> None:
    whole = ("--ffn-units-to-keep", 16, "--ffn-unit-width", 8)
    train_tiny(tmp_path / "run", *whole, "--max-update", 2, arch="transformer_dsp")
    start = ("--finetune-from-model", tmp_path / "run/checkpoint_last.pt", "--max-update", 1)
    for name, flags in (("none", ()), ("others", ("--ffn-units-to-keep", 20, "--ffn-unit-width", 2))):
        train_tiny(tmp_path / name, *flags, *start, arch="transformer_dsp")
        state = torch.load(tmp_path / name / "checkpoint_last.pt")["model"]
        assert len(state.get("ffn.kept", ())) == (64 if flags else 0)


def test_units_of_a_file_are_kept_of_a_model_that_chose_none(train_tiny, small, tmp_path, load, batch) -> None:
    train_tiny(tmp_path / "run", "--max-update", 2, arch="transformer_dsp")
    whole, heads = tmp_path / "run/checkpoint_last.pt", str(small.with_suffix(".heads.json"))
    assert main(["compact", str(whole), str(tmp_path / "small.pt"), "--kept-heads", heads]) == 0
    fixed, _ = load(whole, head_selection="fixed", kept_heads=heads)
    assert fixed.kept().set_of(FFN).content() == UNITS
    compacted, _ = load(tmp_path / "small.pt")
    torch.testing.assert_close(logits(compacted, batch), logits(fixed, batch), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--heads-to-keep", 5], "the checkpoint has a choice of feed-forward units, but this model has none"),
        (["--ffn-units-to-keep", 7], "the checkpoint has 16 feed-forward units, but this model has 64"),
    ],
)
def test_a_checkpoint_of_other_units_is_refused(trained, train_tiny, tmp_path, flags, sentence) -> None:
    done = train_tiny(tmp_path, "--finetune-from-model", trained, *flags, arch="transformer_dsp", check=False)
    assert done.returncode != 0
    assert sentence in done.stdout
    assert "Traceback" not in done.stdout


def test_a_compact_checkpoint_of_heads_alone_in_a_run_that_prunes_units(compact, train_tiny, tmp_path) -> None:
    heads = compact.with_suffix(".heads.json")
    for flags, sentence in (
        (["--ffn-units-to-keep", 7], "it is compact, and nothing more can be chosen in it: prune the checkpoint that"),
        (["--ffn-units-to-keep", 7, "--compact", "--kept-heads", heads], "--ffn-units-to-keep 7 is about a choice"),
    ):
        done = train_tiny(tmp_path, "--finetune-from-model", compact, *flags, arch="transformer_dsp", check=False)
        assert done.returncode != 0
        assert sentence in done.stdout


def test_other_budgets_are_refused_where_they_cannot_be(trained, small, pruned, tmp_path, capsys) -> None:
    out = str(tmp_path / "out.pt")
    for checkpoint, flags, sentence in (
        (trained, ["--ffn-units-to-keep", "17"], "--ffn-units-to-keep is 17, but there are 16 such feed-forward units"),
        (small, ["--ffn-units-to-keep", "3"], "it is compact already"),
        (pruned, ["--ffn-units-to-keep", "3"], "it was trained without a choice of feed-forward units"),
        (trained, ["--heads-to-keep", "3", "--kept-heads", str(small.with_suffix(".heads.json"))], "give one of them"),
    ):
        assert main(["compact", str(checkpoint), out, *flags]) == 1
        assert sentence in capsys.readouterr().err
