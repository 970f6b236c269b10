"""Learning curves, read from the logs of a sweep's trainings."""

from __future__ import annotations

import json
import re
from pathlib import Path

_LINE = re.compile(r"\| (train_inner|valid) \| (\{.*\})$")

NAMES = {
    "loss": "training loss",
    "valid_loss": "validation loss",
    "temperature": "temperature",
    "gate_softness": "softness of the gates",
}
"""What is drawn → its title."""

Curve = list[tuple[int, float]]
"""Pairs of update number and value, by update."""


def learning_curves(log: Path) -> dict[str, Curve]:
    """Read the curves of the first training of a run; what an interruption made it do twice counts once.

    :param log: the run's log.
    :return: for each of :data:`NAMES` that the log has, its curve.
    """
    found: dict[str, dict[int, float]] = {}
    training = False
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    for line in text.splitlines():
        if line.startswith("$ "):
            training = "fairseq_cli.train" in line and "/checkpoints " in line
        elif training and (match := _LINE.search(line)):
            try:
                values = json.loads(match[2])
            except ValueError:
                continue
            update = values.get("num_updates", values.get("valid_num_updates"))
            for name in NAMES:
                if name in values and update is not None:
                    found.setdefault(name, {})[int(update)] = float(values[name])
    return {name: sorted(found[name].items()) for name in NAMES if name in found}
