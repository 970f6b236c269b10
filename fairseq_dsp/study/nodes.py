"""Trainings on several nodes of a SLURM job: fairseq runs on each of them, and starts a process for each GPU."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from dataclasses import dataclass

FIRST_NODE = ["--nodes=1", "--ntasks=1", "--relative=0"]
"""Options of srun for what is to run once in a job of several nodes."""

_ON_EACH = 'trap "" TERM USR2; exec "$@" --distributed-rank $((SLURM_NODEID * {processes}))'
"""For the shell on each node: the number of its first process. The signals that announce the end of a job are for the
process that started the training."""


@dataclass(frozen=True)
class Nodes:
    """The nodes of a job.

    :param number: of them.
    :param gpus: of each; without any, fairseq trains on the processor, one process a node.
    :param cpus: of each.
    """

    number: int
    gpus: int = 0
    cpus: int = 1

    def launched(self, command: Sequence[str]) -> Sequence[str]:
        """The command of a training, as the process on the first node calls it for all of them."""
        if self.number == 1:
            return command
        processes = max(1, self.gpus)
        srun = ["srun", "--overlap", f"--nodes={self.number}", f"--ntasks={self.number}", "--ntasks-per-node=1"]
        srun += [f"--cpus-per-task={self.cpus}", "--cpu-bind=none", "--kill-on-bad-exit=1"]
        together = ["--distributed-world-size", str(self.number * processes)]
        together += ["--distributed-init-method", f"tcp://{socket.gethostname()}:{_free_port()}"]
        if not self.gpus:
            together += ["--distributed-no-spawn", "--distributed-backend", "gloo"]
        return [*srun, "sh", "-c", _ON_EACH.format(processes=processes), "sh", *command, *together]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("", 0))
        return int(one.getsockname()[1])
