"""``torchrun`` without visible GPUs.

Broken: ve-fairseq 0.12.3 takes the number of processes from the GPUs it sees. Where a process sees none or one, each
process that ``torchrun`` started trains alone, and all write the same checkpoint files, without a word.

Fix: refused with the command line that works. Can go when fairseq reads torchrun's WORLD_SIZE first.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from fairseq.distributed import utils as distributed_utils

from fairseq_dsp.errors import UserError
from fairseq_dsp.wrapping import wrap


def apply() -> None:
    """Wrap the function in which fairseq finds out about other processes."""
    wrap(distributed_utils, "infer_init_method", _refusing_split)


def _refusing_split(stock_infer: Callable[..., None], cfg: Any, *args: Any, **kwargs: Any) -> None:
    processes = int(os.environ.get("WORLD_SIZE", "1")) if "TORCHELASTIC_RUN_ID" in os.environ else 1
    if processes > 1 and cfg.distributed_world_size == 1 and cfg.distributed_init_method is None:
        raise UserError(
            f"torchrun started {processes} processes, but fairseq would run each as a training of its own, all "
            f"writing to one folder: start each rank R yourself with --distributed-world-size {processes} "
            "--distributed-rank R --distributed-init-method tcp://HOST:PORT --distributed-no-spawn (without GPUs "
            "also --distributed-backend gloo --ddp-backend legacy_ddp)."
        )
    stock_infer(cfg, *args, **kwargs)
