"""A training on shards ends at one that is missing, hours later, or goes on with the words of another one confused.

Broken: of the folders ``a:b``, ve-fairseq 0.12.3 looks at each when its epoch begins, and reads all of them with the
dictionaries of the first.

Fix: the task of translation looks at all of them before it reads the first. Can go when fairseq does.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from fairseq import utils
from fairseq.data import Dictionary, data_utils, indexed_dataset
from fairseq.tasks.translation import TranslationTask

from fairseq_dsp.errors import UserError
from fairseq_dsp.wrapping import wrap


def apply() -> None:
    """Wrap the function with which the task reads a text, and that with which a training first lists its folders."""
    wrap(TranslationTask, "load_dataset", _looking)
    wrap(data_utils, "_find_extra_valid_paths", _naming)


def _naming(stock: Callable[..., Any], folders: str) -> Any:
    try:
        return stock(folders)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"there is no folder {error.filename}, but it is one of the training's folders ({folders}): give all "
            "of them, or leave this one out"
        ) from error


def _looking(stock: Callable[..., Any], self: Any, split: str, *args: Any, **kwargs: Any) -> Any:
    first, *others = map(Path, utils.split_paths(self.cfg.data))
    if split == self.cfg.train_subset and others:
        for folder in (first, *others):
            _check(folder, first, split, self.cfg)
    return stock(self, split, *args, **kwargs)


def _check(folder: Path, first: Path, split: str, config: Any) -> None:
    """Raise a `UserError` unless a folder has the text, of the words of the first folder's dictionaries."""
    languages = config.source_lang, config.target_lang
    pairs = ["-".join(languages), "-".join(reversed(languages))]  # fairseq takes either
    for language in languages:
        names = [f"{split}.{pair}.{language}" for pair in pairs]
        if not any(indexed_dataset.dataset_exists(str(folder / name), config.dataset_impl) for name in names):
            raise UserError(
                f"{folder} has no {names[0]}.bin with its .idx, but it is one of the training's folders "
                f"({config.data}): give all of them, or leave this one out"
            )
        own, used = (place / f"dict.{language}.txt" for place in (folder, first))
        if folder != first and own.is_file() and _words(own) != _words(used):
            raise UserError(
                f"{own} has other words than {used}, with which fairseq reads all folders of a training, so words "
                "would be confused: binarise them with the same dictionaries"
            )


def _words(dictionary: Path) -> list[str]:
    words: list[str] = Dictionary.load(str(dictionary)).symbols
    return words
