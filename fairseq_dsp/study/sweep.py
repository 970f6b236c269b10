"""Do all runs of a study: train or prune, compact, translate, score.

A study is a YAML file: the corpus, the recipe, the methods, the head counts and the seeds; scripts/studies/ has some.
What several runs need, such as the unpruned model, is trained once. Each run writes its result and its log to
RESULTS/runs/RUN. After an interruption, run the same command again: it does what is missing. A run that fails is
reported with the end of its log, and does not stop the others. Each run is done by one process at a time: a sweep
that is started again, with or without --slurm, waits for runs that jobs of an earlier sweep are still doing.

Before the first training, the sweep checks the options of every training, that each training writes the checkpoint
that the study evaluates, and the texts to train, validate and score on.

Checkpoints may be removed to save space: finished runs stay finished, and what a new run needs of them is made again.
Where a model that is trained again has other weights than before, the tables say which runs have which.
A run's record, run.json, holds its options as fairseq resolved them, defaults included, and the version of this
package. A changed study, or a version with other defaults, continues where the change has no effect on existing
results: options for logging or data loading; another checkpoint, text or beam before there are scores. Otherwise it
is refused with the differences, and nothing is removed: results of different origin are never mixed. Results of
another version with the same options stay, and the tables say so. To score runs again without training, remove their
result.json.

the keys of a study (* must be given):
  name*         letters, digits, - and _          description   a sentence or two, for the report
  data*         folder made by preprocess.sh, or folder (of fairseq-preprocess), references, bpe, tokenizer, lowercase
  recipe*       options of fairseq-train, without the dashes
  heads         numbers of heads K                seeds         default [1]
  parameters-to-keep, flops-to-keep               instead of heads: shares of the cost of heads and feed-forward units
  base          options for the unpruned model; or checkpoint: a trained one, instead of training it, whose sizes are
                the recipe's
  checkpoint    best (default) or last
  evaluate      split, beam, lenpen, max-len-a, max-len-b
  compact       false: score pruned models with masks
  compare       a method, for the report          local         jobs, cores, gpus
  pretrained    checkpoint that trainings start from: its sizes are the recipe's
  slurm         partition, account, qos, constraint, minutes, cpus, gpus, nodes, memory_gb; at_a_time: jobs of an array
                that run at once; array_size: jobs of an array at most (default: what the cluster takes); requeues: how
                often a job may run out of time (default 100); setup: lines for the shell; additional: options of sbatch
  extends       another study, a path from this file's folder: its keys count where this one has none, and options are
                merged one by one; the lists of heads, seeds and methods are replaced whole
  methods*      a list; of each method its name, or: method*, name (for file names and compare), title (for tables and
                pictures), heads or parameters-to-keep or flops-to-keep (the last two for joint, ste
                and pipelined), seeds, options (of fairseq-train), recovery (options of a further training with the
                heads held fixed), start (base: go on from the unpruned model; joint, ste, random and range, and their
                recovery, do so with the recipe of `fairseq-dsp prune`, where their options say nothing), distill
                (true: learn from the unpruned model's translations of the training text too), and
                  joint       weights and importance train together (Li et al. 2021)
                  ste         the same with a straight-through gradient
                  pipelined   the importance alone trains, on the frozen base model
                  voita       penalties: the weights of the L0 penalty, or heads of its own (Voita et al. 2019), from
                              the unpruned model
                  michel      options of score-heads: split, sentences, steps (Michel et al. 2019); compensate (true:
                              the output projections are fitted to the chosen heads, and a recovery has the learning
                              rate of `fairseq-dsp prune`, where its options say nothing)
                  random      heads drawn by the seed, one in cross-attention at least, fixed from the first update,
                              from the unpruned model for as many updates as joint, or start: scratch; with
                              ffn-units-to-keep in its options feed-forward units, too
                  structure   of: a method, whose heads are trained from scratch with new weights
                  range       low, high: one training for every K between the two, start: base from the unpruned model;
                              a recovery starts from that of the next larger number of heads, if there is one: a
                              number that is added later changes those of smaller ones
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
import json
import os
import re
import shlex
import signal
import sys
from collections.abc import Container, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import STOPPED, UserError
from ..evaluation import preprocessed
from ..files import holds_nothing, read_json, write_json, write_text
from .checks import check_runs
from .cluster import run_on_slurm
from .local import Local, run_locally
from .lock import LockedError, locked
from .records import RECORD, check_records, stale_steps
from .results import REFERENCES, STUDY, read_results, summary_table
from .runner import LOCK, is_done, missing_steps, progress, stop_all, with_wanted
from .runs import RUNS, Run, expand
from .slurm import DEFAULTS
from .slurm_options import check_options
from .study_file import Study, read_study

_LOCAL_KEYS = ("jobs", "cores", "gpus")
_GPU = re.compile(r"\d+|(GPU|MIG)-[\w/-]+")
"""What ``CUDA_VISIBLE_DEVICES`` may call a GPU."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("study", metavar="STUDY", type=Path, help="the study, a YAML file")
    parser.add_argument("--results", metavar="DIR", type=Path, help="where results go (default: results/NAME)")
    parser.add_argument("--data", metavar="DATA", help="prepared corpus, instead of the one that the study names")
    parser.add_argument("--jobs", type=int, metavar="N", help="runs at a time (default: one a GPU, or a core, up to 4)")
    parser.add_argument("--cores", type=int, metavar="N", help="threads of a run (default: its share of the cores)")
    parser.add_argument("--gpus", metavar="LIST", help="GPUs to use, such as 0,1 (default: all; '' for none)")
    parser.add_argument("--slurm", action="store_true", help="run as SLURM jobs; the study's slurm says how")
    parser.add_argument("--dry-run", action="store_true", help="print what is still to be run, and SLURM's jobs")
    preprocessed.add_arguments(parser)


def run(args: argparse.Namespace) -> None:
    """Do what is missing of a study and print a table.

    :raises UserError: if the study, the data or the results folder cannot be used, or a run failed.
    """
    study = read_study(args.study, data=args.data, text=preprocessed.given_by(args))
    results: Path = args.results or Path("results") / study.name
    local = local_of(args, study)
    if args.slurm and (given := [f"--{key}" for key in _LOCAL_KEYS if getattr(args, key) is not None]):
        raise UserError(
            f"--slurm is given with {', '.join(given)}, which divides this machine: leave one out; the study's slurm "
            "says how many jobs run at a time (at_a_time), and what each has"
        )
    check_options(study.slurm)
    _check_study(results, study)
    runs = checked_runs(study, results)
    if args.dry_run:
        if args.slurm or study.slurm:
            print(slurm_jobs(study, runs))
        print_commands(runs)
        return
    with alone(results), interruptible():
        write_study(results, study, runs)
        failures = do_runs(runs, results, study, local, slurm=args.slurm)
    print(f"\n{summary_table(read_results(results))}\n")
    if failures:
        raise UserError(
            f"{len(failures)} of {len(runs)} runs failed ({', '.join(failures)}): fix the cause reported above, then "
            "start the sweep again, which does only what is missing"
        )
    print(f"All {len(runs)} runs are done. Tables and pictures: fairseq-dsp report {results}")


def checked_runs(study: Study, results: Path) -> list[Run]:
    """Return the runs of a study, with what is to be done of each; what the user should know is printed.

    :raises UserError: if one cannot be done, or the folder holds runs that were made in another way.
    """
    try:
        expanded = expand(study, results)
    except ValueError as error:
        raise UserError(f"the study {study.name}: {error}") from error
    runs = check_runs(study, with_wanted(expanded))
    for text in check_records(runs, finished=all(map(is_done, runs))):
        print(text, file=sys.stderr)
    return with_wanted(runs, stale_steps)


def do_runs(runs: Sequence[Run], results: Path, study: Study, local: Local, *, slurm: bool = False) -> list[str]:
    """Do what is missing of some runs, with a progress bar and the time left.

    :return: the names of the runs that failed; each is reported with the end of its log.
    """
    from tqdm import tqdm

    def say(text: str) -> None:
        bar.write(text, file=sys.stderr)

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
        bar.set_description_str(f"{len(done)}/{len(runs)} runs{_at(missing, done)}", refresh=False)
        bar.update(0)
        if sys.stderr.isatty():
            bar.refresh()  # so that the time goes on where nothing else does

    def failed(run: Run, reason: str) -> None:
        failures.append(run.name)
        say(f"run {run.name} failed: {reason}")

    bar.n = sum(progress(run) for run in missing)
    bar.initial = bar.n  # what earlier sweeps did says nothing about the time left
    with bar:
        if slurm:
            folder = (results / "slurm").absolute()
            run_on_slurm(missing, study.slurm, folder, done=done, tick=tick, failed=failed, say=say)
        else:
            local.check_gpus()
            run_locally(missing, local, done=done, tick=tick, failed=failed, say=say)
        tick()
    return failures


def _at(runs: Sequence[Run], done: Container[str]) -> str:
    """Say the next step of the first run that may go on."""
    run = next((run for run in runs if run.name not in done and all(name in done for name in run.needs)), None)
    steps = missing_steps(run) if run else []
    return f" ({run.name}: {steps[0].name})" if run and steps else ""


def local_of(args: argparse.Namespace, study: Study) -> Local:
    """Return what the study and the command line, which wins, give of this machine.

    :raises UserError: for a key that there is not, or a value of another type.
    """
    for key in study.local:
        if key not in _LOCAL_KEYS:
            raise UserError(f"local has an unknown key {key}: give some of {', '.join(_LOCAL_KEYS)}")
    options: dict[str, Any] = dict(study.local)
    options |= {key: getattr(args, key) for key in _LOCAL_KEYS if getattr(args, key) is not None}
    for key in ("jobs", "cores"):
        if options.get(key) is not None and type(options[key]) is not int:  # true is an int, too
            raise UserError(f"local: {key} is {options[key]!r}, but a number is expected")
    gpus = options.get("gpus")
    if isinstance(gpus, str):
        gpus = [name for name in gpus.replace(" ", "").strip("[]").split(",") if name]
    if gpus is not None:
        if not isinstance(gpus, list) or not all(_GPU.fullmatch(str(name)) for name in gpus):
            raise UserError(f"local: gpus is {gpus!r}, but a list of GPUs is expected, such as [0, 1], or [] for none")
        gpus = [str(name) for name in gpus]
    return Local.of(options.get("jobs"), options.get("cores"), gpus)


def _check_study(results: Path, study: Study) -> None:
    path = results / STUDY
    try:
        there = json.loads(path.read_text(encoding="utf-8"))["name"]
    except NotADirectoryError as error:
        raise UserError(f"{results} is not a folder: give another one with --results") from error
    except PermissionError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give another folder with --results") from error
    except (OSError, ValueError, KeyError, TypeError):  # missing or broken: it is written anew beside a sweep's runs
        ours = next(results.glob(f"{RUNS}/*/{RECORD}"), None) is not None
        if not ours and results.is_dir() and not holds_nothing(results, LOCK):
            raise UserError(
                f"{results} is not empty, and no sweep made it: give another folder with --results"
            ) from None
        return
    if there != study.name:
        raise UserError(f"{results} holds the study {there}, not {study.name}: give another folder with --results")


def write_study(results: Path, study: Study, runs: Sequence[Run]) -> None:
    """Leave beside the results what the report needs of the study and of the corpus."""
    content = {
        "name": study.name,
        "description": study.description,
        "total": study.total,
        "checkpoint": study.checkpoint,
        "split": study.split,
        "beam": study.beam,
        "data": study.data.summary,
        "methods": [
            {"name": name, "method": m.method, "title": m.title or name}
            for name, m in {m.name: m for m in study.methods}.items()
        ],
        "compare": study.compare,
        "given_base": study.trained is not None,
        "runs": [run.name for run in runs if run.scored],
        "labels": {run.name: run.label for run in runs},
    }
    path, references = results / STUDY, results / REFERENCES
    changed = read_json(path) != json.loads(json.dumps(content))
    if changed:
        write_json(path, content)  # the first file: it says whose folder this is
    if not changed and references.exists() and all(is_done(run) for run in runs if run.scored):
        return  # without the corpus, which may be gone
    text = "".join(line + "\n" for line in study.data.references(study.split))
    if not references.exists() or references.read_bytes() != text.encode():
        write_text(references, text)


def slurm_jobs(study: Study, runs: Sequence[Run]) -> str:
    """Return what ``--slurm`` would ask the cluster for: a job a run, in arrays of runs that need no other first."""
    todo = [run for run in runs if not is_done(run)]
    depth: dict[str, int] = {}
    for run in todo:  # those first that others need
        depth[run.name] = 1 + max((depth[name] for name in run.needs if name in depth), default=0)
    arrays = ", then ".join(str(sum(d == level for d in depth.values())) for level in sorted(set(depth.values())))
    settings = {"partition": "the cluster's default"} | DEFAULTS | study.slurm
    asked = "; ".join(f"{key} {value}" for key, value in settings.items())
    return f"# with --slurm: {arrays or 'no'} jobs, one a run; of each: {asked}"


def print_commands(runs: Sequence[Run]) -> None:
    """Print the commands that are still to be run."""
    for run in runs:
        if is_done(run):
            print(f"# {run.name}: done")
            continue
        print(f"# {run.name}" + (f", after {', '.join(run.needs)}" if run.needs else ""))
        for step in missing_steps(run, stale_steps(run)):
            print(shlex.join(step.command))


@contextlib.contextmanager
def alone(results: Path, command: str = "sweep") -> Iterator[None]:
    """Keep other commands out of the results folder; the system frees the lock however this process ends."""
    try:
        with locked(results / LOCK, lambda text: print(text, file=sys.stderr)):
            yield
    except LockedError as error:
        raise UserError(
            f"another {command} ({error}) is running in {results}: wait until it ends, or give another folder"
        ) from error


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """On Ctrl-C or a request to terminate, kill the commands and say how to go on."""

    def stop(number: int, _: object) -> None:
        stop_all()
        print(f"\n{STOPPED}", file=sys.stderr, flush=True)
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
