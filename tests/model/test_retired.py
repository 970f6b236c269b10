"""Options that are no more: no training takes them, and models that were trained with them are as they were."""

from __future__ import annotations

import json
from pathlib import Path

import inprocess
import pytest
import torch

from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError

SENTENCE = "--module-penalty is 0.02, but is an option no more: .* give --uniform-heads$"


def test_a_budget_shrinks_from_all_heads(tiny_data: Path, tmp_path: Path) -> None:
    """The number of heads that it starts from may be given no more, but that of all of them does no harm."""
    flags = ["--cpu", "--heads-to-keep", 5, "--heads-to-keep-updates", 9, "--max-update", 1, "--heads-to-keep-start"]
    inprocess.train(tiny_data, tmp_path / "all", *flags, 12)
    with pytest.raises(UserError, match=r"--heads-to-keep-start is 10, but is an option no more: .* so leave it out$"):
        inprocess.train(tiny_data, tmp_path / "fewer", *flags, 10)


def test_no_training_takes_one(tiny_data: Path, tmp_path: Path) -> None:
    flags = ["--cpu", "--heads-to-keep", 6, "--max-update", 1]
    with pytest.raises(UserError, match=SENTENCE):
        inprocess.train(tiny_data, tmp_path / "one", *flags, "--module-penalty", 0.02)
    assert not list(tmp_path.glob("one/*.pt"))
    overrides = [*inprocess.HYDRA_TINY, "model.heads_to_keep=6", "+model.module_penalty=0.02"]
    with pytest.raises(UserError, match=SENTENCE):
        inprocess.train_hydra("joint", tiny_data, tmp_path / "two", *overrides)
    inprocess.train(tiny_data, tmp_path / "three", *flags, "--module-penalty", 0)  # with which it did nothing


def test_a_training_that_goes_on_without_one_is_told(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = ["--cpu", "--heads-to-keep", 5, "--heads-to-keep-updates", 9]
    state = inprocess.train(tiny_data, tmp_path, *flags, "--max-update", 1)
    for start, told in ((12, False), (10, True)):
        state["cfg"]["model"].heads_to_keep_start = start
        torch.save(state, tmp_path / "checkpoint_last.pt")
        caplog.clear()
        inprocess.train(tiny_data, tmp_path, *flags, "--max-update", 2)
        warned = "--heads-to-keep-start was 10 in this training so far, and is an option no more"
        assert (warned in caplog.messages) == told


@pytest.mark.parametrize("hydra", [False, True], ids=["fairseq-train", "fairseq-hydra-train"])
def test_a_checkpoint_that_holds_one_has_its_heads(
    hydra: bool, tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if hydra:
        overrides = [*inprocess.HYDRA_TINY, "model.heads_to_keep=5", "+model.module_penalty=0.02"]
        config = inprocess.hydra_config("joint", tiny_data, tmp_path, *overrides)
    else:
        config = inprocess.argparse_config(tiny_data, tmp_path, "--heads-to-keep", 5, "--module-penalty", 0.02)
    model = inprocess.build(config)
    inprocess.randomise(model)
    checkpoint = inprocess.save(model, config, tmp_path / "with.pt")
    assert main(["heads", str(checkpoint), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(model.kept().to_json())
    assert main(["compact", str(checkpoint), str(tmp_path / "compact.pt")]) == 0
    assert "module-penalty" not in capsys.readouterr().out
    small = inprocess.checkpoint(tmp_path, "compact.pt")
    assert small["cfg"]["model"].module_penalty == 0
