"""``fairseq-train --bf16`` trains in bfloat16, on any device."""

import re

import ranks
import torch


def test_bf16_trains_and_resumes_without_a_tpu(train_tiny, tmp_path):
    flags = ["--bf16", "--heads-to-keep", 3, "--max-update"]
    train_tiny(tmp_path, *flags, 8, arch="transformer_dsp")
    resumed = train_tiny(tmp_path, *flags, 12, arch="transformer_dsp")
    assert re.search(r"Loaded checkpoint .*@ 8 updates", resumed.stdout)

    state = torch.load(tmp_path / "checkpoint_last.pt", weights_only=True)["model"]
    weight = state["encoder.layers.0.fc1.weight"]
    assert torch.equal(weight, weight.bfloat16().float()), "the model was in bfloat16"
    assert state["heads.importance"].dtype == torch.float32
    assert int(state["heads.kept"].sum()) == 3


def test_two_processes_train_in_bf16(tiny_data, tmp_path):
    flags = ["--bf16", "--heads-to-keep", 3, *ranks.SAME_DATA]
    trained, records = ranks.train_on_two_processes(tiny_data, tmp_path, *flags)
    assert records[0] == records[1]
    weight = trained["model"]["decoder.layers.0.fc2.weight"]
    assert torch.equal(weight, weight.bfloat16().float())
