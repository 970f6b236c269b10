"""A sweep on a real SLURM of one node; `test_nodes` has two."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
from quick_python import quick_python
from real_slurm import Restarting, wait_for

from fairseq_dsp.study.results import read_results

LOOKING_OFTEN = """
import sys
from fairseq_dsp.cli import main
from fairseq_dsp.study import cluster, local
cluster.ASK, cluster.POLL, local.PAUSE = 1, 0.2, 0.5
sys.exit(main())
"""
"""``fairseq-dsp``, for a cluster that is not shared."""


@pytest.fixture
def study_for(tmp_path: Path, write_study_to: Callable[..., Path], methods: list[Any]) -> Callable[..., Path]:
    """Write the study of the local sweep, or its first methods, for SLURM with some options."""
    return lambda options, number=None: write_study_to(tmp_path, methods=methods[:number], slurm=options)


@pytest.fixture
def local_table(finished: tuple[Path, Any], table: Callable[..., str]) -> str:
    """The table of the local sweep."""
    return table(finished[0] / "results")


def test_a_requeued_sweep_ends_as_the_local_one(
    slurm: dict[str, str], study_for: Callable[..., Path], local_table: str, table: Callable[..., str], tmp_path: Path
) -> None:
    options = {"partition": "main", "minutes": 10, "cpus": 1}
    study = study_for(options, 3)  # four runs, none of them broken
    results = tmp_path / "results"
    environment = support.environment(**slurm)
    command = [quick_python(), "-c", LOOKING_OFTEN, "sweep", str(study), "--results", str(results), "--slurm"]
    log = tmp_path / "sweep.log"
    with log.open("wb") as file:
        sweep = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        victim = results / "runs/joint-k6-s1"
        wait_for(lambda: (victim / "log.txt").exists() and sweep.poll() is None, log.read_text)
        job = json.loads((victim / "slurm.json").read_text())["job"]
        assert "_" in job  # an element of an array
        subprocess.run(["scontrol", "requeue", job], env=environment, check=True)

        restarting = Restarting(environment)

        def again() -> bool:
            shown = restarting(job)
            return "Restarts=1" in shown and "JobState=RUNNING" in shown

        wait_for(again, log.read_text)
        assert sweep.wait(600) == 0, log.read_text()
    finally:
        if sweep.poll() is None:
            sweep.kill()
            os.waitpid(sweep.pid, 0)
    assert (victim / "log.txt").read_text().count("fairseq_cli.train") > 1  # it was stopped and went on
    assert table(results) == local_table


FAILING_NOW_AND_THEN = """#!/bin/bash
echo >> {calls}
[ $(($(wc -l < {calls}) % 2)) = 1 ] && {{ echo slurm_load_jobs error: Socket timed out >&2; exit 1; }}
exec {squeue} "$@"
"""


@pytest.mark.slow
def test_inside_an_allocation_it_ends_as_the_local_one(
    slurm: dict[str, str], study_for: Callable[..., Path], local_table: str, table: Callable[..., str], tmp_path: Path
) -> None:
    """As from ``salloc -n 2 --mem-per-cpu=…``; every other question to squeue fails; arrays may have two jobs."""
    calls, squeue = tmp_path / "calls", tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    squeue.write_text(FAILING_NOW_AND_THEN.format(calls=calls, squeue=shutil.which("squeue")))
    squeue.chmod(0o755)
    options = {"partition": "main", "minutes": 10, "cpus": 1, "memory_gb": 1}
    study = study_for(options)  # one of the five runs fails
    sweep = [quick_python(), "-c", LOOKING_OFTEN, "sweep", study, "--results", tmp_path / "results", "--slurm"]
    variables = {**slurm, "PATH": f"{squeue.parent}:{os.environ['PATH']}"}
    said = tmp_path / "environment"
    script = f"env > {said}; exec {shlex.join(map(str, sweep))}"
    allocation = ["salloc", "-N1", "-n2", "--mem-per-cpu=100", "-t10", "bash", "-c", script]
    done = support.run_command(allocation, check=False, timeout=900, **variables)
    assert said.exists(), done.stdout
    assert {"SLURM_NTASKS=2", "SLURM_MEM_PER_CPU=100"} <= set(said.read_text().splitlines())
    assert "1 of 5 runs failed (broken-k6-s1)" in done.stdout, done.stdout
    assert "run broken-k6-s1 failed: train ended with status 1; the end of" in done.stdout
    assert "SLURM does not answer (squeue: slurm_load_jobs error: Socket timed out); the jobs go on" in done.stdout
    assert len(calls.read_text()) > 5
    for folder in (tmp_path / "results/runs").iterdir():
        assert len(set(commands_of(folder))) == len(commands_of(folder))  # no run was done twice
        assert "_" not in json.loads((folder / "slurm.json").read_text())["job"]  # no array of three was taken
    assert table(tmp_path / "results") == local_table
    assert read_results(tmp_path / "results").missing == ["broken-k6-s1"]


def commands_of(folder: Path) -> list[str]:
    """The commands that a run's log tells."""
    return [line for line in (folder / "log.txt").read_text().splitlines() if line.startswith("$ ")]


@pytest.mark.slow
def test_a_sweep_goes_on_beside_its_jobs(
    slurm: dict[str, str],
    finished: tuple[Path, Any],
    tmp_path: Path,
    write_study_to: Callable[..., Path],
    table: Callable[..., str],
) -> None:
    """It is killed before it has noted its jobs, and started again without SLURM; the jobs are still at their runs."""
    study = write_study_to(tmp_path, methods=["joint"], slurm={"minutes": 10})
    results, log = tmp_path / "results", tmp_path / "sweep.log"
    folders = [results / "runs" / name for name in ("base-s1", "joint-k6-s1")]
    environment = support.environment(**slurm)
    command = [quick_python(), "-c", LOOKING_OFTEN, "sweep", str(study), "--results", str(results)]

    def start(*words: str) -> subprocess.Popen[bytes]:
        with log.open("wb") as file:
            return subprocess.Popen(
                [*command, *words], env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file
            )

    def control(word: str, *jobs: str) -> None:
        for job in jobs:
            subprocess.run(["scontrol", word, job], env=environment, check=True)

    sweep = start("--slurm")
    try:
        wait_for(lambda: all((folder / "slurm.json").exists() for folder in folders), log.read_text)
        jobs = [json.loads((folder / "slurm.json").read_text())["job"] for folder in folders]
        waiting = dict(zip(folders, jobs, strict=True))
        while waiting:  # each as soon as it has begun: it is a short training
            wait_for(lambda: any((folder / "log.txt").exists() for folder in waiting), log.read_text)
            begun = [folder for folder in waiting if (folder / "log.txt").exists()]
            control("suspend", *map(waiting.pop, begun))
        sweep.kill()
        sweep.wait()
        for folder in folders:
            (folder / "slurm.json").unlink()
        sweep = start("--jobs", "2", "--cores", "1")
        wait_for(lambda: log.read_text().count("which is doing it") == 2, log.read_text)
        assert f", SLURM job {subprocess_id(jobs[0], environment)}, which is doing it" in log.read_text()
        control("resume", *jobs)
        assert sweep.wait(600) == 0, log.read_text()
    finally:
        sweep.kill()
        sweep.wait()
        subprocess.run(["scancel", "--me"], env=environment)
    for folder in folders:
        assert [" fairseq_cli.train " in command for command in commands_of(folder)].count(True) == 1
    only = [folder.name for folder in folders]
    assert table(results, only) == table(finished[0] / "results", only)


def subprocess_id(job: str, environment: dict[str, str]) -> str:
    """The id that the processes of an array's element see as theirs."""
    shown = subprocess.run(["scontrol", "show", "job", job], env=environment, capture_output=True, text=True)
    return shown.stdout.split()[0].removeprefix("JobId=")


def test_a_bad_slurm_is_told(
    write_study: Callable[..., Path], tmp_path: Path, dsp: Callable[..., Any], slurm: dict[str, str]
) -> None:
    study = write_study(slurm={"partition": "nowhere", "minutes": 10})
    done = dsp("sweep", study, "--results", tmp_path / "results", "--slurm", check=False, **slurm)
    assert done.returncode == 1
    assert "SLURM refused the jobs" in done.stdout
    assert "Traceback" not in done.stdout
