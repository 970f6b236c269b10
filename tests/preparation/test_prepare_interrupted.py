"""Killed, out of disk space, or run twice at once: nothing half-written, and the next run goes on."""

from __future__ import annotations

import functools
import os
import resource
import shutil
import signal
import subprocess
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import preparing
import pytest
import support

STAGES = ["raw", "tokenised", "bpe", "data-bin", "references"]
SMALL = ["--train-size", 1500, "--valid-size", 50, "--test-size", 50, "--vocab-size", 500, "--tokenizer", "moses"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A preparation that nothing disturbed, with one process."""
    out = tmp_path_factory.mktemp("straight") / "out"
    preparing.prepare("phrases", out, *SMALL, "--workers", 1)
    return out


def start(out: Path) -> ForkServerProcess:
    words = ("prepare", "phrases", out, *SMALL, "--workers", 2)
    return support.start_fairseq("dsp", words, out.with_name("log"), before=support.heed_interrupts)


def wait_for_stage(process: ForkServerProcess, out: Path, stage: str) -> None:
    """Wait until a stage is being made."""
    end = time.monotonic() + 120
    while not list(out.glob(f".{stage}.partial-*")):
        assert process.exitcode is None, f"ended with {process.exitcode} before {stage} began"
        assert time.monotonic() < end
        time.sleep(0.002)


def test_killed_in_every_stage(straight: Path, tmp_path: Path) -> None:
    """Only the process itself is killed: its children have to look after themselves."""
    out = tmp_path / "out"
    made: dict[str, int] = {}
    for number, stage in enumerate(STAGES[:4]):  # the last one is too short to be met
        process = start(out)
        wait_for_stage(process, out, stage)
        process.kill()
        process.join()
        assert sorted(path.name for path in out.iterdir() if not path.name.startswith(".")) == sorted(STAGES[:number])
        assert all((out / name).stat().st_ino == inode for name, inode in made.items()), (
            "a finished stage was made again"
        )
        made = {name: (out / name).stat().st_ino for name in STAGES[:number]}
    preparing.prepare("phrases", out, *SMALL, "--workers", 2)
    assert all((out / name).stat().st_ino == inode for name, inode in made.items())
    assert preparing.contents(out) == preparing.contents(straight)
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("stage", STAGES)
def test_what_was_lost_is_made_again(straight: Path, tmp_path: Path, stage: str) -> None:
    """Scoring reads more than data-bin, and sends those who lost some of it here."""
    out = tmp_path / "out"
    shutil.copytree(straight, out)
    shutil.rmtree(out / stage)
    done = preparing.prepare("phrases", out, *SMALL)
    assert "nothing to do" not in done.stdout
    assert done.stdout.count("already there") == len(STAGES) - 1
    assert preparing.contents(out) == preparing.contents(straight)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stopped(tmp_path: Path, number: signal.Signals) -> None:
    out = tmp_path / "out"
    process = start(out)
    wait_for_stage(process, out, "raw")
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(30)
    assert process.exitcode not in (None, 0)
    assert not out.exists()


def test_two_at_once(tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start(out)
    wait_for_stage(process, out, "raw")
    second = preparing.prepare("phrases", out, *SMALL, check=False)
    assert "another process" in preparing.the_sentence(second)
    process.terminate()
    process.join()


@pytest.mark.parametrize("number", range(len(STAGES)))
def test_full_disk(straight: Path, tmp_path: Path, number: int) -> None:
    """No file may grow to the size that the stage's largest one needs."""
    stage, before = STAGES[number], STAGES[:number]
    out = tmp_path / "out"
    for name in before:
        shutil.copytree(straight / name, out / name)  # as a run leaves them that was killed in the stage
    limit = max(path.stat().st_size for path in (straight / stage).iterdir()) * 2 // 3
    full = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit))
    done = support.run_fairseq("dsp", "prepare", "phrases", out, *SMALL, check=False, before=full)
    assert "disk is full" in preparing.the_sentence(done)
    assert sorted(os.listdir(out)) == sorted(before) if before else not out.exists()


def test_full_file_system(tmp_path: Path) -> None:
    """A real file system of 200 kB; only root can mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    try:
        done = preparing.prepare("phrases", disk / "out", *SMALL, check=False)
        assert "disk is full" in preparing.the_sentence(done)
        assert not [path for path in disk.rglob("*") if "partial" in path.name]
    finally:
        subprocess.run(["umount", str(disk)], check=True)
