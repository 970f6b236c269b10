"""A sweep on a real SLURM of one node, which the test starts; Debian's slurm-wlm and munge."""

from __future__ import annotations

import getpass
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import support

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
SlurmdPort={slurmd_port}
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SlurmUser=root
SlurmdUser=root
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
KillWait=2
SchedulerParameters=sched_interval=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def wait_for(what: Callable[[], Any], why: Callable[[], object], seconds: float = 300) -> Any:
    """Wait until *what* gives something."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.2)
    raise AssertionError(why())


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running SLURM; the variables that its commands need."""
    if getpass.getuser() != "root":
        pytest.skip("starting a SLURM with the packages' own paths takes root")
    if not all(map(shutil.which, ("slurmctld", "slurmd", "munged", "sbatch"))):
        if not shutil.which("apt-get"):
            pytest.skip("slurm-wlm and munge are not installed, and there is no apt-get to install them")
        install = ["apt-get", "install", "-y", "-q", "--no-install-recommends", "slurm-wlm", "munge"]
        done = subprocess.run(install, capture_output=True, text=True, timeout=300)
        if done.returncode:
            pytest.skip(f"slurm-wlm and munge cannot be installed: {done.stderr.strip()[-200:]}")
    folder = tmp_path_factory.mktemp("slurm")
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().split(".")[0]
    config = folder / "slurm.conf"
    config.write_text(
        CONFIG.format(host=host, folder=folder, ctld_port=free_port(), slurmd_port=free_port()), encoding="utf-8"
    )
    variables = {"SLURM_CONF": str(config)}
    environment = support.environment(**variables)
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> None:
        with (folder / "started.log").open("ab") as log:
            started.append(
                subprocess.Popen(
                    command, env=environment, start_new_session=True, stdin=subprocess.DEVNULL, stdout=log, stderr=log
                )
            )

    def log() -> str:
        return "\n".join(path.read_text()[-3000:] for path in folder.glob("*.log"))

    if subprocess.run(["munge", "-n"], capture_output=True).returncode:
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        start("runuser", "-u", "munge", "--", "munged", "--foreground", "--force")
        wait_for(lambda: not subprocess.run(["munge", "-n"], capture_output=True).returncode, log)
    start("slurmctld", "-D")
    start("slurmd", "-D", "-N", host)

    def idle() -> bool:
        shown = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
        return shown.stdout.strip() == "idle"

    try:
        wait_for(idle, log)
        yield variables
    finally:
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_a_requeued_sweep_ends_as_the_local_one(
    slurm: dict[str, str],
    finished: tuple[Path, Any],
    tmp_path: Path,
    write_study_to: Callable[..., Path],
    methods: list[Any],
    table: Callable[..., str],
) -> None:
    options = {"partition": "main", "minutes": 10, "cpus": 1}
    study = write_study_to(tmp_path, methods=methods[:3], slurm=options)  # four runs, none of them broken
    results = tmp_path / "results"
    environment = support.environment(**slurm)
    command = [sys.executable, "-m", "fairseq_dsp.cli", "sweep", str(study), "--results", str(results), "--slurm"]
    log = tmp_path / "sweep.log"
    with log.open("wb") as file:
        sweep = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
    try:
        victim = results / "runs/joint-k6-s1"
        wait_for(lambda: (victim / "log.txt").exists() and sweep.poll() is None, log.read_text)
        job = json.loads((victim / "slurm.json").read_text())["job"]
        assert "_" in job  # an element of an array
        subprocess.run(["scontrol", "requeue", job], env=environment, check=True)

        def again() -> bool:
            subprocess.run(
                ["scontrol", "update", f"JobId={job}", "StartTime=now"], env=environment, capture_output=True
            )
            shown = subprocess.run(["scontrol", "show", "job", job], env=environment, capture_output=True, text=True)
            return "Restarts=1" in shown.stdout and "JobState=RUNNING" in shown.stdout

        wait_for(again, log.read_text)
        assert sweep.wait(600) == 0, log.read_text()
    finally:
        if sweep.poll() is None:
            sweep.kill()
            os.waitpid(sweep.pid, 0)
    assert (victim / "log.txt").read_text().count("fairseq_cli.train") > 1  # it was stopped and went on
    assert table(results) == table(finished[0] / "results")


def test_a_bad_slurm_is_told(
    write_study: Callable[..., Path], tmp_path: Path, dsp: Callable[..., Any], slurm: dict[str, str]
) -> None:
    study = write_study(slurm={"partition": "nowhere", "minutes": 10})
    done = dsp("sweep", study, "--results", tmp_path / "results", "--slurm", check=False, **slurm)
    assert done.returncode == 1
    assert "SLURM did not take the jobs" in done.stdout
    assert "Traceback" not in done.stdout
