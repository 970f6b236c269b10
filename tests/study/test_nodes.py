"""A study's run on two nodes of a real SLURM: it trains what two processes of one machine train."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inprocess
import pytest
import support
import torch
from real_slurm import Restarting, free_port
from studies import TINY_RECIPE

from fairseq_dsp.study import cluster, runner, sweep
from fairseq_dsp.study.nodes import Nodes
from fairseq_dsp.study.study_file import read_study

RECIPE = TINY_RECIPE | {"ddp-backend": "legacy_ddp", "max-update": 30, "save-interval-updates": 5}
RECIPE |= {"save-interval": 1000, "validate-interval": 1000, "validate-interval-updates": 1000}


@pytest.mark.slow
@pytest.mark.parametrize("slurm", [2], indirect=True)
def test_a_preempted_run_on_two_nodes_ends_as_two_processes(
    slurm: dict[str, str],
    tmp_path: Path,
    write_study_to: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in slurm.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cluster, "POLL", 0.5)
    monkeypatch.setattr(cluster, "ASK", 2)
    method = {"method": "joint", "options": {"cooldown-updates": 20}}
    study = read_study(write_study_to(tmp_path, methods=[method], recipe=RECIPE))
    runs = [run for run in sweep.checked_runs(study, tmp_path / "results") if run.method == "joint"]
    (folder,) = [run.folder for run in runs]
    log = folder / "log.txt"
    preempted: list[str] = []
    restarting = Restarting(os.environ)

    def tick() -> None:
        if not preempted and any(folder.glob("checkpoints/checkpoint_*_*.pt")):
            preempted.append(json.loads((folder / "slurm.json").read_text())["job"])
            for signal in ("TERM", "USR2"):  # submitit takes these for a pre-emption
                subprocess.run(["scancel", preempted[0], "--signal", signal], check=True)
        for job in preempted:
            restarting(job)

    def failed(run: Any, why: str) -> None:
        raise AssertionError(f"{why}\n{log.read_text()}")

    options = {"minutes": 10, "nodes": 2, "cpus": 1}
    cluster.run_on_slurm(runs, options, tmp_path / "slurm", done=set(), tick=tick, failed=failed, say=print)
    assert all(map(runner.is_done, runs))
    assert log.read_text().count("training on 2 devices") > 1
    assert "Loaded checkpoint" in log.read_text()
    assert json.loads((folder / "result.json").read_text())["processes"] == 2
    straight, resumed = on_two_processes(log.read_text(), tmp_path), inprocess.checkpoint(folder / "checkpoints")
    assert straight["optimizer_history"][-1]["num_updates"] == resumed["optimizer_history"][-1]["num_updates"] == 30
    for name, value in straight["model"].items():
        assert torch.equal(value, resumed["model"][name]), name


def on_two_processes(log: str, folder: Path) -> dict[str, Any]:
    """Train what a run's log says with two processes of this machine, without a break; return the checkpoint."""
    line = next(line for line in log.splitlines() if line.startswith("$ ") and " fairseq_cli.train " in line)
    words = line.partition(" fairseq_cli.train ")[2].split()
    words += ["--distributed-world-size", "2", "--distributed-init-method", f"tcp://localhost:{free_port()}"]
    words += ["--distributed-no-spawn", "--distributed-backend", "gloo", "--save-dir", str(folder / "straight")]
    processes = [
        support.start_fairseq("train", [*words, "--distributed-rank", rank], folder / f"log{rank}") for rank in (0, 1)
    ]
    for rank, process in enumerate(processes):
        process.join(300)
        assert process.exitcode == 0, (folder / f"log{rank}").read_text()
    return inprocess.checkpoint(folder / "straight")


def test_with_gpus_fairseq_starts_a_process_for_each_of_them() -> None:
    command = ["fairseq-train", "data"]
    assert Nodes(1, 4).launched(command) == command
    words = " ".join(Nodes(3, 4, 8).launched(command))
    assert "--nodes=3 --ntasks=3 --ntasks-per-node=1 --cpus-per-task=8 " in words
    assert "--distributed-rank $((SLURM_NODEID * 4))" in words
    assert "fairseq-train data --distributed-world-size 12 --distributed-init-method tcp://" in words
    assert "no-spawn" not in words
