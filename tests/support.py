"""What tests and the long proofs share: fairseq's tools as processes of their own, a tiny corpus, a tiny model."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import types
from collections.abc import Callable, Iterable, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
PLUGIN = REPOSITORY / "fairseq_dsp"  # what --user-dir takes

# A translation model of 2 + 2 layers with 2 heads each (12 heads in all) that trains 20 updates in a second or two.
TINY_MODEL = (
    "--encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 16 --decoder-embed-dim 16 --encoder-ffn-embed-dim 32 "
    "--decoder-ffn-embed-dim 32 --encoder-attention-heads 2 --decoder-attention-heads 2 --dropout 0.1"
).split()
TINY_TRAINING = (
    "--optimizer adam --lr 0.005 --lr-scheduler inverse_sqrt --warmup-updates 4 --label-smoothing 0.1 "
    "--criterion label_smoothed_cross_entropy --max-tokens 400 --max-update 20 --seed 7 --num-workers 0 "
    "--log-format simple --log-interval 5 --no-progress-bar --no-epoch-checkpoints"
).split()


# Importing fairseq takes a process 4 seconds, and torch's first optimiser 2 more. A server that has imported it, and no
# plugin, forks the processes that run fairseq's tools: each is as good as a new one, and starts at once.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.preloaded"])


def environment(**variables: str) -> dict[str, str]:
    """This environment with one thread, without the caller's PYTHONPATH, and with *variables*."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, "OMP_NUM_THREADS": "1", **variables}


def heed_interrupts() -> None:
    """What a shell runs in the background ignores interrupts, and so does all that it starts."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def mostly_slow(cases: Iterable[Any], *quick: Any) -> list[Any]:
    """Cases for ``pytest.mark.parametrize``, marked slow but for *quick* ones."""
    import pytest  # not at the top, which each process that a test forks imports

    values = [(case, case if isinstance(case, tuple) else (case,)) for case in cases]
    return [pytest.param(*value, marks=() if case in quick else pytest.mark.slow) for case, value in values]


def tiny_train_args(
    data: Path, save_dir: Path, *flags: object, arch: str = "transformer", plugin: Path = PLUGIN
) -> list[str]:
    """Arguments of fairseq-train for the tiny model; *flags* come last and win."""
    args = [data, "--user-dir", plugin, "--save-dir", save_dir, "--arch", arch, *TINY_MODEL, *TINY_TRAINING, *flags]
    return list(map(str, args))


def train_adaptive(data: Path, save_dir: Path, *flags: object, arch: str = "transformer") -> None:
    """Train the tiny model for an update with an adaptive softmax, whose loss has no label smoothing."""
    words = ("--criterion", "adaptive_loss", "--ddp-backend", "legacy_ddp", "--adaptive-softmax-cutoff", 10)
    args = tiny_train_args(data, save_dir, *words, "--max-update", 1, *flags, arch=arch)
    at = args.index("--label-smoothing")
    run_fairseq("train", *args[:at], *args[at + 2 :])


def start_fairseq(
    tool: str,
    args: Sequence[object],
    log: Path,
    *,
    cwd: Path = REPOSITORY,
    stdin: Path | str = os.devnull,
    before: Callable[[], None] | None = None,
    **variables: str,
) -> ForkServerProcess:
    """Start a fairseq tool (``train``, ``generate``, ``hydra_train`` …), or ``dsp``, in a process of its own.

    :param log: gets what the tool prints, standard output and error in the order printed.
    :param stdin: a file that it reads as standard input.
    :param before: called in the new process first; a function of a module.
    :param variables: added to the environment.
    """
    command = [f"fairseq-{tool.replace('_', '-')}", *map(str, args)]
    process = processes.Process(target=_be_fairseq, args=(tool, command, log, cwd, stdin, before, variables))
    process.start()
    return process


def run_fairseq(
    tool: str, *args: object, check: bool = True, timeout: float = 300, **options
) -> subprocess.CompletedProcess[str]:
    """Run a fairseq tool to its end; *options* are those of `start_fairseq`.

    :return: the finished process; ``stdout`` holds standard error too, in the order printed.

    :raises AssertionError: if it takes more than *timeout* seconds or, with *check*, when the exit status is not
        0; it shows all that the tool printed.
    """
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        process = start_fairseq(tool, args, log, **options)
        process.join(timeout)
        ended = process.exitcode is not None
        process.kill()
        process.join()
        printed = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    done = subprocess.CompletedProcess([tool, *map(str, args)], process.exitcode or 0, printed)
    if not ended or (check and done.returncode != 0):
        why = f"exit status {done.returncode}" if ended else f"more than {timeout} s"
        raise AssertionError(f"{why}: fairseq {' '.join(done.args)}\n{printed}")
    return done


def run_command(
    command: Sequence[object], *, cwd: Path = REPOSITORY, check: bool = True, timeout: float = 300, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run any command to its end, like `run_fairseq`, in a wholly new process with the `environment` above."""
    words = list(map(str, command))
    done = subprocess.run(
        words,
        cwd=cwd,
        env=environment(**variables),
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    if check and done.returncode != 0:
        raise AssertionError(f"exit status {done.returncode}: {' '.join(words)}\n{done.stdout}")
    return done


def _be_fairseq(
    tool: str,
    command: list[str],
    log: Path,
    cwd: Path,
    stdin: Path | str,
    before: Callable[[], None] | None,
    variables: dict[str, str],
) -> None:
    """Turn this forked process into what the shell would have started with *command*."""
    printed = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(os.open(stdin, os.O_RDONLY), 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 — what multiprocessing put there is empty
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    os.chdir(cwd)
    os.environ.update(variables)
    sys.argv = command
    sys.modules["__main__"] = types.ModuleType("__main__")
    multiprocessing.set_start_method(None, force=True)  # the server's own would start another server for each worker
    try:
        if before is not None:
            before()
        if tool == "dsp":
            sys.exit(importlib.import_module("fairseq_dsp.cli").main(command[1:]))
        importlib.import_module(f"fairseq_cli.{tool}").cli_main()
    except SystemExit:
        raise
    except BaseException:
        sys.excepthook(*sys.exc_info())
        sys.exit(1)


def make_tiny_data(folder: Path, *flags: object) -> Path:
    """Make a tiny corpus in *folder*, have fairseq-preprocess binarise it with *flags*, and return the data-bin."""
    write_tiny_corpus(folder)
    prefixes = [word for split in ("train", "valid", "test") for word in (f"--{split}pref", folder / split)]
    languages = ("--source-lang", "xx", "--target-lang", "yy")
    run_fairseq("preprocess", *languages, *prefixes, "--destdir", folder / "data-bin", *flags)
    return folder / "data-bin"


def named_other_way_round(data_bin: Path, folder: Path) -> Path:
    """Copy the corpus as ``fairseq-preprocess -s yy -t xx`` names its files."""
    folder.mkdir()
    for path in data_bin.iterdir():
        shutil.copy(path, folder / path.name.replace(".xx-yy.", ".yy-xx."))
    return folder


def write_tiny_corpus(folder: Path) -> None:
    """Write 200 training, 20 validation and 20 test pairs of ``xx`` → ``yy`` into *folder*, always the same ones.

    The words are invented, and the translation reverses a sentence word by word, so that a model has something to
    learn. No two source lines agree.
    """
    draw = random.Random(20260101)
    words = [consonant + vowel for consonant in "bdfgklmnpr" for vowel in "aio"]
    seen: set[tuple[str, ...]] = set()
    for split, size in (("train", 200), ("valid", 20), ("test", 20)):
        pairs: list[tuple[str, str]] = []
        while len(pairs) < size:
            source = tuple(draw.choice(words) for _ in range(draw.randint(3, 9)))
            if source not in seen:
                seen.add(source)
                pairs.append((" ".join(source), " ".join(word.upper() for word in reversed(source))))
        for side, language in enumerate(("xx", "yy")):
            text = "".join(pair[side] + "\n" for pair in pairs)
            (folder / f"{split}.{language}").write_text(text, encoding="utf-8")
