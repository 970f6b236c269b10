"""Small tensors beside the scores, wherever these are, without a GPU that waits for the CPU."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor


def beside(values: Tensor, device: torch.device) -> Tensor:
    """Return the *values* on the device, to which they come from the CPU by a copy that nothing waits for."""
    if device.type == "cuda" and values.device.type == "cpu":
        values = values.pin_memory()  # from other memory the copy would wait for all that is queued
    return values.to(device, non_blocking=True)


@cache  # for good: a CUDA graph reads them wherever they were
def constant(values: tuple[Any, ...], device: torch.device) -> Tensor:
    """Return whole numbers, or tuples of them, as a tensor on the device; it must not be changed."""
    with torch.inference_mode(False):  # or training could not use what generation has made
        return beside(torch.tensor(values, dtype=torch.long), device)


def uniform(shape: tuple[int, ...], generator: torch.Generator | None, device: torch.device) -> Tensor:
    """Return independent uniform numbers from [0, 1), drawn on the CPU: the same on every device. In float64."""
    return beside(torch.rand(shape, generator=generator, dtype=torch.float64), device)
