"""What runs in each process of a distributed training; what it saw is written to files."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from fairseq import trainer
from fairseq.distributed.legacy_distributed_data_parallel import LegacyDistributedDataParallel
from torch import distributed, nn

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


def reduce(rank: int, store: Path, out: Path) -> None:
    """Average with another process the gradients of weights in half precision and of importance, and write them down.

    The process of rank 1 has twice the gradients of that of rank 0.
    """
    import fairseq_dsp  # noqa: F401 — for its mends

    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    parameters = [torch.zeros(2).half(), torch.zeros(2), torch.zeros(3).half(), torch.zeros(1)]
    module = nn.Module()
    module.parameters_ = nn.ParameterList(parameters)
    gradients = [[1.0, -2.0], [1e5, 3e-9], [0.5, 0.0, 4.0], None]
    for parameter, gradient in zip(module.parameters_, gradients, strict=True):
        if gradient is not None:
            parameter.grad = (1 + rank) * torch.tensor(gradient, dtype=parameter.dtype)
    wrapped = LegacyDistributedDataParallel(module, distributed.group.WORLD)
    with wrapped.no_sync():
        wrapped.all_reduce_grads()  # of a batch that is not the last of an update
    wrapped.all_reduce_grads()
    out.write_text(json.dumps([parameter.grad.tolist() for parameter in module.parameters_]))
    distributed.destroy_process_group()
