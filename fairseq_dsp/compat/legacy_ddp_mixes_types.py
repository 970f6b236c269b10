"""``--ddp-backend legacy_ddp`` with parameters of several types.

Broken: ve-fairseq 0.12.3 averages the gradients of all processes in one buffer of the type of the first parameter. In a
model of half precision, the importance variables are float32, and what half precision cannot hold of their gradient
becomes an infinity or 0: of [1e5, 3e-9] is left [inf, 0].

Fix: each type is averaged in a buffer of its own. Can go when fairseq keeps the types apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fairseq.distributed.legacy_distributed_data_parallel import LegacyDistributedDataParallel

from fairseq_dsp.wrapping import wrap


def apply() -> None:
    """Wrap the method that averages gradients."""
    wrap(LegacyDistributedDataParallel, "all_reduce_grads", _type_by_type)


def _type_by_type(stock: Callable[[Any], None], self: Any) -> None:
    every, buffer = self.per_device_params, self.buffer
    types = list(dict.fromkeys(p.dtype for params in every for p in params))
    if len(types) == 1:
        return stock(self)
    if not hasattr(self, "buffer_of_type"):
        self.buffer_of_type = {}
    try:
        for dtype in types:
            self.per_device_params = [[p for p in params if p.dtype == dtype] for params in every]
            if dtype not in self.buffer_of_type:
                own = [p for params in self.per_device_params for p in params]
                size = min(self.buffer_size, sum(p.numel() for p in own))
                self.buffer_of_type[dtype] = own[0].data.new_empty(size)
            self.buffer = self.buffer_of_type[dtype]
            stock(self)
    finally:
        self.per_device_params, self.buffer = every, buffer
    return None
