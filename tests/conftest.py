"""Shared by all tests: a tiny corpus binarised by fairseq itself, and its command-line tools as subprocesses."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
PLUGIN = REPOSITORY / "fairseq_dsp"  # what --user-dir takes

# A translation model of 2 + 2 layers with 2 heads each that trains 20 updates in a second or two.
TINY_MODEL = (
    "--encoder-layers 2 --decoder-layers 2 --encoder-embed-dim 16 --decoder-embed-dim 16 --encoder-ffn-embed-dim 32 "
    "--decoder-ffn-embed-dim 32 --encoder-attention-heads 2 --decoder-attention-heads 2 --dropout 0.1"
).split()
TINY_TRAINING = (
    "--optimizer adam --lr 0.005 --lr-scheduler inverse_sqrt --warmup-updates 4 --label-smoothing 0.1 "
    "--criterion label_smoothed_cross_entropy --max-tokens 400 --max-update 20 --seed 7 --num-workers 0 "
    "--log-format simple --log-interval 5 --no-progress-bar --no-epoch-checkpoints"
).split()

RunFairseq = Callable[..., "subprocess.CompletedProcess[str]"]


def fairseq_command(tool: str, *args: object) -> list[str]:
    """The command line of a fairseq tool (``train``, ``generate``, ``hydra_train`` …) under this very Python."""
    return [sys.executable, "-m", f"fairseq_cli.{tool}", *map(str, args)]


def fairseq_environment(**extra: str) -> dict[str, str]:
    """One thread (so that sums have one order), without the caller's PYTHONPATH and torch's loading switches."""
    dropped = ("PYTHONPATH", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **extra}


def run_python(
    command: Sequence[str], *, cwd: Path = REPOSITORY, check: bool = True, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; with *check*, a failure fails the test with all that the command printed.

    Returns:
        The finished process; ``stdout`` holds standard error too, in the order printed.
    """
    done = subprocess.run(
        list(command), cwd=cwd, env=fairseq_environment(**environment), timeout=timeout,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8", stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if check and done.returncode != 0:
        pytest.fail(f"exit status {done.returncode} of {' '.join(map(str, command))}\n{done.stdout}", pytrace=False)
    return done


@pytest.fixture(scope="session")
def run_fairseq() -> RunFairseq:
    """``run_fairseq("train", DATA, "--arch", …, check=True, cwd=…, timeout=…, VARIABLE="value")``, see `run_python`."""

    def run(tool: str, *args: object, **options: object) -> subprocess.CompletedProcess[str]:
        return run_python(fairseq_command(tool, *args), **options)  # type: ignore[arg-type]

    return run


@pytest.fixture(scope="session")
def train_tiny(run_fairseq: RunFairseq, tiny_data: Path) -> RunFairseq:
    """``train_tiny(SAVE_DIR, *flags, arch="transformer", plugin=PLUGIN)`` trains 20 updates; later flags win."""

    def train(
        save_dir: Path, *flags: object, arch: str = "transformer", plugin: Path = PLUGIN, **options: object
    ) -> subprocess.CompletedProcess[str]:
        return run_fairseq("train", *tiny_train_args(tiny_data, save_dir, *flags, arch=arch, plugin=plugin), **options)

    return train


def tiny_train_args(
    data: Path, save_dir: Path, *flags: object, arch: str = "transformer", plugin: Path = PLUGIN
) -> list[str]:
    """Arguments of fairseq-train for the tiny model; *flags* come last and win."""
    args = [data, "--user-dir", plugin, "--save-dir", save_dir, "--arch", arch, *TINY_MODEL, *TINY_TRAINING, *flags]
    return list(map(str, args))


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory: pytest.TempPathFactory, run_fairseq: RunFairseq) -> Path:
    """A data-bin folder (languages ``xx`` → ``yy``): 200 training, 20 validation and 20 test pairs of invented words.

    The translation reverses a sentence word by word, so that a model has something to learn. Always the same.
    """
    folder = tmp_path_factory.mktemp("tiny")
    write_tiny_corpus(folder)
    run_fairseq(
        "preprocess", "--source-lang", "xx", "--target-lang", "yy", "--trainpref", folder / "train",
        "--validpref", folder / "valid", "--testpref", folder / "test", "--destdir", folder / "data-bin",
    )  # fmt: skip
    return folder / "data-bin"


def write_tiny_corpus(folder: Path) -> None:
    """Write train, valid and test text of the language pair ``xx``-``yy`` into *folder*; no two source lines agree."""
    draw = random.Random(20260101)
    words = [a + b for a in "bdfgklmnpr" for b in "aio"]
    seen: set[tuple[str, ...]] = set()
    for split, size in (("train", 200), ("valid", 20), ("test", 20)):
        pairs: list[tuple[str, str]] = []
        while len(pairs) < size:
            source = tuple(draw.choice(words) for _ in range(draw.randint(3, 9)))
            if source not in seen:
                seen.add(source)
                pairs.append((" ".join(source), " ".join(word.upper() for word in reversed(source))))
        for language, side in (("xx", 0), ("yy", 1)):
            text = "".join(pair[side] + "\n" for pair in pairs)
            (folder / f"{split}.{language}").write_text(text, encoding="utf-8")
