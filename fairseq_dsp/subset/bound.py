"""The bound on the gradient of the scores."""

from __future__ import annotations

import torch
from torch import Tensor

GRADIENT_BOUND = 1e4
"""The gradient of the scores is at most this many times as long as the gradient of the gates (l2 norms).

At low temperatures the exact gradient of a sample grows without limit (a factor 1/T, of the relaxed top-K one for each
of its K steps), up to overflow. Where it exceeds the bound it is scaled down to it: its direction stays, and so do the
forward values. Adam's step depends on the direction far more than on the length.
"""

LIMIT = (1 - 1e-6) * GRADIENT_BOUND
"""A hair below the bound, so that rounding the gradient to float32 does not pass it."""


def bounded(vector: Tensor, incoming: Tensor, log_scale: Tensor | float = 0.0) -> Tensor:
    """Return vector · e^log_scale, shortened to :data:`LIMIT` · ‖incoming‖ where it is longer. *Shape:* (N)."""
    norm = torch.linalg.vector_norm(vector).clamp_min(torch.finfo(vector.dtype).tiny)
    ratio = LIMIT * torch.linalg.vector_norm(incoming) / norm
    return vector * ratio.log().clamp_max(log_scale).exp()
