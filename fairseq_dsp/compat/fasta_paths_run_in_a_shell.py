"""FASTA files whose path is a piece of a shell command.

Broken: ve-fairseq 0.12.3 builds the index of a FASTA file with a line of shell, into which it puts the path as it is. A
corpus or a checkpoint that names a language or a folder ``$(…)`` so runs what it likes.

Fix: the index is built in Python, with the same numbers. Can go when fairseq quotes the path.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from fairseq.data.fasta_dataset import FastaDataset, fasta_file_path


def apply() -> None:
    """Replace the method that calls the shell."""
    FastaDataset._build_index = _build_index


def _build_index(self: Any, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Return where each entry of a file starts, in bytes, and how long its sequence is. *Shapes:* (entries)"""
    offsets: list[int] = []
    sizes: list[int] = []
    position = 0
    with open(fasta_file_path(path), "rb") as file:
        for line in file:
            if line.startswith(b">"):
                offsets.append(position)
                sizes.append(0)
            elif sizes:
                sizes[-1] += len(line.strip())
            position += len(line)
    return np.array(offsets, dtype=np.int64), np.array(sizes, dtype=np.int64)
