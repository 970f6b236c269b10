"""Keys and values that decoding keeps from step to step, with their masks."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

SAVED = "prev_key"
"""What an attention module saves for decoding, under the name by which the stock layer sees that there is something."""


def additive_mask(padding: Tensor, like: Tensor) -> Tensor:
    """Return padding as a mask to add to attention scores. *Shape:* (B, S) → (B, 1, 1, S)"""
    mask = torch.zeros(padding.shape, dtype=like.dtype, device=like.device)
    return mask.masked_fill_(padding.bool(), float("-inf"))[:, None, None]


def append_step(saved: dict[str, Any], kv: Tensor, padding: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Append a step to the saved ones, which are put into the order of the beams in the same copy.

    :param kv: *Shape:* (T, B, …).
    :param padding: *Shape:* (B, T).
    :return: both for all steps.
    """
    old, order, old_padding = saved[SAVED], saved["order"], saved["padding"]
    (past, rows), now = (len(old), kv.shape[1]), len(kv)
    joined = kv.new_empty(past + now, *kv.shape[1:])
    if order is None:
        joined[:past] = old
    else:
        torch.index_select(old, 1, order, out=joined[:past])
    joined[past:] = kv
    if old_padding is None and padding is None:
        return joined, None
    if old_padding is None:
        old_padding = torch.zeros(rows, past, dtype=torch.bool, device=kv.device)
    elif order is not None:
        old_padding = old_padding.index_select(0, order)
    if padding is None:
        padding = torch.zeros(rows, now, dtype=torch.bool, device=kv.device)
    return joined, torch.cat([old_padding, padding.bool()], 1)
