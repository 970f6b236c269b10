"""Learning curves, read from the logs of a sweep's trainings."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

_TRAINING = re.compile(r"fairseq_cli\.train .* --save-dir .*?([^/]*?)'? --seed ")
_OTHER_CHOICE = re.compile(r" --(best-checkpoint-metric|maximize-best|save-interval|validate-interval)")
_SAVED = re.compile(r"Saved checkpoint (.*)/checkpoint_?([^/]*)\.pt \(epoch \d+ @ (\d+) updates")
_SECONDS = re.compile(r"done training in ([\d.]+) seconds")
_STARTED = re.compile(r"\| (?:No existing checkpoint found|Loaded checkpoint .* @ (\d+) updates\))")
_LINE = re.compile(r"\| (?:train_inner|(train|valid)) \| (\{.*\})$")

NAMES = {
    "loss": "training loss",
    "valid_loss": "validation loss",
    "temperature": "temperature",
    "gate_softness": "softness of the gates",
}
"""What is drawn → its title."""

_UPDATES = "updates"
"""The name of a curve of all updates that the log names, whatever of."""

Curve = list[tuple[int, float]]
"""Pairs of update number and value, by update."""


def learning_curves(log: Path) -> dict[str, Curve]:
    """Read the curves of the first training of a run.

    :param log: the run's log.
    :return: for each of :data:`NAMES` that the log has, its curve.
    """
    curves = next(iter(_trainings(read_log(log)).values()), {})
    return {name: curve for name, curve in curves.items() if name in NAMES}


def updates_made(log: Path) -> int:
    """How many updates a run's trainings made, those of a recovery included.

    :param log: the run's log.
    """
    return sum(curves[_UPDATES][-1][0] for curves in _trainings(read_log(log)).values() if _UPDATES in curves)


def final_valid_loss(log: Path, checkpoint: str) -> float | None:
    """Read fairseq's validation loss of the checkpoint that a run evaluates.

    :param log: the run's log.
    :param checkpoint: ``best`` or ``last``, as the study says.
    :return: None if the run trained nothing, the loss is not finite, or the run's options make the checkpoint another
        than that of the least or last loss in the log.
    """
    text = read_log(log)
    curves = list(_trainings(text).values())
    losses = dict(curves[-1].get("valid_loss", [])) if curves else {}
    saved = _SAVED.findall(text)
    last = saved and Path(saved[-1][0]).name  # the results may have been moved
    saved = [(name, int(update)) for folder, name, update in saved if Path(folder).name == last]
    if saved and {name for name, _ in saved} <= {"best", "last"}:  # the best is the last, too
        updates = [update for name, update in saved if name == "best" or checkpoint == "last"]
        loss = losses.get(updates[-1], math.nan) if updates else math.nan
    elif not losses or _OTHER_CHOICE.search(text):
        return None
    else:
        loss = (
            losses[max(losses)]
            if checkpoint == "last"
            else min(filter(math.isfinite, losses.values()), default=math.nan)
        )
    return loss if math.isfinite(loss) else None


def training_seconds(log: Path, trainings: Sequence[Path]) -> float | None:
    """How long a run's trainings took, by fairseq's own account.

    :param log: the run's log.
    :param trainings: the folders of their checkpoints.
    :return: None if one was interrupted, and its last checkpoint, which says how long it took in all, is gone.
    """
    calls = read_log(log).split("\n$ ")
    total = 0.0
    for folder in trainings:
        own = [call for call in calls if _saves_in(call) == folder.name]  # the results may have been moved
        took = _SECONDS.findall(own[0]) if len(own) == 1 else ()
        seconds = float(took[-1]) if took else _seconds_in(folder / "checkpoint_last.pt")
        if seconds is None:
            return None
        total += seconds
    return round(total, 1)


def _saves_in(call: str) -> str | None:
    training = _TRAINING.search(call.partition("\n")[0])
    return training[1] if training else None


def _seconds_in(checkpoint: Path) -> float | None:
    from fairseq import checkpoint_utils

    if not checkpoint.is_file():
        return None
    seconds = checkpoint_utils.load_checkpoint_to_cpu(str(checkpoint))["extra_state"].get("previous_training_time")
    return None if seconds is None else float(seconds)  # several processes store their mean, a tensor


def read_log(log: Path) -> str:
    """Return the text of a run's log, "" if it has none yet."""
    return log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""


def _trainings(text: str) -> dict[str, dict[str, Curve]]:
    """The curves of a log's trainings, by where they save; of what an interruption undid, nothing."""
    found: dict[str, dict[str, dict[int, float]]] = {}
    curves = None
    for line in text.splitlines():
        if line.startswith("$ "):
            training = _TRAINING.search(line)
            curves = found.setdefault(training[1], {}) if training else None
        elif curves is not None and (started := _STARTED.search(line)):
            for curve in curves.values():
                for update in [update for update in curve if update > int(started[1] or 0)]:
                    del curve[update]
        elif curves is not None and (match := _LINE.search(line)):
            try:
                values = json.loads(match[2])
            except ValueError:
                continue
            update = values.get(f"{match[1]}_num_updates" if match[1] else "num_updates")
            if update is None:
                continue
            for name, value in {_UPDATES: update, **values}.items():
                if name in (_UPDATES, *NAMES):
                    curves.setdefault(name, {})[int(update)] = float(value)
    return {
        training: {name: sorted(curves[name].items()) for name in (_UPDATES, *NAMES) if curves.get(name)}
        for training, curves in found.items()
    }
