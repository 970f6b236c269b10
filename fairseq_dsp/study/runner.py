"""Doing one run: its steps one after the other, each done once, whatever interrupts it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError
from .atomic import write_json, write_text
from .runs import LOG, RESULT, SCORES, Run, Step

IDENTITY = "run.json"
_UPDATES = re.compile(r'"num_updates": "(\d+)"|num_updates=(\d+)|@ (\d+) updates')


class RunError(Exception):
    """A command of a run ended badly; the text is the end of the run's log."""


def is_done(run: Run) -> bool:
    """Whether a run has its result."""
    return (run.folder / RESULT).is_file()


def check_identity(run: Run) -> None:
    """Raise a `UserError` if the run's folder holds a run with other settings."""
    path = run.folder / IDENTITY
    if not path.exists():
        return
    try:
        there = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(
            f"{path} is not JSON ({error}): it is none of a sweep's, so give another folder with --results"
        ) from error
    ours = json.loads(json.dumps(run.identity))
    if not isinstance(there, dict):
        raise UserError(f"{path} is none of a sweep's: give another folder with --results")
    if there != ours:
        differing = sorted(key for key in {*there, *ours} if there.get(key) != ours.get(key))
        raise UserError(
            f"{run.folder} holds results of another study, or of this one before it was changed (other "
            f"{', '.join(differing)}): give another folder with --results, or remove that one"
        )


def execute(run: Run, environment: Mapping[str, str] | None = None) -> None:
    """Do what is missing of a run, and write its result.

    :param environment: variables for the commands, on top of this process's.
    :raises RunError: if a command ends badly.
    :raises UserError: if a file cannot be written.
    """
    if is_done(run):
        return
    check_identity(run)
    write_json(run.folder / IDENTITY, run.identity)
    for step in run.steps:
        marker = run.folder / f".{step.name}.done"
        if marker.exists():
            continue
        try:
            if not _is_trained(step):
                _call(step, run, environment)
        except OSError as error:
            where = error.filename or run.folder
            raise UserError(f"{where} cannot be written ({error.strerror}): mend that and start again") from error
        write_text(marker, "")
    write_json(run.folder / RESULT, _result(run))


def progress(run: Run) -> float:
    """How much of :attr:`Run.work` is done, judged by the end of the run's log."""
    if is_done(run):
        return run.work
    done = 0.0
    for step in run.steps:
        if (run.folder / f".{step.name}.done").exists():
            done += step.updates
        elif step.updates:
            found = _UPDATES.findall(_tail(run.folder / LOG, 4096).rpartition("\n$ ")[2])
            if found:
                done += min(step.updates, int(next(filter(None, found[-1]))))
            break
    return done


def _call(step: Step, run: Run, environment: Mapping[str, str] | None) -> None:
    run.folder.mkdir(parents=True, exist_ok=True)
    log = run.folder / LOG
    partial = step.output and step.output.with_name(f".{step.output.name}.tmp")
    for leftover in step.leftovers:
        leftover.unlink(missing_ok=True)
    with log.open("ab") as file:
        file.write(f"\n$ {' '.join(step.command)}\n".encode())
        file.flush()
        output = partial.open("wb") if partial else None
        process = subprocess.Popen(
            [*_dying_with_us(), *step.command],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output or file,
            stderr=file,
        )
        _running.add(process)
        try:
            status = process.wait()
        finally:
            _running.discard(process)
            if output:
                output.close()
    if status:
        raise RunError(f"{step.name} ended with status {status}; the end of {log}:\n{_ending(log)}")
    if partial and step.output:
        os.replace(partial, step.output)


_running: set[subprocess.Popen[bytes]] = set()


def stop_all() -> None:
    """Kill the commands that are running."""
    for process in list(_running):
        process.kill()


def _dying_with_us() -> list[str]:
    """What to put before a command so that it is killed when this process is, and does not go on unseen."""
    return ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []


def _is_trained(step: Step) -> bool:
    """Whether a training had made its last update when it was interrupted: fairseq would make one more."""
    if not step.checkpoints or not (step.checkpoints / "checkpoint_last.pt").exists():
        return False
    from fairseq import checkpoint_utils

    state = checkpoint_utils.load_checkpoint_to_cpu(str(step.checkpoints / "checkpoint_last.pt"))
    return bool(state["optimizer_history"][-1]["num_updates"] >= step.updates)


def _result(run: Run) -> dict[str, Any]:
    result: dict[str, Any] = {
        "run": run.name, "label": run.label, "method": run.method, "heads": run.heads, "seed": run.seed,
        "scored": run.scored, "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }  # fmt: skip
    if run.scored:
        scores = json.loads((run.folder / SCORES).read_text(encoding="utf-8"))[0]
        result["scores"] = scores
        if scores["kept"]:
            result["heads"] = scores["kept"]["kept"]
    result["updates"] = sum(step.updates for step in run.steps)
    result["training_seconds"] = training_seconds(run.folder / LOG)
    return result


def training_seconds(log: Path) -> float:
    """How long the trainings in a run's log took, by fairseq's own account; of an interrupted one, the last part."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
    return round(sum(float(line.split()[-2]) for line in lines if "done training in" in line), 1)


def _tail(path: Path, size: int) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - size))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def _ending(log: Path, lines: int = 12) -> str:
    found = [line for line in re.split(r"[\r\n]+", _tail(log, 8192)) if line.strip()]
    return "\n".join(f"    {line}" for line in found[-lines:])
