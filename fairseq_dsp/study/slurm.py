"""SLURM's commands: submitting, asking for what is queued; as from outside of any job."""

from __future__ import annotations

import contextlib
import io
import os
import re
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError

WHICH_SLURM = {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT"}
"""Variables that say which SLURM is asked, and as whom; all others of SLURM's tell commands what to do."""

_GPUS = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL", "ZE_AFFINITY_MASK")
_PASSING = re.compile(r"timed out|unable to contact|temporarily|try again|connection re(fused|set)", re.I)

DEFAULTS = {"minutes": 24 * 60, "cpus": 1}
"""What a job has where a study's ``slurm`` says nothing."""

PATIENCE = 60.0
"""Seconds that a command of SLURM may take."""


class SlurmError(Exception):
    """A command of SLURM failed; the text is what it said."""

    @property
    def passing(self) -> bool:
        """Whether it may succeed in a while, as when the controller is busy."""
        return bool(_PASSING.search(str(self)))


@contextlib.contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Take the variables out of the environment that a job or an allocation puts there, such as ``SLURM_NTASKS``.

    SLURM's commands read them as options, and a job inherits them from the process that submits it. So do filters for
    squeue go. What the user sets for sbatch, such as ``SBATCH_ACCOUNT``, stays.
    """
    names = {name for name in os.environ if re.match("SLURMD?_|SQUEUE_|SRUN_|SBATCH_(MEM|CPU)_BIND", name)}
    if names & {"SLURM_JOB_GPUS", "SLURM_STEP_GPUS", "SLURM_GPUS_ON_NODE"}:
        names |= {name for name in _GPUS if name in os.environ}  # those of the allocation
    taken = {name: os.environ.pop(name) for name in names - WHICH_SLURM}
    try:
        yield
    finally:
        os.environ.update(taken)


def submit(jobs: Sequence[Callable[[], None]], parameters: Mapping[str, Any], folder: Path) -> list[str]:
    """Submit jobs as one array, and return their ids.

    :param parameters: submitit's.
    :param folder: for submitit's files.
    :raises SlurmError: if SLURM does not take them.
    :raises UserError: if the files cannot be written, or submitit does not take the parameters.
    """
    import submitit
    from submitit.core.utils import FailedJobError, FailedSubmissionError

    keys = dict(parameters)
    requeues = keys.pop("max_num_timeout", 100)
    executor = submitit.AutoExecutor(folder=folder, cluster="slurm", slurm_max_num_timeout=requeues)
    try:
        executor.update_parameters(
            name="fairseq-dsp", **({"timeout_min": DEFAULTS["minutes"], "cpus_per_task": DEFAULTS["cpus"]} | keys)
        )
        # submitit prints what sbatch said
        with outside_of_jobs(), contextlib.redirect_stderr(io.StringIO()), executor.batch():
            submitted = [executor.submit(job) for job in jobs]
    except (FailedJobError, FailedSubmissionError) as error:
        raise SlurmError(" ".join(str(error).split())) from error  # what sbatch said
    except (OSError, TypeError, ValueError) as error:
        raise UserError(
            f"the jobs cannot be submitted ({error}): correct the study's key slurm, and see the logs in {folder}"
        ) from error
    return [job.job_id for job in submitted]


def queued() -> set[str]:
    """The jobs of this user that wait or run, array elements one by one.

    :raises SlurmError: if SLURM does not tell.
    """
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
    try:
        with outside_of_jobs():
            listed = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired as error:
        raise SlurmError(f"squeue timed out after {PATIENCE:.0f} s") from error
    except OSError as error:
        raise SlurmError(f"squeue: {error.strerror}") from error
    if listed.returncode:
        raise SlurmError(f"squeue: {' '.join(listed.stderr.split()) or f'status {listed.returncode}'}")
    return set(listed.stdout.split())
