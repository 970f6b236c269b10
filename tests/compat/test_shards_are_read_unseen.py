"""A shard that is missing, or of another dictionary, is told before a training on shards begins."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
from fairseq.data import Dictionary
from fairseq.tasks.translation import TranslationConfig, TranslationTask

import fairseq_dsp  # noqa: F401 — fixes fairseq
from fairseq_dsp.errors import UserError


@pytest.fixture
def shards(tiny_data: Path, tmp_path: Path) -> list[Path]:
    """Two folders with the same text."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        shutil.copytree(tiny_data, folder)
    return folders


def load(folders: list[Path], split: str, epoch: int = 1) -> int:
    """The number of sentences that the task reads."""
    config = TranslationConfig(data=":".join(map(str, folders)), source_lang="xx", target_lang="yy")
    config.train_subset, config.dataset_impl, config.required_seq_len_multiple = "train", None, 1
    task = TranslationTask.setup_task(config)
    task.load_dataset(split, epoch=epoch)
    return len(task.dataset(split))


def test_whole_shards_are_read(shards: list[Path]) -> None:
    expected = load(shards[:1], "train")
    for language in ("xx", "yy"):
        (shards[1] / f"dict.{language}.txt").unlink()  # which fairseq does not need
    for path in shards[1].glob("valid.*"):
        path.unlink()  # nor that: it takes the first folder's
    assert [load(shards, "train", epoch) for epoch in (1, 2, 3)] == [expected] * 3
    assert load(shards, "valid") == load(shards[:1], "valid")


@pytest.mark.parametrize("lost", ["train.xx-yy.xx.bin", "train.xx-yy.yy.idx", ""])
def test_a_missing_shard(shards: list[Path], lost: str) -> None:
    for path in shards[1].glob("*"):
        if not lost or path.name == lost:
            path.unlink()
    side = "yy" if "yy.idx" in lost else "xx"
    with pytest.raises(UserError, match=rf"second has no train\.xx-yy\.{side}\.bin with its \.idx, but it is one of"):
        load(shards, "train")
    assert load(shards, "valid")


def test_a_shard_of_another_dictionary(shards: list[Path]) -> None:
    path = shards[1] / "dict.yy.txt"
    words = Dictionary.load(str(path))
    counts = path.read_text(encoding="utf-8").splitlines()
    path.write_text("".join(f"{line.split()[0]} 7\n" for line in counts), encoding="utf-8")
    assert load(shards, "train")  # the same words, counted in another text
    path.write_text("".join(f"{line}\n" for line in reversed(counts)), encoding="utf-8")
    assert len(Dictionary.load(str(path))) == len(words)
    with pytest.raises(UserError, match=r"second/dict\.yy\.txt has other words than .*first/dict\.yy\.txt"):
        load(shards, "train")


@pytest.mark.parametrize(
    ("task", "lost", "told"),
    [("translation", "train.*", "second has no train.xx-yy.xx.bin"), ("translation_dsp", "*", "there is no folder")],
)
def test_a_training_says_so_before_it_begins(
    shards: list[Path], tmp_path: Path, run_fairseq: Callable[..., Any], task: str, lost: str, told: str
) -> None:
    for path in shards[1].glob(lost):
        path.unlink()
    if not any(shards[1].iterdir()):
        shards[1].rmdir()
    data: Any = ":".join(map(str, shards))
    args = support.tiny_train_args(data, tmp_path / "run", "--task", task, arch="transformer_dsp")
    done = run_fairseq("train", *args, check=False)
    assert done.returncode == 1
    assert told in done.stdout.splitlines()[-1]
    assert "Traceback" not in done.stdout
    assert "begin training epoch" not in done.stdout
