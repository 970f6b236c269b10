"""fairseq checkpoints against torch's safe loading.

Broken: torch >= 2.6 reads with ``weights_only=True``, which refuses the ``argparse.Namespace`` in every checkpoint of
ve-fairseq 0.12.3, and the numpy arrays there after a validation with BLEU: neither resume nor generate works.
Reading without it would run whatever code a checkpoint holds.

Fix: the harmless types that fairseq's checkpoints hold are allowed, nothing else, and what is refused or cannot be
read is named in one sentence. Can go when fairseq registers these types itself.
"""

from __future__ import annotations

import argparse
import logging
import os
import pickle
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from fairseq_dsp.errors import UserError
from fairseq_dsp.wrapping import wrap

logger = logging.getLogger(__name__)

UNSAFE_SWITCH = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"

# How torch names what it refused.
_REFUSALS = (
    re.compile(r"GLOBAL (\S+) was not an allowed global"),
    re.compile(r"unsupported GLOBAL (\S+) whose module"),
    re.compile(r"unrecognized function (.+)"),
    re.compile(r"but got <class '([^']+)'>"),
)
_NO_MEMORY = re.compile(r"alloc_cpu|can't allocate memory")


def allowed_types() -> list[Any]:
    """The types that fairseq's checkpoints hold beside tensors and plain values; building one of them runs no code.

    ``argparse.Namespace`` is the configuration; the rest are the arrays of n-gram counts that validation with BLEU
    leaves in the meters, and the number of a metric such as a correlation. numpy < 2 and numpy >= 2 write the
    constructors of both under different module names.
    """
    constructor = np.empty(0).__reduce__()[0]
    numeric = [np.bool_, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
    numeric += [np.float16, np.float32, np.float64]
    return [
        argparse.Namespace,
        np.ndarray,
        np.dtype,
        (constructor, "numpy.core.multiarray._reconstruct"),
        (constructor, "numpy._core.multiarray._reconstruct"),
        (_number, "numpy.core.multiarray.scalar"),
        (_number, "numpy._core.multiarray.scalar"),
        *[type(np.dtype(scalar)) for scalar in numeric],
    ]


def _number(dtype: np.dtype[Any], content: bytes) -> float:
    """Return a number as Python's own; stands for numpy's constructor, which makes objects, too."""
    if dtype.kind not in "biuf" or not isinstance(content, bytes) or len(content) != dtype.itemsize:
        raise pickle.UnpicklingError(f"{content!r} is no number of the type {dtype}")
    number: float = np.frombuffer(content, dtype)[0].item()
    return number


def allow() -> None:
    """Allow the types above: all that torch alone needs to read a checkpoint of fairseq's."""
    torch.serialization.add_safe_globals(allowed_types())


def apply() -> None:
    """Allow them, and wrap the one function through which every fairseq tool reads a checkpoint."""
    from fairseq import checkpoint_utils

    allow()
    if os.environ.pop(UNSAFE_SWITCH, None) is not None:
        logger.warning(f"{UNSAFE_SWITCH} is ignored: checkpoints are always loaded safely")
    wrap(checkpoint_utils, "load_checkpoint_to_cpu", _explaining)


def _explaining(load: Callable[..., dict[str, Any]], path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
    try:
        return load(path, *args, **kwargs)
    except Exception as error:
        raise UserError(explanation(path, error)) from error


def explanation(path: str, error: Exception) -> str:
    """One sentence on why the checkpoint *path* could not be read, from the *error* that reading it raised."""
    if isinstance(error, pickle.UnpicklingError):
        for pattern in _REFUSALS:
            if found := pattern.search(str(error)):
                return (
                    f"The checkpoint {path} is refused and nothing in it was run: it holds {found[1]}, but safe "
                    "loading takes only tensors, plain values, argparse.Namespace and numpy arrays; use a checkpoint "
                    "that fairseq wrote."
                )
    if isinstance(error, OSError):
        missing = isinstance(error, FileNotFoundError | IsADirectoryError)
        advice = "; give a checkpoint_….pt that fairseq-train wrote" if missing else ""
        return f"The checkpoint {path} cannot be read: {error.strerror or error}{advice}."
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or _NO_MEMORY.search(str(error)):
        return f"The checkpoint {path} cannot be read: there is not enough free memory for it on this machine."
    size = f"{os.path.getsize(path):,} bytes" if os.path.isfile(path) else "size unknown"
    reason = f"{type(error).__name__}: {error}".splitlines()[0].partition(". ")[0]  # torch goes on with advice
    if isinstance(error, LookupError):
        return (
            f"The checkpoint {path} ({size}) cannot be used: it is not a fairseq checkpoint, or lacks what those "
            f"have ({reason}); if that is the name of an architecture, task, criterion or optimiser, give the "
            "--user-dir that has it; if it was averaged or converted, keep all other entries, such as "
            "optimizer_history, of one that it was made from."
        )
    return (
        f"The checkpoint {path} ({size}) cannot be used: it is truncated, or not a fairseq checkpoint ({reason}); use "
        "another checkpoint of the run, or move this file away to start anew."
    )
