"""Do all runs of a study: train or prune, compact, translate, score.

A study is a YAML file: the corpus, the recipe, the methods, the head counts and the seeds; scripts/studies/ has some.
What several runs need, such as the unpruned model, is trained once. Every run leaves its result as soon as it has one,
in RESULTS/runs/RUN, with its log. Interrupted at any moment, the same command goes on from there. A run that fails is
told with the end of its log, and does not stop the others.

the keys of a study (* must be given):
  name*         letters, digits, - and _          description   a sentence or two, for the report
  data*         folder made by preprocess.sh, or folder (of fairseq-preprocess), references, bpe, tokenizer, lowercase
  recipe*       options of fairseq-train, without the dashes
  heads         numbers of heads K                seeds         default [1]
  base          options for the unpruned model    checkpoint    best (default) or last
  evaluate      split, beam, lenpen               compact       false: score pruned models with masks
  compare       a method, for the report          local         jobs, cores, gpus
  slurm         partition, minutes, gpus, cpus, memory_gb …
  extends       another study, a path from this file's folder: its keys count where this one has none, and options are
                merged one by one; the lists of heads, seeds and methods are replaced whole
  methods*      a list; of each method its name, or: method*, name, heads, seeds, options (of fairseq-train),
                recovery (options of a further training with the heads held fixed), start (base: go on from the
                unpruned model), distill (true: learn from the unpruned model's distribution too), and
                  joint       weights and importance train together (Li et al. 2021)
                  ste         the same with a straight-through gradient
                  pipelined   the importance alone trains, on the frozen base model
                  voita       penalties: the weights of the L0 penalty, or heads of its own (Voita et al. 2019)
                  michel      options of score-heads: split, sentences, steps (Michel et al. 2019)
                  range       low, high: one training for every K, drawn anew between the two at every update
                  unpruned    another model without pruning, such as a smaller one: options

examples:
  fairseq-dsp sweep scripts/studies/quickstart.yaml
  fairseq-dsp sweep my-study.yaml --data data/multi30k --results results/mine --jobs 2
  fairseq-dsp sweep my-study.yaml --slurm            (as the study's slurm: partition, minutes, gpus … say)
  fairseq-dsp sweep my-study.yaml --dry-run
  fairseq-dsp report results/mine
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import UserError
from . import given
from .atomic import write_json, write_text
from .cluster import check_options, run_on_slurm
from .local import Local, run_locally
from .results import STUDY, read_results, summary_table
from .runner import check_identity, is_done, progress, stop_all
from .runs import Run, expand
from .study import Study, read_study

_LOCAL_KEYS = ("jobs", "cores", "gpus")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("study", metavar="STUDY", type=Path, help="the study, a YAML file")
    parser.add_argument("--results", metavar="DIR", type=Path, help="where results go (default: results/NAME)")
    parser.add_argument("--data", metavar="DATA", help="prepared corpus, instead of the one that the study names")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: a GPU each, or a core each)")
    parser.add_argument("--cores", type=int, metavar="N", help="threads of a run (default: its share of the cores)")
    parser.add_argument("--gpus", metavar="LIST", help="GPUs to use, such as 0,1 (default: all; '' for none)")
    parser.add_argument("--slurm", action="store_true", help="run as SLURM jobs; the study's slurm says how")
    parser.add_argument("--dry-run", action="store_true", help="print the commands that are still to be run")
    given.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Do what is missing of a study and print a table.

    :raises UserError: if the study, the data or the results folder cannot be used, or a run failed.
    """
    study = read_study(args.study, data=args.data, text=given.given_by(args))
    results: Path = args.results or Path("results") / study.name
    local = _local(args, study)
    check_options(study.slurm)
    runs = expand(study, results)
    _check_study(results, study)
    for one in runs:
        check_identity(one)
    if args.dry_run:
        _print_commands(runs)
        return
    with _lock(results), _interruptible():
        _write_study(results, study, runs)
        failures = _do(runs, results, study, local, slurm=args.slurm)
    print(f"\n{summary_table(read_results(results))}\n")
    if failures:
        raise UserError(
            f"{len(failures)} of {len(runs)} runs failed ({', '.join(failures)}): mend the reason given above and "
            "start the sweep again, which does only what is missing"
        )
    print(f"All {len(runs)} runs are done. Tables and pictures: fairseq-dsp report {results}")


def _do(runs: list[Run], results: Path, study: Study, local: Local, *, slurm: bool) -> list[str]:
    from tqdm import tqdm

    done = {run.name for run in runs if is_done(run)}
    missing = [run for run in runs if run.name not in done]
    if done:
        print(f"{len(done)} of {len(runs)} runs are done already", file=sys.stderr)
    failures: list[str] = []
    total = sum(run.work for run in missing)
    form = "{desc} {percentage:3.0f}%|{bar}| {elapsed} passed, {remaining} left"
    bar = tqdm(
        total=total,
        bar_format=form,
        disable=not missing,
        dynamic_ncols=True,
        mininterval=1 if sys.stderr.isatty() else 10,
    )

    def tick() -> None:
        bar.n = min(total, sum(progress(run) for run in missing))
        bar.initial = min(bar.initial, bar.n)  # a resumed training goes back to its last checkpoint
        bar.set_description_str(f"{len(done)}/{len(runs)} runs", refresh=False)
        bar.update(0)
        if sys.stderr.isatty():
            bar.refresh()  # so that the time goes on where nothing else does

    def failed(run: Run, reason: str) -> None:
        failures.append(run.name)
        bar.write(f"run {run.name} failed: {reason}", file=sys.stderr)

    bar.n = sum(progress(run) for run in missing)
    bar.initial = bar.n  # what earlier sweeps did says nothing about the time left
    with bar:
        if slurm:
            folder = (results / "slurm").absolute()
            run_on_slurm(missing, study.slurm, folder, done=done, tick=tick, failed=failed)
        else:
            run_locally(missing, local, done=done, tick=tick, failed=failed)
        tick()
    return failures


def _local(args: argparse.Namespace, study: Study) -> Local:
    for key in study.local:
        if key not in _LOCAL_KEYS:
            raise UserError(f"local has an unknown key {key}: give some of {', '.join(_LOCAL_KEYS)}")
    options: dict[str, Any] = dict(study.local)
    options |= {key: getattr(args, key) for key in _LOCAL_KEYS if getattr(args, key) is not None}
    for key in ("jobs", "cores"):
        if options.get(key) is not None and type(options[key]) is not int:  # true is an int, too
            raise UserError(f"local: {key} is {options[key]!r}, but a number is expected")
    gpus = options.get("gpus")
    if gpus is not None:
        gpus = [name for name in str(gpus).strip("[]").replace(" ", "").split(",") if name]
    return Local.of(options.get("jobs"), options.get("cores"), gpus)


def _check_study(results: Path, study: Study) -> None:
    path = results / STUDY
    try:
        there = json.loads(path.read_text(encoding="utf-8"))["name"]
    except FileNotFoundError:
        if results.is_dir() and any(entry.name != ".lock" for entry in results.iterdir()):
            raise UserError(
                f"{results} is not empty, and no sweep made it: give another folder with --results"
            ) from None
        return
    except NotADirectoryError as error:
        raise UserError(f"{results} is not a folder: give another one with --results") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): give another folder with --results") from error
    if there != study.name:
        raise UserError(f"{results} holds the study {there}, not {study.name}: give another folder with --results")


def _write_study(results: Path, study: Study, runs: list[Run]) -> None:
    """Leave beside the results what the report needs of the study and of the corpus."""
    content = {
        "name": study.name,
        "description": study.description,
        "total": study.total,
        "checkpoint": study.checkpoint,
        "split": study.split,
        "beam": study.beam,
        "data": study.data.summary,
        "methods": [{"name": name, "method": kind} for name, kind in {m.name: m.method for m in study.methods}.items()],
        "compare": study.compare,
        "runs": [run.name for run in runs if run.scored],
    }
    path = results / STUDY
    if not path.exists() or json.loads(path.read_text(encoding="utf-8")) != json.loads(json.dumps(content)):
        write_text(results / "references.txt", "".join(line + "\n" for line in study.data.references(study.split)))
        write_json(path, content)


def _print_commands(runs: list[Run]) -> None:
    for run in runs:
        if is_done(run):
            print(f"# {run.name}: done")
            continue
        print(f"# {run.name}" + (f", after {', '.join(run.needs)}" if run.needs else ""))
        for step in run.steps:
            print(shlex.join(step.command) + (f" > {shlex.quote(str(step.output))}" if step.output else ""))


@contextlib.contextmanager
def _lock(results: Path) -> Iterator[None]:
    """Keep other sweeps out of the results folder; the system frees the lock however this process ends."""
    try:
        results.mkdir(parents=True, exist_ok=True)
        file = (results / ".lock").open("a+", encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"{results} cannot be written ({error.strerror}): give another folder with --results"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            raise UserError(
                f"another sweep ({file.read().strip() or 'unknown process'}) is at work in {results}: wait until it "
                "ends, or give another folder with --results"
            ) from error
        with contextlib.suppress(OSError):  # on a full disk the lock holds, and the first result that is lost says so
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {os.uname().nodename}".encode())
        yield


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """On Ctrl-C or a request to terminate, kill the commands and say how to go on."""

    def stop(number: int, _: object) -> None:
        stop_all()
        print("\nstopped: start the same sweep again, and it does only what is missing", file=sys.stderr, flush=True)
        os._exit(128 + number)  # threads still wait for the commands

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except BaseException:
        stop_all()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
