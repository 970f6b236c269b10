"""Trainings on two processes, and what each of them saw, written to files."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import support
import torch
from fairseq import trainer
from fairseq.distributed.legacy_distributed_data_parallel import LegacyDistributedDataParallel
from torch import distributed, nn

# All sentences at every update, in one batch or in two: the 20 pairs of the validation set.
SAME_DATA = ["--train-subset", "valid", "--valid-subset", "test", "--required-batch-size-multiple", 1]
SAME_DATA += ["--max-update", 20, "--dropout", 0, "--cpu"]

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


def assert_same_model(one: dict[str, Any], other: dict[str, Any]) -> None:
    """The same to 1e-5, but for key biases: their gradient is 0, and Adam amplifies what rounding makes of it."""
    for name, value in one["model"].items():
        if not name.endswith("k_proj.bias"):
            torch.testing.assert_close(
                value, other["model"][name], atol=1e-5, rtol=0, msg=lambda m, n=name: f"{n}: {m}"
            )


def start_two_processes(data: Path, folder: Path, *flags: object, rank1: Sequence[object] = ()) -> list[Any]:
    """Start a training with two gloo processes, the second with flags of its own; they log into the folder."""
    folder.mkdir(exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flags = ("--ddp-backend", "legacy_ddp", *flags)
    args = support.tiny_train_args(data, folder / "checkpoints", *flags, arch="transformer_dsp")
    args += ["--distributed-world-size", "2", "--distributed-init-method", f"tcp://localhost:{port}"]
    args += ["--distributed-no-spawn", "--distributed-backend", "gloo"]
    processes = []
    for rank in range(2):
        own = [*args, "--distributed-rank", rank, *(rank1 if rank else ())]
        variables = {RECORD: str(folder / f"record{rank}")}
        log = folder / f"log{rank}"
        processes.append(support.start_fairseq("train", own, log, before=record, **variables))
    return processes


def train_on_two_processes(data: Path, folder: Path, *flags: object) -> tuple[dict[str, Any], list[list[Any]]]:
    """Train with two gloo processes; return the checkpoint and what each recorded."""
    processes = start_two_processes(data, folder, *flags)
    for rank, process in enumerate(processes):
        process.join(240)
        ended = process.exitcode
        for other in processes if ended != 0 else ():
            other.kill()
        assert ended == 0, (folder / f"log{rank}").read_text()
    records = [[json.loads(line) for line in (folder / f"record{rank}").open()] for rank in range(2)]
    import inprocess  # not above: the processes import this file before they are fairseq's, and it imports the plugin

    return inprocess.checkpoint(folder / "checkpoints"), records


def refuse(rank: int) -> None:
    """Raise what is meant for the user, behind what fairseq would make of it."""
    from fairseq_dsp.errors import UserError

    try:
        raise UserError("give another number, such as 6")
    except UserError as error:
        raise RuntimeError("please ensure that the architectures match") from error


def reduce(rank: int, store: Path, out: Path) -> None:
    """Average with another process the gradients of weights in half precision and of importance, and write them down.

    The process of rank 1 has twice the gradients of that of rank 0.
    """
    import fairseq_dsp  # noqa: F401 — for its fixes

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


def open_nothing(rank: int) -> None:
    """Read a file that is not there."""
    Path("nothing").read_text()
