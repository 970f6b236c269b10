"""Runs on a SLURM cluster, through submitit: arrays of jobs, one element a run."""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import re
import shlex
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files import read_json, write_json
from ..subset import OWN
from .lock import LockedError
from .nodes import FIRST_NODE, Nodes
from .runner import RunError, drop_blocked, execute, is_done, is_done_alike
from .runs import LOG, Run
from .slurm import SlurmError, queued, submit
from .slurm_options import KEYS
from .steps import same_code

_JOB = "slurm.json"
POLL = 5.0  # seconds between two looks for results
ASK = 30.0  # seconds between two questions to SLURM
GRACE = 120.0  # seconds after which a result that a shared file system does not show is none
PAUSE = 10.0  # seconds before a refused command is tried again
TRIES = 6


class Job:
    """A run as submitit pickles it. After a time-out or a pre-emption it is queued again, and goes on where it was.

    It is done on the first node of its job, and starts trainings on all of them.
    """

    nodes = Nodes(1)
    """Of a job that an earlier version has submitted."""

    def __init__(self, run: Run, environment: Mapping[str, str], nodes: Nodes) -> None:
        self.run = run
        self.environment = dict(environment)
        self.nodes = nodes

    def __call__(self) -> None:
        """Do what is missing of the run; if another process is at it, wait, for it may end without the result.

        Before SLURM ends a job to start it later again, it sends SIGTERM to all its processes. This one stays, as
        submitit has it; a command that ends of it is called again, so that the job does not end as one that failed.
        """
        reported = ""
        while not is_done(self.run):
            told: list[int] = []
            try:
                with _noted(signal.SIGTERM, told):
                    execute(self.run, self.environment, self.nodes.launched)
            except LockedError as error:
                if str(error) != reported:
                    reported = str(error)
                    print(f"{self.run.name}: waiting for {reported}, which is doing it", flush=True)
                time.sleep(POLL)
            except RunError:
                if not told:
                    raise

    def checkpoint(self) -> Any:
        """What submitit is to queue again: the same; the checkpoints on the disk are the state."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


@contextlib.contextmanager
def _noted(number: signal.Signals, told: list[int]) -> Iterator[None]:
    """Add a signal to *told* when it comes, and do what was done about it before."""
    before = signal.getsignal(number)

    def note(received: int, frame: Any) -> None:
        told.append(received)
        if callable(before):
            before(received, frame)

    signal.signal(number, note)
    try:
        yield
    finally:
        signal.signal(number, before)


def run_on_slurm(
    runs: Sequence[Run],
    options: Mapping[str, Any],
    folder: Path,
    *,
    done: set[str],
    tick: Callable[[], None],
    failed: Callable[[Run, str], None],
    say: Callable[[str], None],
) -> None:
    """Do all runs as SLURM jobs; the arguments are those of `run_locally`.

    When this process ends, the jobs go on; started again, it finds them. What tells that a run is finished is its
    result; SLURM is asked now and then for jobs that are gone, and may fail to answer.

    :param options: a study's ``slurm``; see :data:`KEYS`.
    :param folder: for submitit's files.
    :raises UserError: if there is no SLURM, or it refuses the jobs.
    """
    for tool in ("sbatch", "squeue", "srun"):
        if not shutil.which(tool):
            raise UserError(f"the command {tool} is missing: run the sweep where SLURM is, or without --slurm")
    slurm = _Slurm(options, folder, say)
    waiting, broken = list(runs), set[str]()
    there = slurm.first_answer()
    going = {job: run for run in waiting if (job := _job_of(run, there))}
    waiting = [run for run in waiting if run not in going.values()]
    gone: dict[str, float] = {}  # since when SLURM does not know a job any more
    ready: list[Run] = []
    while waiting or ready or going:
        drop_blocked(waiting, broken, failed)
        for run in list(waiting):
            if done.issuperset(run.needs):
                waiting.remove(run)
                ready.append(run)
        going |= slurm.submit_some(ready, busy=bool(going))
        time.sleep(POLL)
        answer = slurm.answer()
        for job, run in list(going.items()):
            with contextlib.suppress(OSError):
                os.listdir(run.folder)  # makes a network file system look again
            if is_done(run):
                try:
                    is_done_alike(run)
                    done.add(run.name)
                except UserError as error:
                    broken.add(run.name)
                    failed(run, str(error))
            elif answer is None:
                continue
            elif job in answer:
                gone.pop(job, None)
                continue
            elif reason := _reason(job, run, folder, late=time.monotonic() - gone.setdefault(job, time.monotonic())):
                broken.add(run.name)
                failed(run, reason)
            else:
                continue
            del going[job]
        tick()


@dataclass
class _Slurm:
    """What this sweep asks of SLURM, and what it refused.

    :param size: how many runs an array may have, as far as that is known.
    """

    options: Mapping[str, Any]
    folder: Path
    say: Callable[[str], None]
    size: int = field(init=False)
    asked: float = -math.inf
    silent: bool = False
    refusals: int = 0
    not_before: float = -math.inf

    def __post_init__(self) -> None:
        self.size = self.options.get("array_size", 10**6)

    def first_answer(self) -> set[str]:
        """The jobs in the queue: before that is known, nothing may be submitted twice.

        :raises UserError: if SLURM does not answer.
        """
        for left in reversed(range(TRIES)):
            try:
                return queued()
            except SlurmError as error:
                if not left:
                    raise UserError(
                        f"SLURM does not list its jobs ({error}): start the sweep again later; jobs of earlier sweeps "
                        "continue"
                    ) from error
            time.sleep(PAUSE)
        raise AssertionError("unreachable: the last try returns or raises")

    def answer(self) -> set[str] | None:
        """The jobs in the queue, or None while it is too early to ask again, or SLURM does not answer."""
        if time.monotonic() - self.asked < ASK:
            return None
        self.asked = time.monotonic()
        try:
            found = queued()
        except SlurmError as error:
            if not self.silent:
                self.say(f"SLURM does not answer ({error}); the jobs go on, and it is asked again")
            self.silent = True
            return None
        self.silent = False
        return found

    def submit_some(self, ready: list[Run], *, busy: bool) -> dict[str, Run]:
        """Submit what SLURM takes of the runs that are *ready*; return those by their jobs, and take them off the list.

        An array that SLURM refuses is halved, for clusters limit its size. A single run that it refuses is tried again
        later: clusters limit the number of jobs of a user, too.

        :param busy: whether there are jobs that may make room.
        :raises UserError: if SLURM refuses a run for good.
        """
        taken: dict[str, Run] = {}
        nodes = Nodes(self.options.get("nodes", 1), self.options.get("gpus", 0), self.options.get("cpus", 1))
        while ready and time.monotonic() >= self.not_before:
            portion = ready[: self.size]
            try:
                jobs = submit(
                    [Job(run, self._environment(), nodes) for run in portion], self._parameters(), self.folder
                )
            except SlurmError as error:
                self._refused(error, len(portion), busy=busy or bool(taken))
                continue
            self.refusals = 0
            del ready[: len(portion)]
            for job, run in zip(jobs, portion, strict=True):
                write_json(run.folder / _JOB, {"job": job, "commands": _commands(run)})
                taken[job] = run
        return taken

    def _refused(self, error: SlurmError, runs: int, *, busy: bool) -> None:
        if runs > 1 and not error.passing:
            self.size = runs // 2
            return
        self.refusals += 1
        if not busy and not (error.passing and self.refusals < TRIES):
            raise UserError(f"SLURM refused the jobs ({error}): correct the study's key slurm") from error
        if self.refusals == 1:
            self.say(f"SLURM did not take a job ({error}); it is tried again")
        self.not_before = time.monotonic() + (ASK if busy else PAUSE)

    def _parameters(self) -> dict[str, Any]:
        given = {name: value for key, value in self.options.items() if (name := KEYS[key].name)}
        ours = [f"export {name}={shlex.quote(value)}" for name, value in same_code().items()]
        given |= {"slurm_setup": [*ours, *given.get("slurm_setup", [])]}
        return given | ({"slurm_srun_args": FIRST_NODE} if self.options.get("nodes", 1) > 1 else {})

    def _environment(self) -> dict[str, str]:
        threads = str(self.options.get("cpus", 1))
        own = {OWN: os.environ[OWN]} if OWN in os.environ else {}
        return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **own}


def _job_of(run: Run, there: set[str]) -> str | None:
    """Return the job of an earlier sweep that does a run.

    :param there: the jobs in the queue.
    :raises UserError: if it has the commands of another run than this one is now.
    """
    noted = read_json(run.folder / _JOB)
    try:
        job = str(noted["job"])
    except (LookupError, TypeError):
        return None
    if job not in there:
        return None
    if noted.get("commands", _commands(run)) != _commands(run):
        raise UserError(
            f"SLURM's job {job} does {run.name} as it was before the study was changed: end it with scancel {job} and "
            "start the sweep again, or change the study back"
        )
    return job


def _commands(run: Run) -> str:
    """What tells a run's commands from others."""
    return hashlib.sha256(repr([step.command for step in run.steps]).encode()).hexdigest()[:16]


def _reason(job: str, run: Run, folder: Path, *, late: float) -> str | None:
    """Why a job that is gone ended without a result; None if that may come yet.

    :param late: for how many seconds it has been gone.
    """
    from submitit import SlurmJob

    paths = SlurmJob(folder=folder, job_id=job).paths
    if paths.result_pickle.exists():
        with contextlib.suppress(Exception):
            outcome, trace = SlurmJob(folder=folder, job_id=job)._get_outcome_and_result()
            if outcome == "error":
                return re.split(r"\b(?:RunError|UserError|UncompletedJobError): ", str(trace).strip())[-1]
    if late < GRACE:
        return None
    return f"SLURM ended the job {job} without a result; see {paths.stderr} and {run.folder / LOG}"
