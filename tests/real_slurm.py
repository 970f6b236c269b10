"""A real SLURM on this machine: Debian's slurm-wlm and munge, with as many nodes as a test asks for."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import support

CONFIG = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ctld_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
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
MaxArraySize=2
SchedulerParameters=sched_interval=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=4 RealMemory=4000 State=UNKNOWN"


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


class Restarting:
    """Has jobs that were queued again begin soon, instead of after two minutes.

    Not at once: in the second in which slurmd has ended a job, it refuses to start it again.

    :param environment: with the variables that SLURM's commands need.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment, self._since = environment, dict[str, float]()

    def __call__(self, job: str) -> str:
        """See to a job, again and again; return what SLURM shows of it."""
        show, start = ["scontrol", "show", "job", job], ["scontrol", "update", f"JobId={job}", "StartTime=now"]
        shown = subprocess.run(show, env=self._environment, capture_output=True, text=True).stdout
        queued_again = "JobState=PENDING" in shown and "Restarts=0" not in shown
        if queued_again and time.monotonic() - self._since.setdefault(job, time.monotonic()) > 3:
            subprocess.run(start, env=self._environment, capture_output=True)
        return shown


@pytest.fixture(scope="module")
def slurm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A running SLURM of one node, or as many as the parameter says; the variables that its commands need."""
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
    host = socket.gethostname().split(".")[0]
    names = [f"node{i}" for i in range(getattr(request, "param", 1))]
    for name in ("state", *(f"spool-{name}" for name in names)):
        (folder / name).mkdir()
    config = folder / "slurm.conf"
    nodes = "\n".join(NODE.format(name=name, host=host, port=free_port()) for name in names)
    config.write_text(CONFIG.format(host=host, folder=folder, ctld_port=free_port(), nodes=nodes), encoding="utf-8")
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

    # a munged of its own: the machine's may be another test's, and end with that
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    files = [f"--{name}-file={folder / name}" for name in ("pid", "seed")]
    files += [f"--key-file={key}", f"--log-file={folder / 'munged.log'}", f"--socket={folder / 'munge.socket'}"]
    start("munged", "--foreground", "--force", *files)
    ask = ["munge", "--no-input", f"--socket={folder / 'munge.socket'}"]
    wait_for(lambda: not subprocess.run(ask, capture_output=True).returncode, log)
    start("slurmctld", "-D")
    for name in names:
        start("slurmd", "-D", "-N", name)

    def idle() -> bool:
        shown = subprocess.run(["sinfo", "-h", "-o", "%T"], env=environment, capture_output=True, text=True)
        return shown.stdout.strip() == "idle"

    try:
        wait_for(idle, log)
        yield variables
    finally:
        subprocess.run(["scancel", "--me"], env=environment)
        with contextlib.suppress(AssertionError):  # or processes of jobs would wait for this SLURM for ever
            queued = ["squeue", "--noheader"]
            wait_for(lambda: not subprocess.run(queued, env=environment, capture_output=True).stdout, log, 30)
        for process in reversed(started):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
