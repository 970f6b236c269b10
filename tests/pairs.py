"""A tiny corpus of sentence pairs with labels, and trainings of a tiny RoBERTa on it."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inprocess
import pytest
import support
from fairseq import metrics, options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli.train import main

LABELS = ("entailment", "neutral", "contradiction")

TASK = (
    "--task sentence_prediction --criterion sentence_prediction --num-classes 3 --init-token 0 --separator-token 2"
).split()
"""fairseq's task, as its recipe has it."""

TRAINING = (
    TASK
    + (
        "--arch roberta_dsp_tiny --max-positions 40 --optimizer adam --lr 0.005 --lr-scheduler polynomial_decay "
        "--warmup-updates 4 --total-num-update 20 --batch-size 16 --max-update 20 --seed 7 --num-workers 0 --cpu "
        "--best-checkpoint-metric accuracy --maximize-best-checkpoint-metric --required-batch-size-multiple 1 "
        "--log-format simple --log-interval 5 --no-progress-bar --no-epoch-checkpoints"
    ).split()
)
"""fairseq's recipe of fine-tuning, with a tiny model: 2 layers of 2 heads."""


def write(folder: Path, encode: Callable[[str], str] = str) -> None:
    """Write 200 training, 20 validation and 20 test pairs: the label says whether the second sentence is the first.

    :param encode: makes a sentence its subwords.
    """
    draw = random.Random(5)
    words = [consonant + vowel for consonant in "bdfgklmnpr" for vowel in "aio"]
    for split, size in (("train", 200), ("valid", 20), ("test", 20)):
        rows = []
        for _ in range(size):
            first = [draw.choice(words) for _ in range(draw.randint(2, 7))]
            label = draw.choice(LABELS)
            second = {"entailment": first, "contradiction": ["no", *first], "neutral": first[::-1] + first[:1]}[label]
            rows.append((encode(" ".join(first)), encode(" ".join(second)), label))
        for name, column in zip(("input0", "input1", "label"), zip(*rows, strict=True), strict=True):
            (folder / f"{split}.{name}").write_text("".join(f"{line}\n" for line in column), encoding="utf-8")


def make(folder: Path, *, dictionary: Path | None = None, encode: Callable[[str], str] = str) -> Path:
    """Write the corpus into *folder*, binarise it as fairseq's recipe does, and return the data-bin.

    :param dictionary: of the model; by default one of all the words.
    :param encode: makes a sentence its subwords.
    """
    write(folder, encode)
    vocabulary = dictionary or folder / "dict.txt"
    if dictionary is None:
        words = sorted({word for side in "01" for word in (folder / f"train.input{side}").read_text().split()})
        vocabulary.write_text("".join(f"{word} 1\n" for word in words))
    for name in ("input0", "input1", "label"):
        prefixes = [
            word for split in ("train", "valid", "test") for word in (f"--{split}pref", folder / f"{split}.{name}")
        ]
        given = [] if name == "label" else ["--srcdict", vocabulary]
        support.run_fairseq("preprocess", "--only-source", *prefixes, "--destdir", folder / "data-bin" / name, *given)
    return folder / "data-bin"


@pytest.fixture(scope="session")
def pair_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The corpus as `make` leaves it; nothing writes into it."""
    return make(tmp_path_factory.mktemp("pairs"))


def config(data: Path, save_dir: Path, *flags: object) -> Any:
    """What ``fairseq-train`` makes of its command line; later flags win."""
    argv = list(map(str, [data, "--user-dir", support.PLUGIN, "--save-dir", save_dir, *TRAINING, *flags]))
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), argv))


def train(data: Path, save_dir: Path, *flags: object) -> dict[str, Any]:
    """Train in this process; return the last checkpoint."""
    metrics.reset()
    main(config(data, save_dir, *flags))
    return inprocess.checkpoint(save_dir)
