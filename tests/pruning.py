"""``fairseq-dsp prune`` in the tests: a stock model, what the command made of it, and the command in this process."""

from __future__ import annotations

import contextlib
import io
from argparse import ArgumentParser
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from studies import be_quick

from fairseq_dsp.errors import UserError
from fairseq_dsp.study import prune

SHORT = ["--max-update", "20", "--log-interval", "5"]


@pytest.fixture(scope="session")
def stock_checkpoint(tmp_path_factory: pytest.TempPathFactory, train_tiny: Callable[..., Any]) -> Path:
    """A trained model of stock fairseq's ``transformer``, with 12 heads, dropout and an optimiser of its own."""
    folder = tmp_path_factory.mktemp("stock")
    flags = ("--attention-dropout", 0.1, "--dropout", 0, "--adam-betas", "(0.9, 0.98)", "--weight-decay", 1e-4)
    train_tiny(folder, *flags, "--lr", 0.01, "--update-freq", 2, "--source-lang", "xx", "--target-lang", "yy")
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="session")
def pruned_out(tmp_path_factory: pytest.TempPathFactory, stock_checkpoint: Path, prepared: Path) -> tuple[Path, str]:
    """The stock model pruned to 6 and to 3 heads: OUT, and what was printed."""
    out = tmp_path_factory.mktemp("pruned") / "out"
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(io.StringIO()) as printed,
        contextlib.redirect_stderr(printed),
    ):
        be_quick(patch)
        call(stock_checkpoint, prepared, out, *SHORT, heads=[6, 3])
    return out, printed.getvalue()


def files(folder: Path) -> dict[str, bytes]:
    """The files of a folder with their contents, without locks."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file() and p.name != ".lock"}


def call(checkpoint: Path, data: Path, out: Path, *more: str, heads: list[int] | None = None, **options: Any) -> None:
    """The command in this process; *more* are options of fairseq-train."""
    parser = ArgumentParser()
    prune.add_arguments(parser)
    args = parser.parse_args([str(checkpoint), str(data), str(out)])
    vars(args).update(options, heads_to_keep=heads, more=list(more))
    prune.run(args)


def refused(*arguments: Any, **options: Any) -> str:
    """The sentence with which the command refuses."""
    with pytest.raises(UserError) as error:
        call(*arguments, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def words_of(out: Path, run: str) -> list[str]:
    """The command of a run's only training, from its log."""
    lines = (out / f"runs/{run}/log.txt").read_text().splitlines()
    (words,) = [line.split(" ") for line in lines if line.startswith("$ ") and " fairseq_cli.train " in line]
    return words


def value(words: list[str], option: str) -> str:
    """The value of an option of a command."""
    return words[words.index(option) + 1]
