"""Doing one run: its steps one after the other, each done once, whatever interrupts it.

A step is done when its command has ended well and what it is for is there. What was removed since is made again where
something that is still to be done needs it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..corpus import SUMMARY
from ..errors import UserError
from ..files import read_json, remove, sha256, write_json, write_text
from .lock import locked
from .options import SHARES
from .records import AND, FILES, RECORD, begin, check_records, version_of
from .runs import LOG, RESULT, Run
from .steps import COMPACT_HEADS, SCORES, Step, same_code
from .training_log import read_log, training_seconds, updates_made

LOCK = ".lock"
LAST = "checkpoint_last.pt"
_PROCESSES = re.compile(r"training on (\d+) devices")
_UPDATES = re.compile(r'"num_updates": "(\d+)"|num_updates=(\d+)|@ (\d+) updates')
_RESETS = {"--reset-optimizer", "--reset-lr-scheduler", "--reset-meters", "--reset-dataloader"}

Launch = Callable[[Sequence[str]], Sequence[str]]


class RunError(Exception):
    """A command of a run ended badly; the text is the end of the run's log."""


def is_done(run: Run) -> bool:
    """Whether a run has its result and the files that others want of it."""
    return (run.folder / RESULT).is_file() and not (run.wanted and missing_steps(run))


def is_done_alike(run: Run) -> bool:
    """Whether another process has done a run, as it is now: it may have begun before the study was changed.

    :raises UserError: if it is done in another way.
    """
    done = is_done(run)
    if done:
        check_records([run], finished=False)
    return done


def missing_steps(run: Run, stale: Container[str] = ()) -> list[Step]:
    """The steps of a run that are still to be done, in order.

    :param stale: the names of steps that are to be done again.
    """
    needed, again = set(run.wanted), set[str]()
    if not (run.folder / RESULT).is_file():
        needed |= set(run.steps[-1].products)
        if run.scored:  # the result is removed to have it scored again
            again.add(run.steps[-1].name)
    missing: list[Step] = []
    for step in reversed(run.steps):
        own, done = needed.intersection(step.products), step.marker(run.folder).exists()
        if own and (step.name in again or step.name in stale or not (done and _there(own))):
            missing.insert(0, step)
            needed |= set(step.inputs)
    return missing


def with_wanted(runs: Sequence[Run], stale: Callable[[Run], Container[str]] = lambda run: ()) -> list[Run]:
    """Return the runs with :attr:`Run.wanted`.

    :param runs: those first that others need.
    :param stale: tells the steps of a run that are to be done again.
    """
    needed: set[Path] = set()
    found = []
    for run in reversed(runs):
        own = needed.intersection(product for step in run.steps for product in step.products)
        found.append(replace(run, wanted=tuple(sorted(own))))
        if not is_done(found[-1]):
            needed.update(path for step in missing_steps(found[-1], stale(run)) for path in step.inputs)
    return found[::-1]


def drop_blocked(waiting: list[Run], broken: set[str], failed: Callable[[Run, str], None]) -> None:
    """Take the runs off the list *waiting* that need a *broken* one, and count them as broken, too.

    :param failed: called with each of them and the reason.
    """
    for run in list(waiting):
        if blocking := broken.intersection(run.needs):
            waiting.remove(run)
            broken.add(run.name)
            failed(run, f"not started, because {', '.join(sorted(blocking))} failed")


def execute(run: Run, environment: Mapping[str, str] | None = None, launch: Launch = tuple) -> None:
    """Do what is missing of a run, and write its result.

    :param environment: variables for the commands, on top of this process's.
    :param launch: makes of the command of a training the one to call.
    :raises LockedError: if another process is at it.
    :raises RunError: if a command ends badly, or well without leaving what it is for.
    :raises UserError: if a file cannot be written, or the run's folder holds something else.
    """
    if is_done_alike(run):
        return
    with locked(run.folder / LOCK) as lock:
        if is_done_alike(run):  # by then
            return
        try:
            begin(run)
            for step in missing_steps(run):
                _do(step, run, environment, launch, lock)
            if not (run.folder / RESULT).is_file():
                write_json(run.folder / RESULT, _result(run))
        except OSError as error:
            where = error.filename or run.folder
            raise UserError(f"{where} cannot be written ({error.strerror}): fix that, then start again") from error


def progress(run: Run) -> float:
    """How much of :attr:`Run.work` is done, judged by the end of the run's log."""
    if is_done(run):
        return run.work
    missing = missing_steps(run)
    done = run.work - sum(step.updates for step in missing)
    if not (run.folder / RESULT).is_file():
        done -= run.work - sum(step.updates for step in run.steps)
    if missing and missing[0].updates:
        found = _UPDATES.findall(_tail(run.folder / LOG, 4096).rpartition("\n$ ")[2])
        if found:
            done += min(missing[0].updates, int(next(filter(None, found[-1]))))
    return done


def _there(paths: Iterable[Path]) -> bool:
    return all(path.is_file() for path in paths)


def _do(step: Step, run: Run, environment: Mapping[str, str] | None, launch: Launch, lock: int) -> None:
    """Do a step and mark it as done."""
    if not (step.checkpoints and _is_trained(step, ended=step.marker(run.folder).exists())):
        step.marker(run.folder).unlink(missing_ok=True)
        for product in () if step.checkpoints else step.products:  # of an attempt that was interrupted
            remove(product)
        if not (step.checkpoints and (step.checkpoints / LAST).exists()):  # from which it would go on
            _note_inputs(step, run)
        _call(replace(step, command=tuple(launch(step.command))) if step.checkpoints else step, run, environment, lock)
    lacking = [str(product) for product in step.products if not product.is_file()]
    if lacking:
        log = run.folder / LOG
        raise RunError(
            f"{step.name} succeeded, but did not write {', '.join(lacking)}; the end of {log}:\n{_ending(log)}"
        )
    write_text(step.marker(run.folder), "")


def _note_inputs(step: Step, run: Run) -> None:
    """Note in a run's record what a step is about to read of other runs, and what went into that.

    A model that is trained again may be another one, although its options are the same. If one step read the one
    before that, and a later step another, both are noted.
    """
    runs = run.folder.parent

    def of_others(step: Step) -> list[Path]:
        return [path for path in step.inputs if path.is_relative_to(runs) and not path.is_relative_to(run.folder)]

    read: dict[str, set[str]] = {}
    for path in of_others(step):
        name = path.relative_to(runs)
        files = list((read_json(runs / name.parts[0] / RECORD) or {}).get(FILES, {}).items())
        if name.name != SUMMARY:  # it names the checkpoint that translated, which is noted
            files.append((str(name), _content(path)))
        for file, content in files:
            read.setdefault(file, set()).update(content.split(AND))
    if read:
        record = read_json(run.folder / RECORD)
        noted = record.get(FILES, {})
        if step.name != next(one.name for one in run.steps if of_others(one)):  # the first: the run is made anew
            for file in read.keys() & noted.keys():
                read[file].update(noted[file].split(AND))
        found = {file: AND.join(sorted(contents)) for file, contents in read.items()}
        write_json(run.folder / RECORD, record | {FILES: noted | found})


def _content(path: Path) -> str:
    """A checksum of a file; of a checkpoint, which says when and how fast it was trained, that of its weights.

    :raises RunError: if it cannot be read.
    """
    if path.suffix != ".pt":
        return sha256(path)
    import torch
    from fairseq import checkpoint_utils

    try:
        weights = checkpoint_utils.load_checkpoint_to_cpu(str(path))["model"]
    except (UserError, LookupError) as error:
        raise RunError(f"{path} cannot be read ({error}): remove it and give the same command again") from error
    found = hashlib.sha256()
    for name, tensor in sorted(weights.items()):
        found.update(name.encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()


def _is_trained(step: Step, *, ended: bool) -> bool:
    """Whether an interrupted training had made its last update: fairseq would make one more.

    Checkpoints that a training cannot go on from are set aside, so that it starts anew: of one that ended and whose
    checkpoint was removed since, or without the state of the optimiser.

    :param ended: whether the training came to its end before.
    :raises RunError: if the last checkpoint cannot be read.
    """
    assert step.checkpoints
    last = step.checkpoints / LAST
    if last.exists() and not ended:
        from fairseq import checkpoint_utils

        try:
            state = checkpoint_utils.load_checkpoint_to_cpu(str(last))
            ended = state["optimizer_history"][-1]["num_updates"] >= step.updates
        except (UserError, LookupError, TypeError) as error:
            raise RunError(
                f"{last} cannot be read ({error}): remove the folder {step.checkpoints} to train it again"
            ) from error
        if ended and _there(step.products):
            return True
        if not ended and state.get("last_optimizer_state") and not _RESETS.intersection(step.command):
            return False
        ended = True
    if ended and step.checkpoints.is_dir():
        number = 1
        while (aside := step.checkpoints.with_name(f"{step.checkpoints.name}.{number}")).exists():
            number += 1
        step.checkpoints.rename(aside)
    return False


def _call(step: Step, run: Run, environment: Mapping[str, str] | None, lock: int) -> None:
    log = run.folder / LOG
    with log.open("ab") as file:
        file.write(f"\n$ {' '.join(step.command)}\n".encode())
        file.flush()
        process = subprocess.Popen(
            [*_dying_with_us(), *step.command],
            env={**os.environ, **same_code(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            pass_fds=[lock],  # should it outlive this process, the run stays locked
        )
        _running.add(process)
        try:
            status = process.wait()
        finally:
            _running.discard(process)
        if status:
            raise RunError(f"{step.name} ended with status {status}; the end of {log}:\n{_ending(log)}")


_running: set[subprocess.Popen[bytes]] = set()


def stop_all() -> None:
    """Kill the commands that are running."""
    for process in list(_running):
        process.kill()


def _dying_with_us() -> list[str]:
    """What to put before a command so that it is killed when this process is, and does not go on unseen."""
    return ["setpriv", "--pdeathsig", "KILL", "--"] if shutil.which("setpriv") else []


def _result(run: Run) -> dict[str, Any]:
    result: dict[str, Any] = {
        "run": run.name, "label": run.label, "method": run.method, "heads": run.heads, "seed": run.seed,
        "scored": run.scored, "finished": time.strftime("%Y-%m-%d %H:%M:%S"), "version": version_of(run),
    }  # fmt: skip
    run_options = run.identity.get("options") or {}
    if run.scored:
        path = run.folder / SCORES
        try:
            scores = json.loads(path.read_text(encoding="utf-8"))[0]
            result["heads"] = scores["kept"]["kept"] if scores["kept"] else run.heads
        except (ValueError, LookupError, TypeError) as error:
            raise RunError(f"{path} cannot be read ({error}): remove it and give the same command again") from error
        result["scores"] = scores
        own = [p for step in run.steps for p in step.products if step.checkpoints or p.name == COMPACT_HEADS]
        result[FILES] = {str(p.relative_to(run.folder.parent)): _content(p) for p in own if p.is_file()}
        result[FILES] |= (read_json(run.folder / RECORD) or {}).get(FILES, {})
        if share := [f"{run_options[name]:.12g} of the {what}" for name, what in SHARES.items() if name in run_options]:
            result["share"] = share[0]
        if "l0-penalty" in run_options:
            result["penalty"] = float(run_options["l0-penalty"])
    trainings = [step.checkpoints for step in run.steps if step.checkpoints]
    result["training_seconds"] = training_seconds(run.folder / LOG, trainings)
    result["updates"] = updates_made(run.folder / LOG)
    if found := _PROCESSES.findall(read_log(run.folder / LOG)):
        result["processes"] = max(map(int, found))  # which is what the batches are multiplied by
    return result


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
