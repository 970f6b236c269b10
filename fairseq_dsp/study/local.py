"""Runs on this machine: some at a time, each with cores or a GPU of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from ..errors import UserError
from .lock import LockedError
from .runner import RunError, drop_blocked, execute
from .runs import Run
from .steps import same_code

PAUSE = 5.0
"""Seconds after which a run that another process is at is tried again."""


@dataclass(frozen=True)
class Local:
    """What this machine gives to the runs.

    :param jobs: number of runs at a time.
    :param cores: threads of each.
    :param gpus: names of the GPUs, dealt out to the jobs in turn; empty for none.
    :param named: whether the user gave these names, which may be wrong.
    """

    jobs: int
    cores: int
    gpus: tuple[str, ...] = ()
    named: bool = False

    @staticmethod
    def of(jobs: int | None, cores: int | None, gpus: Sequence[str] | None) -> Local:
        """Fill in what is not given: a run a GPU, or without GPUs a run a core, at most four.

        The GPUs are those that this process may use, under the names that ``CUDA_VISIBLE_DEVICES`` gives them.

        :raises UserError: if a number is not positive.
        """
        available = len(os.sched_getaffinity(0))
        named = gpus is not None
        if gpus is None:
            import torch

            count = torch.cuda.device_count()
            visible = os.environ.get("CUDA_VISIBLE_DEVICES")
            gpus = [str(i) for i in range(count)] if visible is None else visible.replace(" ", "").split(",")[:count]
        jobs = (len(gpus) or min(available, 4)) if jobs is None else jobs
        for name, number in (("jobs", jobs), ("cores", cores)):
            if number is not None and number < 1:
                raise UserError(f"--{name} is {number}, but it must be 1 or more")
        return Local(jobs, cores or max(1, available // jobs), tuple(gpus), named)

    def check_gpus(self) -> None:
        """Hold GPUs that were named against what torch can use: with a name that it does not know it takes the CPU.

        :raises UserError: if it cannot use as many.
        """
        names = list(dict.fromkeys(self.gpus)) if self.named else []
        if not names:
            return
        command = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
        environment = {**os.environ, **same_code(), "CUDA_VISIBLE_DEVICES": ",".join(names)}
        found = subprocess.run(command, env=environment, capture_output=True, text=True).stdout.strip()
        if found != str(len(names)):
            raise UserError(
                f"--gpus {','.join(names)} names {len(names)} GPU{'s' * (len(names) > 1)}, but torch can use "
                f"{found or 'none'} of them: give those that nvidia-smi -L lists, or --gpus '' for none"
            )

    def environment(self, slot: int) -> dict[str, str]:
        """The variables for the commands of a job: its threads and its GPU, or none.

        Threads that wait for others soon sleep: while they spin, they take the cores of other jobs.
        """
        threads = str(self.cores)
        gpu = self.gpus[slot % len(self.gpus)] if self.gpus else ""
        return {
            **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads),
            "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "10000"),
            "CUDA_VISIBLE_DEVICES": gpu,
        }


def run_locally(
    runs: Sequence[Run],
    local: Local,
    *,
    done: set[str],
    tick: Callable[[], None],
    failed: Callable[[Run, str], None],
    say: Callable[[str], None],
) -> None:
    """Do all runs, each when those that it needs are finished; a run that fails stops only those that need it.

    A run that another process is at, such as a job of this sweep, is waited for.

    :param runs: the runs that are not finished.
    :param done: names of finished runs; names are added.
    :param tick: called about twice a second.
    :param failed: called with a run that failed and the reason.
    :param say: called with what the user should know.
    :raises UserError: if the results cannot be written.
    """
    waiting, broken = list(runs), set[str]()
    slots = list(range(local.jobs))
    elsewhere: dict[str, float] = {}  # when a run is to be tried again
    going: dict[Future[None], tuple[Run, int]] = {}
    pool = ThreadPoolExecutor(local.jobs)
    while waiting or going:
        drop_blocked(waiting, broken, failed)
        for run in list(waiting):
            if slots and done.issuperset(run.needs) and elsewhere.get(run.name, 0) <= time.monotonic():
                waiting.remove(run)
                slot = slots.pop(0)
                going[pool.submit(execute, run, local.environment(slot))] = run, slot
        finished, _ = wait(going, timeout=0.5, return_when=FIRST_COMPLETED)
        for future in finished:
            run, slot = going.pop(future)
            slots.append(slot)
            try:
                future.result()
                done.add(run.name)
            except LockedError as error:
                if run.name not in elsewhere:
                    say(f"run {run.name}: waiting for {error}, which is doing it")
                elsewhere[run.name] = time.monotonic() + PAUSE
                waiting.append(run)
            except RunError as error:
                broken.add(run.name)
                failed(run, str(error))
        tick()
        if not going and not finished:
            time.sleep(0.1)
    pool.shutdown()
