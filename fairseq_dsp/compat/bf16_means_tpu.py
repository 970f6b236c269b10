"""``fairseq-train --bf16`` without a TPU.

Broken: the argparse command line of ve-fairseq 0.12.3 takes ``--bf16`` for "train on a TPU" and then fails on the
import of torch_xla. ``fairseq-hydra-train common.bf16=true`` trains in bfloat16 on any device.

Fix: where there is no torch_xla, ``--bf16`` means what it says. ``--tpu`` itself ends in one sentence. Can go when
``--bf16`` no longer sets ``tpu``.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

from fairseq import utils
from fairseq.dataclass.configs import FairseqConfig
from fairseq.distributed import utils as distributed_utils

from fairseq_dsp.errors import UserError
from fairseq_dsp.wrapping import wrap


def apply() -> None:
    """Wrap where fairseq's commands start and where they ask for the TPU, unless there can be one."""
    if importlib.util.find_spec("torch_xla") is None:
        wrap(distributed_utils, "call_main", _on_any_device)
        wrap(utils, "get_tpu_device", _refusing)


def _on_any_device(stock_call: Callable[..., Any], cfg: FairseqConfig, main: Callable[..., Any], **kwargs: Any) -> Any:
    if cfg.common.bf16:
        cfg.common.tpu = cfg.distributed_training.tpu = False
    return stock_call(cfg, main, **kwargs)


def _refusing(stock_device: Callable[[], Any]) -> Any:
    raise UserError("--tpu makes fairseq look for a TPU, and torch_xla is not installed: leave out --tpu.")
