"""An average of a model's weights has all of them."""

from pathlib import Path

import inprocess
import torch


def test_the_last_normalisation_stays_in_the_average(tiny_data: Path, tmp_path: Path):
    before = ["--encoder-normalize-before", "--decoder-normalize-before"]
    state = inprocess.train(tiny_data, tmp_path, "--cpu", "--store-ema", "--ema-decay", 0, *before, "--max-update", 3)
    average = state["extra_state"]["ema"]
    assert "decoder.layer_norm.weight" in average
    torch.testing.assert_close(dict(average), dict(state["model"]))
