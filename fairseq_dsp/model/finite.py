"""Weights with which nothing can be computed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError


def check_finite(parameters: Mapping[str, Tensor], where: Any) -> None:
    """Check the weights of a model.

    :param parameters: its state dict.
    :param where: what holds them, for the message.
    :raises UserError: if one is a NaN or an infinity.
    """
    for name, value in parameters.items():
        if not torch.isfinite(value).all():
            raise UserError(
                f"{name} in {where} holds a NaN or an infinity, with which nothing can be computed: give an earlier "
                "checkpoint of that run"
            )
