"""LayerDrop's choice of layers after training: the heads there are the trained ones, or it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import inprocess
import pytest
import support
from fairseq import checkpoint_utils

from fairseq_dsp.cli import main
from fairseq_dsp.compact.checkpoint import TrainedModel
from fairseq_dsp.errors import UserError

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


def test_a_budget_is_for_the_layers_that_were_trained(tiny_data: Path, tmp_path: Path) -> None:
    path = train(tiny_data, tmp_path / "run", "--heads-to-keep", 5)
    trained = TrainedModel.read(str(path)).heads
    left = [trained.encoder_self[i] for i in (0, 2)] + [trained.decoder_self[i] for i in (1, 2)]
    left += [trained.cross[i] for i in (1, 2)]
    number = sum(map(len, left))
    assert number < 5, "the trained model has a head in another layer"
    with pytest.raises(UserError, match=f"5 heads would be chosen anew among those that are left, .* keeps {number}:"):
        load(path, tiny_data)
    small = tmp_path / "compact.pt"
    assert main(["compact", str(path), str(small)]) == 0
    with pytest.raises(UserError):
        load(small, tiny_data)
    # by fairseq's own command, in a sentence
    args = [tiny_data, "--user-dir", support.PLUGIN, "--cpu", "--path", path, "--model-overrides", repr(LEFT)]
    done = support.run_fairseq("generate", *args, check=False)
    assert done.returncode == 1
    assert done.stdout.splitlines()[-1].startswith(
        "error: with --encoder-layers-to-keep 0,2 and --decoder-layers-to-keep 1,2 5 h"
    )
    assert "Traceback" not in done.stdout


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
    trained = TrainedModel.read(str(path)).heads
    found = load(path, tiny_data).eval().pruner.kept()
    assert found.encoder_self == tuple(trained.encoder_self[i] for i in (0, 2))
    assert found.decoder_self == tuple(trained.decoder_self[i] for i in (1, 2))
    assert found.cross == tuple(trained.cross[i] for i in (1, 2))
