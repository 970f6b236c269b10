"""LayerDrop's choice of layers after training: the heads there are the trained ones."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import inprocess
import pytest
import support
from fairseq import checkpoint_utils

from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError
from fairseq_dsp.model import FFN
from fairseq_dsp.removal.checkpoint import TrainedModel

pytestmark = pytest.mark.slow

LAYERS = ["--cpu", "--encoder-layers", 3, "--decoder-layers", 3, "--encoder-layerdrop", 0.2]
LEFT = {"encoder_layers_to_keep": "0,2", "decoder_layers_to_keep": "1,2"}


def train(data: Path, folder: Path, *flags: object) -> Path:
    inprocess.train(data, folder, *LAYERS, "--cooldown-updates", 8, *flags)
    return folder / "checkpoint_last.pt"


def load(path: Path, data: Path) -> Any:
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task(
        [str(path)], arg_overrides={**LEFT, "data": str(data)}
    )
    return model


def heads_left(path: Path) -> list[tuple[int, ...]]:
    trained = TrainedModel.read(str(path)).heads
    return [trained.of("encoder_self")[i] for i in (0, 2)] + [
        of[i] for of in (trained.of("decoder_self"), trained.of("cross")) for i in (1, 2)
    ]


def test_the_trained_heads_stay_and_none_is_chosen_anew(tiny_data: Path, tmp_path: Path) -> None:
    path = train(tiny_data, tmp_path / "run", "--heads-to-keep", 5, "--ffn-units-to-keep", 9, "--ffn-unit-width", 8)
    left = heads_left(path)
    assert sum(map(len, left)) < 5, "the trained model has a head in another layer"
    kept = load(path, tiny_data).eval().kept()
    units, trained = kept.set_of(FFN), TrainedModel.read(str(path)).heads.set_of(FFN)
    assert units.layers == (trained.layers[0][::2], trained.layers[1][1:])
    assert [*kept.of("encoder_self"), *kept.of("decoder_self"), *kept.of("cross")] == left
    small = tmp_path / "compact.pt"
    assert main(["compact", str(path), str(small)]) == 0
    with pytest.raises(UserError):
        load(small, tiny_data)
    # and by fairseq's own command
    args = [tiny_data, "--user-dir", support.PLUGIN, "--cpu", "--path", path, "--model-overrides", repr(LEFT)]
    assert "H-0" in support.run_fairseq("generate", *args).stdout


@pytest.mark.parametrize(
    "flags",
    [
        [],  # not pruned at all
        ["--head-selection", "hard_concrete", "--l0-penalty", 0.05,
         "--criterion", "label_smoothed_cross_entropy_dsp"],  # every head for itself
    ],
)  # fmt: skip
def test_where_the_heads_are_the_trained_ones_nothing_is_refused(
    flags: list[Any], tiny_data: Path, tmp_path: Path
) -> None:
    path = train(tiny_data, tmp_path, *flags)
    found = load(path, tiny_data).eval().pruner.kept()
    assert [*found.of("encoder_self"), *found.of("decoder_self"), *found.of("cross")] == heads_left(path)


def test_other_words_are_refused_there_too(tiny_data: Path, tmp_path: Path) -> None:
    path = train(tiny_data, tmp_path / "run", "--heads-to-keep", 5)
    other = shutil.copytree(tiny_data, tmp_path / "other")
    first, second, *rest = (other / "dict.yy.txt").read_text().splitlines()
    (other / "dict.yy.txt").write_text("".join(f"{line}\n" for line in (second, first, *rest)))
    load(path, tiny_data)
    with pytest.raises(UserError, match="another target dictionary"):
        load(path, other)
