"""Runs on a SLURM cluster, through submitit: an array of jobs, one element a run."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..subset import OWN
from .atomic import write_json
from .runner import execute, is_done
from .runs import LOG, Run

OPTIONS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "partition": (str, "slurm_partition"),
    "account": (str, "slurm_account"),
    "qos": (str, "slurm_qos"),
    "constraint": (str, "slurm_constraint"),
    "minutes": (int, "timeout_min"),
    "cpus": (int, "cpus_per_task"),
    "gpus": (int, "gpus_per_node"),
    "memory_gb": ((int, float), "mem_gb"),
    "at_a_time": (int, "slurm_array_parallelism"),
    "requeues": (int, "max_num_timeout"),
    "setup": (list, "slurm_setup"),
    "additional": (dict, "slurm_additional_parameters"),
}
"""The keys of a study's ``slurm`` → type, and the name that submitit gives it."""

_JOB = "slurm.json"
POLL = 2.0  # seconds


class Job:
    """A run as submitit pickles it. After a time-out or a pre-emption it is queued again, and goes on where it was."""

    def __init__(self, run: Run, environment: Mapping[str, str]) -> None:
        self.run = run
        self.environment = dict(environment)

    def __call__(self) -> None:
        """Do what is missing of the run."""
        execute(self.run, self.environment)

    def checkpoint(self) -> Any:
        """What submitit is to queue again: the same; the checkpoints on the disk are the state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


def check_options(options: Mapping[str, Any]) -> None:
    """Raise a `UserError` unless a study's ``slurm`` can be used."""
    for key, value in options.items():
        if key not in OPTIONS:
            raise UserError(f"slurm has an unknown key {key}: give some of {', '.join(OPTIONS)}")
        if not isinstance(value, OPTIONS[key][0]) or isinstance(value, bool):
            raise UserError(f"slurm: {key} is {value!r}, which is of the wrong type")


def run_on_slurm(
    runs: Sequence[Run],
    options: Mapping[str, Any],
    folder: Path,
    *,
    done: set[str],
    tick: Callable[[], None],
    failed: Callable[[Run, str], None],
) -> None:
    """Do all runs as SLURM jobs; the arguments are those of `run_locally`.

    When this process ends, the jobs go on; started again, it finds them.

    :param options: a study's ``slurm``; see :data:`OPTIONS`.
    :param folder: for submitit's files.
    :raises UserError: if there is no SLURM, or it refuses the jobs.
    """
    for tool in ("sbatch", "squeue", "srun"):
        if not shutil.which(tool):
            raise UserError(f"the command {tool} is missing: run the sweep where SLURM is, or without --slurm")
    check_options(options)
    waiting, broken = list(runs), set[str]()
    going: dict[str, Run] = {}
    missing: dict[str, int] = {}
    queued = _queued()
    for run in list(waiting):
        if (job := _job_of(run)) and job in queued:
            going[job] = run
            waiting.remove(run)
    while waiting or going:
        ready = []
        for run in list(waiting):
            if blocking := broken.intersection(run.needs):
                waiting.remove(run)
                broken.add(run.name)
                failed(run, f"not started, because {', '.join(sorted(blocking))} failed")
            elif done.issuperset(run.needs):
                waiting.remove(run)
                ready.append(run)
        if ready:
            going |= _submit(ready, options, folder)
        time.sleep(POLL)
        queued = _queued()
        for job, run in list(going.items()):
            if is_done(run):
                done.add(run.name)
            elif job in queued:
                missing.pop(job, None)
                continue
            elif missing.setdefault(job, 0) < 5:  # it may be starting, or its files may be on their way
                missing[job] += 1
                continue
            else:
                broken.add(run.name)
                failed(run, _reason(job, run, folder))
            del going[job]
        tick()


def _submit(runs: Sequence[Run], options: Mapping[str, Any], folder: Path) -> dict[str, Run]:
    import submitit

    keys = {OPTIONS[key][1]: value for key, value in options.items()}
    requeues = keys.pop("max_num_timeout", 100)
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=requeues)
    executor.update_parameters(name="fairseq-dsp", **({"timeout_min": 24 * 60, "cpus_per_task": 1} | keys))
    threads = str(options.get("cpus", 1))
    environment = {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    environment |= {OWN: os.environ[OWN]} if OWN in os.environ else {}
    try:
        with executor.batch():
            jobs = [executor.submit(Job(run, environment)) for run in runs]
    except Exception as error:
        raise UserError(
            f"SLURM did not take the jobs ({' '.join(str(error).split())}): see the study's slurm"
        ) from error
    for run, job in zip(runs, jobs, strict=True):
        write_json(run.folder / _JOB, {"job": job.job_id})
    return {job.job_id: run for run, job in zip(runs, jobs, strict=True)}


def _queued() -> set[str]:
    """The jobs of this user that wait or run, array elements one by one."""
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={getpass.getuser()}"]
    listed = subprocess.run(command, capture_output=True, text=True)
    if listed.returncode:
        raise UserError(
            f"squeue failed ({listed.stderr.strip()}), so the jobs cannot be followed: they go on; try again"
        )
    return set(listed.stdout.split())


def _job_of(run: Run) -> str | None:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return str(json.loads((run.folder / _JOB).read_text(encoding="utf-8"))["job"])
    return None


def _reason(job: str, run: Run, folder: Path) -> str:
    """Why a job ended without a result."""
    from submitit import SlurmJob

    paths = SlurmJob(folder=folder, job_id=job).paths
    if paths.result_pickle.exists():
        with contextlib.suppress(Exception):
            outcome, trace = SlurmJob(folder=folder, job_id=job)._get_outcome_and_result()
            if outcome == "error":
                return str(trace).strip().rpartition("RunError: ")[2]
    return f"SLURM ended the job {job} without a result; see {paths.stderr} and {run.folder / LOG}"
