"""What fairseq-generate cannot take as it is: paths with a colon, sentences longer than the model's positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..plain import is_blank
from .prepared import PreparedData


def checkpoint_paths(checkpoint: str) -> list[str]:
    """The files of an ensemble, joined by colons; a path may hold colons too.

    :raises UserError: if one is missing.
    """
    if Path(checkpoint).is_file():
        return [checkpoint]
    found: list[str] = []
    path = ""
    for piece in checkpoint.split(":"):
        path = f"{path}:{piece}" if path else piece
        if Path(path).is_file():
            found.append(path)
            path = ""
    if path and Path(path).is_dir():
        raise UserError(f"{path} is a folder, but a checkpoint is expected: give a file that fairseq-train wrote")
    if path or not found:
        raise UserError(f"the checkpoint {path or checkpoint} is missing: give a file that fairseq-train wrote")
    return found


def without_colons(path: Path, folder: Path, name: str) -> str:
    """A path that fairseq takes for one path: itself, or a link to it.

    :param folder: where a link may be made.
    :param name: of the link.
    """
    if ":" not in str(path):
        return str(path)
    link = folder / name
    link.symlink_to(path.absolute())
    return str(link)


def positions(checkpoints: Sequence[str]) -> tuple[int, int]:
    """How many positions all of these models have for source and target; the end of a sentence takes one.

    :raises UserError: if one has a weight that is no number.
    """
    from fairseq import checkpoint_utils

    from ..model.finite import check_finite
    from ..model.flat_options import positions_of

    found = []
    for path in checkpoints:  # one at a time in memory
        state = checkpoint_utils.load_checkpoint_to_cpu(path)
        check_finite(state["model"], f"the checkpoint {path}")
        found.append(positions_of(state))
    source, target = (min(side) for side in zip(*found, strict=True))
    return source, target


@dataclass(frozen=True)
class Sizes:
    """The lengths of a binarised text, in subwords with the end of the sentence.

    :param source: *Shape:* (number of sentences)
    :param target: the same of the references.
    """

    source: np.ndarray
    target: np.ndarray

    @staticmethod
    def of(data: PreparedData, split: str) -> Sizes:
        """The lengths of a text of a preparation; none of a side that is not there, which fairseq tells better."""
        sides = []
        for language in data.languages:
            binary = data.binarised(f"{data.text_name(split)}.{language}")
            sides.append(np.array([] if binary is None else binary.sizes, dtype=np.int64))
        return Sizes(*sides)

    def blank(self, data: PreparedData, split: str) -> set[int]:
        """Sentences without any text to translate."""
        blank = set(np.flatnonzero(self.source <= 1).tolist())
        if (data.folder / f"raw/{split}.{data.languages[0]}").is_file():
            blank |= {number for number, line in enumerate(data.sources(split)) if is_blank(line)}
        return blank


def without_references(data: PreparedData, split: str, folder: Path) -> Path:
    """A data folder that has the source side of one text only, since fairseq looks at the length of references, too.

    :param folder: where it may be made.
    """
    made = folder / "source-only"
    made.mkdir()
    source, target = data.languages
    names = [f"dict.{source}.txt", f"dict.{target}.txt"]
    names += [f"{data.text_name(split)}.{source}.{ending}" for ending in ("bin", "idx")]
    for name in names:
        (made / name).symlink_to((data.data_bin / name).absolute())
    return made


def flags_for(sizes: Sizes, limits: tuple[int, int], max_tokens: int) -> tuple[list[str], int]:
    """Flags of fairseq-generate with which no sentence stops it, and how many sentences are cut.

    :param limits: the model's positions for source and target.
    :param max_tokens: of a batch; a longer sentence has a batch of its own.
    """
    longest = max([int(side.max()) for side in (sizes.source, sizes.target) if side.size], default=0)
    flags: list[Any] = ["--max-source-positions", limits[0], "--max-target-positions", limits[1]]
    flags += ["--max-tokens", max(max_tokens, min(longest, max(limits)))]
    cut = int((sizes.source > limits[0]).sum())
    return [*map(str, flags), *(["--truncate-source"] if cut else [])], cut
