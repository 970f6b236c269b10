"""What a sweep does when SLURM is slow, busy or strict; its commands are scripts here, for faults cannot be ordered.

`test_slurm` has a real one.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fairseq_dsp.errors import UserError
from fairseq_dsp.files import write_json
from fairseq_dsp.study import cluster, slurm
from fairseq_dsp.study.cluster import run_on_slurm
from fairseq_dsp.study.runs import Run
from fairseq_dsp.study.slurm_options import check_options

SBATCH = """#!/bin/bash
cd "$(dirname "$0")"
env > sbatch.env
size=$(sed -n 's/^#SBATCH --array=0-\\([0-9]*\\)%.*/\\1/p' "$1")
[ -e refuse ] && . ./refuse $((${size:-0} + 1))
number=$(($(cat number 2> /dev/null) + 1)); echo $number > number
if [ "$size" ]; then for i in $(seq 0 $size); do echo ${number}_$i; done; else echo $number; fi >> queue
echo $((${size:-0} + 1)) >> sizes
echo Submitted batch job $number
"""
SQUEUE = """#!/bin/bash
cd "$(dirname "$0")"
calls=$(($(cat calls 2> /dev/null) + 1)); echo $calls > calls
env > squeue.env; echo "$@" > squeue.args
[ -e fail ] && . ./fail
cat queue
"""


class Commands:
    """The scripts, and what they do; *folder* is the one they are in."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        (folder / "queue").touch()
        for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE), ("srun", "#!/bin/bash\n")):
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)

    def lines(self, name: str) -> list[str]:
        """The lines of one of the files that the scripts write."""
        path = self.folder / name
        return path.read_text().split("\n")[:-1] if path.exists() else []

    @property
    def calls(self) -> int:
        """How often squeue was called."""
        return int(self.lines("calls")[0])

    def fail(self, script: str) -> None:
        """Have squeue do something before it answers; it has ``$calls``."""
        (self.folder / "fail").write_text(script)

    def refuse(self, script: str) -> None:
        """Have sbatch do something before it takes jobs; it has the size of the array as ``$1``."""
        (self.folder / "refuse").write_text(script)

    def end(self, job: str, run: Run | None = None) -> None:
        """Take a job out of the queue, with the result of a run or without."""
        queue = [line for line in self.lines("queue") if line != job]
        (self.folder / "queue").write_text("".join(line + "\n" for line in queue))
        if run:
            (run.folder / "result.json").write_text("{}")


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Commands:
    """SLURM's commands as scripts, asked in quick succession."""
    found = Commands(tmp_path / "bin")
    monkeypatch.setenv("PATH", f"{found.folder}:{os.environ['PATH']}")
    for name in ("POLL", "ASK", "PAUSE"):
        monkeypatch.setattr(cluster, name, 0.01)
    return found


@pytest.fixture
def sweep(commands: Commands, tmp_path: Path) -> Callable[..., Any]:
    """``sweep(RUNS, on_tick, …)``: do runs; returns what was said, failures included, and the finished ones."""

    def sweep(runs: list[Run], tick: Callable[[dict[str, Run]], None], **options: Any) -> tuple[list[str], set[str]]:
        said: list[str] = []
        done: set[str] = set()

        def on_tick() -> None:
            jobs = {
                json.loads(path.read_text())["job"]: path.parent.name for path in tmp_path.glob("runs/*/slurm.json")
            }
            tick({job: run for job, name in jobs.items() for run in runs if run.name == name})

        run_on_slurm(
            runs, options, tmp_path / "slurm", done=done, tick=on_tick,
            failed=lambda run, why: said.append(f"{run.name} failed: {why}"), say=said.append,
        )  # fmt: skip
        return said, done

    return sweep


def some_runs(tmp_path: Path, number: int) -> list[Run]:
    """Runs that nobody does."""
    folders = [tmp_path / "runs" / f"run{i}" for i in range(number)]
    for folder in folders:
        folder.mkdir(parents=True)
    return [Run(folder.name, "joint", "joint", 3, 1, folder) for folder in folders]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minutes": 0}, "minutes is 0, but a number from 1 is expected"),
        ({"cpus": 0}, "cpus is 0, but a number from 1"),
        ({"gpus": -1}, "gpus is -1, but a number from 0"),
        ({"at_a_time": 0}, "at_a_time is 0, but a number from 1"),
        ({"array_size": 0}, "array_size is 0, but a number from 1"),
        ({"requeues": -1}, "requeues is -1, but a number from 0"),
        ({"memory_gb": 0}, "memory_gb is 0, but a number from 0.001"),
        ({"memory_gb": float("nan")}, "memory_gb is nan, but a number"),
        ({"memory_gb": float("inf")}, "memory_gb is inf, but a number"),
        ({"partition": ""}, "partition is '', but a name is expected"),
        ({"account": " "}, "account is ' ', but a name is expected"),
        ({"qos": "a\nb"}, "but a name is expected"),
        ({"minutes": True}, "minutes is True, but a whole number is expected"),
        ({"minutes": "60"}, "minutes is '60', but a whole number is expected"),
        ({"setup": ["module load x", 3]}, "setup is ['module load x', 3], but a list of lines"),
        ({"additional": {"array": "0-3"}}, "additional has array, but a sweep sets it itself"),
        ({"additional": {"nice": [1]}}, "additional has 'nice': [1], but options of sbatch"),
        ({"nodes": 0}, "nodes is 0, but a number from 1"),
        ({"node": 1}, "slurm has an unknown key node"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        check_options(options)
    assert message in str(error.value)


def test_options_that_can_be() -> None:
    check_options({"partition": "gpu", "minutes": 1, "gpus": 0, "memory_gb": 0.5, "requeues": 0, "array_size": 1})
    check_options({"setup": [], "additional": {"nice": 3, "hint": "nomultithread"}, "memory_gb": 4, "at_a_time": 1})


def test_a_squeue_that_fails_now_and_then_stops_nothing(
    commands: Commands, sweep: Callable[..., Any], tmp_path: Path
) -> None:
    commands.fail('[ $((calls % 3)) = 2 ] || { echo "slurm_load_jobs error: Socket timed out" >&2; exit 1; }')
    runs = some_runs(tmp_path, 2)
    runs[1] = Run("run1", "joint", "joint", 3, 1, runs[1].folder, needs=("run0",))

    def tick(jobs: dict[str, Run]) -> None:
        if commands.calls % 6 == 0:
            for job in commands.lines("queue"):
                commands.end(job, jobs[job])

    said, done = sweep(runs, tick)
    assert done == {"run0", "run1"}
    assert set(said) == {
        "SLURM does not answer (squeue: slurm_load_jobs error: Socket timed out); the jobs go on, and it is asked again"
    }


def test_without_any_answer_nothing_is_submitted(commands: Commands, sweep: Callable[..., Any], tmp_path: Path) -> None:
    commands.fail('echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1')
    with pytest.raises(UserError, match=r"does not list its jobs .*Unable to contact slurm controller"):
        sweep(some_runs(tmp_path, 1), lambda jobs: None)
    assert commands.calls == cluster.TRIES
    assert commands.lines("number") == []


def test_a_queued_job_of_another_study_is_told(commands: Commands, sweep: Callable[..., Any], tmp_path: Path) -> None:
    """Without an end, it would leave results of before the change."""
    (run,) = some_runs(tmp_path, 1)
    (tmp_path / "bin/queue").write_text("7\n")
    write_json(run.folder / "slurm.json", {"job": "7", "commands": "of before"})
    with pytest.raises(UserError, match=r"job 7 does run0 as it was before .*: end it with scancel 7 and start"):
        sweep([run], lambda jobs: None)
    write_json(run.folder / "slurm.json", {"job": "7"})  # by an earlier version
    assert sweep([run], lambda jobs: commands.end("7", run)) == ([], {"run0"})


@pytest.mark.slow
def test_a_squeue_that_hangs_is_one_that_fails(
    commands: Commands, sweep: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm, "PATIENCE", 3)
    commands.fail("[ $calls = 3 ] && exec sleep 600")
    runs = some_runs(tmp_path, 1)

    def tick(jobs: dict[str, Run]) -> None:
        if commands.calls > 3:
            commands.end("1", runs[0])

    said, done = sweep(runs, tick)
    assert done == {"run0"}
    assert set(said) == {"SLURM does not answer (squeue timed out after 3 s); the jobs go on, and it is asked again"}


def test_a_result_may_come_after_its_job_has_gone(
    commands: Commands, sweep: Callable[..., Any], tmp_path: Path
) -> None:
    """As on a shared file system: many answers of SLURM without the job, before the result shows."""
    runs = some_runs(tmp_path, 1)
    gone_at = 0

    def tick(jobs: dict[str, Run]) -> None:
        nonlocal gone_at
        if not gone_at:
            commands.end("1")
            gone_at = commands.calls
        elif commands.calls > gone_at + 20:
            commands.end("1", runs[0])

    assert sweep(runs, tick) == ([], {"run0"})


def test_a_job_that_ends_without_a_result_has_failed(
    commands: Commands, sweep: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "GRACE", 0.1)
    runs = some_runs(tmp_path, 2)
    runs[1] = Run("run1", "joint", "joint", 3, 1, runs[1].folder, needs=("run0",))
    said, done = sweep(runs, lambda jobs: commands.end("1"))
    assert done == set()
    assert [text.partition("; see")[0] for text in said] == [
        "run0 failed: SLURM ended the job 1 without a result",
        "run1 failed: not started, because run0 failed",
    ]


def finish(commands: Commands, at_once: int = 99) -> Callable[[dict[str, Run]], None]:
    """Let some jobs finish at each tick."""

    def tick(jobs: dict[str, Run]) -> None:
        for job in commands.lines("queue")[:at_once]:
            commands.end(job, jobs[job])

    return tick


def test_an_array_above_the_limit_goes_in_portions(
    commands: Commands, sweep: Callable[..., Any], tmp_path: Path
) -> None:
    error = "sbatch: error: Batch job submission failed: Invalid job array specification"
    commands.refuse(f'[ $1 -gt 3 ] && {{ echo "{error}" >&2; exit 1; }}')
    runs = some_runs(tmp_path, 11)
    said, done = sweep(runs, finish(commands))
    assert (said, len(done)) == ([], 11)
    assert commands.lines("sizes") == ["2", "2", "2", "2", "2", "1"]  # 11 → 5 → 2


def test_a_study_gives_the_size_of_its_arrays(commands: Commands, sweep: Callable[..., Any], tmp_path: Path) -> None:
    said, done = sweep(some_runs(tmp_path, 7), finish(commands), array_size=3, partition="main", at_a_time=2)
    assert (said, len(done)) == ([], 7)
    assert commands.lines("sizes") == ["3", "3", "1"]


def test_more_jobs_than_a_user_may_have_are_submitted_as_others_end(
    commands: Commands, sweep: Callable[..., Any], tmp_path: Path
) -> None:
    error = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit)"
    commands.refuse(f'[ $(($(wc -l < queue) + $1)) -gt 2 ] && {{ echo "{error}" >&2; exit 1; }}')
    said, done = sweep(some_runs(tmp_path, 5), finish(commands, at_once=1))
    assert len(done) == 5
    assert set(said) == {f"SLURM did not take a job ({error}); it is tried again"}


def test_a_controller_that_is_busy_is_asked_again(
    commands: Commands, sweep: Callable[..., Any], tmp_path: Path
) -> None:
    error = "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation"
    commands.refuse(f'[ -e tried ] || {{ touch tried; echo "{error}" >&2; exit 1; }}')
    said, done = sweep(some_runs(tmp_path, 4), finish(commands))
    assert len(done) == 4
    assert commands.lines("sizes") == ["4"]  # the array is not to blame
    assert said == [f"SLURM did not take a job ({error}); it is tried again"]


@pytest.mark.parametrize("error", ["invalid partition specified: nowhere", "Unable to contact slurm controller"])
def test_what_slurm_never_takes_is_told(
    commands: Commands, sweep: Callable[..., Any], tmp_path: Path, error: str
) -> None:
    commands.refuse(f'echo "sbatch: error: {error}" >&2; exit 1')
    with pytest.raises(
        UserError, match=rf"SLURM refused the jobs \(sbatch: error: {error}\): correct the study's key sl"
    ):
        sweep(some_runs(tmp_path, 3), lambda jobs: None, partition="nowhere")


def test_commands_of_slurm_are_given_nothing_of_the_allocation(
    commands: Commands, sweep: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_slurm = {
        "SLURM_CONF": "/etc/slurm/slurm.conf", "SLURM_CLUSTERS": "a", "SLURM_JWT": "b", "SLURM_NTASKS": "2",
        "SLURM_MEM_PER_CPU": "100", "SLURM_MEM_PER_NODE": "4000", "SLURM_JOB_ID": "7", "SLURM_JOB_GPUS": "1",
        "SLURM_EXPORT_ENV": "NONE", "SLURMD_NODENAME": "n", "SRUN_DEBUG": "3", "SQUEUE_STATES": "RUNNING",
        "SBATCH_MEM_BIND": "local", "SBATCH_ACCOUNT": "ours", "CUDA_VISIBLE_DEVICES": "1",
    }  # fmt: skip
    for name, value in of_slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("USER", "somebody else")
    monkeypatch.setenv("LOGNAME", "somebody else")
    assert sweep(some_runs(tmp_path, 1), finish(commands)) == ([], {"run0"})
    for name in ("sbatch.env", "squeue.env"):
        given = {line.partition("=")[0] for line in commands.lines(name)}
        assert given & set(of_slurm) == {"SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT", "SBATCH_ACCOUNT"}
    assert {name: os.environ[name] for name in of_slurm} == of_slurm  # they are there for everything else
    assert commands.lines("squeue.args") == [f"--noheader --array --format=%i --user={os.getuid()}"]
    monkeypatch.delenv("SLURM_JOB_GPUS")
    with slurm.outside_of_jobs():
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"  # the user's own choice


def test_jobs_run_the_code_that_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before what the study asks for, so that it may set others."""
    monkeypatch.setenv("PYTHONPATH", "/with space:")
    asked = cluster._Slurm({"setup": ["module load x"]}, tmp_path, print)._parameters()["slurm_setup"]
    safe, path, theirs = asked
    assert (safe, theirs) == ("export PYTHONSAFEPATH=1", "module load x")
    assert path.startswith("export PYTHONPATH='")
    assert path.endswith("/with space'")
