"""What the task logs, as TensorBoard shows it."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fairseq_dsp.subset import anneal


def test_tensorboard_shows_temperature_heads_and_softness(train_tiny, tmp_path: Path) -> None:
    train_tiny(
        tmp_path / "run", "--heads-to-keep", 5, "--head-selection", "gumbel", "--final-temperature", 1e-8,
        "--cooldown-updates", 15, "--task", "translation_dsp", "--tensorboard-logdir", tmp_path / "board",
        "--log-interval", 1, arch="transformer_dsp",
    )  # fmt: skip
    events = EventAccumulator(str(tmp_path / "board" / "train_inner")).Reload()
    values = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    # the temperature logged after update n is the one that update n, counted from 0, was made at
    expected = [anneal(n, 1, 1e-8, 15) for n in range(len(values["temperature"]))]
    assert values["temperature"] == pytest.approx(expected, rel=1e-5)
    heads = zip(*(values[f"heads_{kind}"] for kind in ("encoder_self", "decoder_self", "cross")), strict=True)
    assert {round(sum(counts)) for counts in heads} == {5}
    assert values["gate_softness"][-1] < values["gate_softness"][0], "gates harden as the temperature falls"
