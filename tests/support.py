"""What tests and the long proofs share: fairseq's tools as subprocesses, a tiny corpus, a tiny model."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

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


def fairseq_command(tool: str, *args: object) -> list[str]:
    """The command line of a fairseq tool (``train``, ``generate``, ``hydra_train`` …) under this very Python."""
    return [sys.executable, "-m", f"fairseq_cli.{tool}", *map(str, args)]


def tiny_train_args(
    data: Path, save_dir: Path, *flags: object, arch: str = "transformer", plugin: Path = PLUGIN
) -> list[str]:
    """Arguments of fairseq-train for the tiny model; *flags* come last and win."""
    args = [data, "--user-dir", plugin, "--save-dir", save_dir, "--arch", arch, *TINY_MODEL, *TINY_TRAINING, *flags]
    return list(map(str, args))


def environment(**extra: str) -> dict[str, str]:
    """This environment with one thread (so that sums have one order), and without what changes imports or loading."""
    dropped = ("PYTHONPATH", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "LOGLEVEL")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", **extra}


def run(
    command: Sequence[str], *, cwd: Path = REPOSITORY, check: bool = True, timeout: float = 300, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, with *variables* added to the environment.

    Returns:
        The finished process; ``stdout`` holds standard error too, in the order printed.

    Raises:
        AssertionError: with *check*, when the exit status is not 0; it shows all that the command printed.
    """
    done = subprocess.run(
        list(command),
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
        raise AssertionError(f"exit status {done.returncode} of {' '.join(command)}\n{done.stdout}")
    return done


def make_tiny_data(folder: Path) -> Path:
    """Make a tiny corpus in *folder*, have fairseq binarise it, and return the data-bin folder."""
    write_tiny_corpus(folder)
    prefixes = [word for split in ("train", "valid", "test") for word in (f"--{split}pref", folder / split)]
    languages = ("--source-lang", "xx", "--target-lang", "yy")
    run(fairseq_command("preprocess", *languages, *prefixes, "--destdir", folder / "data-bin"))
    return folder / "data-bin"


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
