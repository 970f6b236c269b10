"""``fairseq-train --bf16`` without a TPU.

Broken: the argparse command line of ve-fairseq 0.12.3 takes ``--bf16`` for "train on a TPU" and then fails on the
import of torch_xla; that is decided before a plugin is imported, so it cannot be undone from here.

Fix: one sentence that says what to use instead. Can go when ``--bf16`` no longer sets ``tpu``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from fairseq import utils

from fairseq_dsp.errors import UserError
from fairseq_dsp.wrapping import wrap


def apply() -> None:
    """Wrap the function in which fairseq asks for the TPU, unless there can be one."""
    if importlib.util.find_spec("torch_xla") is None:
        wrap(utils, "get_tpu_device", _refusing)


def _refusing(stock_device: Callable[[], Any]) -> Any:
    raise UserError(
        "--bf16 (like --tpu) makes this fairseq look for a TPU, and torch_xla is not installed: use --amp instead, "
        "or fairseq-hydra-train with common.bf16=true."
    )
