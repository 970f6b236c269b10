"""``gumbel``, ``ste`` and ``hard_concrete`` draw from a seed what they drew when same_samples.json was written.

The file holds the gates and gradients of :func:`draw` for :data:`CASES`. It is not to be made anew: a training that is
repeated with another version and the same seed finds the same heads only as long as these stay what they are.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fairseq_dsp.subset import SELECTIONS, Annealing, Budget, Draw

STORED = Path(__file__).with_name("same_samples.json")
N = 24
BUDGETS = {
    "top": Budget.top(9, N),
    "nearly all": Budget.top(22, N),
    "floors": Budget.grouped([range(N)], [9], [Draw(tuple(range(16, 24)), 1), Draw(tuple(range(8)), 2)]),
    "types": Budget.grouped([range(8), range(8, 16), range(16, 24)], [3, 8, 0], [Draw((0, 1), 1), Draw((2, 3), 1)]),
}
CASES = [
    *(("gumbel", budget, t) for budget in BUDGETS for t in (1.0, 0.1, 1e-3, 1e-8)),
    *(("ste", budget, 1.0) for budget in BUDGETS),
    *(("hard_concrete", budget, 1.0) for budget in BUDGETS),
    ("penalised", "top", 1.0),
]


def draw(name: str, budget: str, temperature: float) -> tuple[list[float], list[float]]:
    """Return the gates of a sample at update 7, and the gradient of the importance; all in float32."""
    annealing, penalised = Annealing(temperature, temperature, 100), name == "penalised"
    selection = SELECTIONS["hard_concrete" if penalised else name](annealing, None, penalised)
    generator = torch.Generator().manual_seed(11)
    importance = torch.randn(N, generator=generator).requires_grad_()
    incoming = torch.randn(N, generator=generator)
    gates = selection.sample(importance, BUDGETS[budget], 7, generator)
    (gradient,) = torch.autograd.grad(gates, importance, incoming)
    return gates.tolist(), gradient.tolist()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_same_gates_and_gradients(case: tuple[str, str, float]):
    stored = json.loads(STORED.read_text())["-".join(map(str, case))]
    for found, expected in zip(draw(*case), stored, strict=True):
        # the last bits of exp and log are the processor's
        torch.testing.assert_close(torch.tensor(found), torch.tensor(expected), rtol=1e-6, atol=1e-9)
