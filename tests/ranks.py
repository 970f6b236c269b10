"""What each process of a distributed training saw, written to files; called in the process before fairseq starts."""

from __future__ import annotations

import json
import os
from pathlib import Path

from fairseq import trainer

RECORD = "RANK_RECORD"
"""Environment variable: where a process writes its record, one JSON list a line: update, gates, importance."""


def record() -> None:
    """Have this process write down the gates and the importance at every training step."""
    out = Path(os.environ[RECORD]).open("w")  # noqa: SIM115 — open as long as the process
    train_step = trainer.Trainer.train_step

    def recorded(self, samples, *args, **kwargs):
        result = train_step(self, samples, *args, **kwargs)
        pruner = self.get_model().pruner
        out.write(json.dumps([pruner.update, pruner.sampled.tolist(), pruner.importance.tolist()]) + "\n")
        out.flush()
        return result

    trainer.Trainer.train_step = recorded
