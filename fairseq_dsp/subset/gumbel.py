"""The paper's selection: a relaxed Gumbel top-K sample (Li et al. 2021, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor

from .budget import Budget
from .selection import Selection, register_selection
from .topk import gumbel_noise, relaxed_gates


@register_selection("gumbel")
class Gumbel(Selection):
    """Relaxed sample of a K-subset under an annealed temperature; the gates sum to K."""

    anywhere = True

    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        noise = gumbel_noise(importance.numel(), generator)
        return relaxed_gates(importance, budget, self.annealing(update), noise)
