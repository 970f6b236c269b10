"""What every selection promises, and what each adds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import support
import torch

from fairseq_dsp.errors import UserError
from fairseq_dsp.model import PruningConfig
from fairseq_dsp.model.plan import PruningPlan
from fairseq_dsp.subset import (
    OWN,
    SELECTIONS,
    Annealing,
    Budget,
    Draw,
    Gumbel,
    HardConcrete,
    StraightThrough,
    register_selection,
)
from fairseq_dsp.subset.hard_concrete import hold, open_probability
from fairseq_dsp.subset.own import load_own

ANNEALING = Annealing(1.0, 0.05, 100)


def make(name: str, heads: int = 12, penalised: bool = False):
    kept = torch.zeros(heads)
    kept[:3] = 1
    return SELECTIONS[name](ANNEALING, kept if name == "fixed" else None, penalised)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Path], list[str]]]:
    """``own(FILE)`` registers the selections of a file, for this test only, and returns their names."""
    before = set(SELECTIONS)

    def load(file: Path) -> list[str]:
        monkeypatch.setenv(OWN, str(file))
        load_own()
        return sorted(set(SELECTIONS) - before)

    yield load
    for name in set(SELECTIONS) - before:
        del SELECTIONS[name]


@pytest.mark.parametrize("name", sorted(SELECTIONS))
def test_every_selection(name: str):
    check_promises(name)


def test_the_ablations_of_the_study_are_selections(own: Callable[[Path], list[str]]):
    names = own(support.REPOSITORY / "scripts/studies/ablations.py")
    assert names == ["adaptive", "almost_surely", "common_scale", "conditioned", "gumbel_quiet", "relative"]
    for name in names:
        check_promises(name)


def test_the_ablations_take_the_floors_of_many_heads(own: Callable[[Path], list[str]]):
    shape = {"encoder_self": [4] * 3, "decoder_self": [4] * 3, "cross": [4] * 3}
    importance = torch.randn(36, generator=generator())
    for name in own(support.REPOSITORY / "scripts/studies/ablations.py"):
        plan = PruningPlan(PruningConfig(heads_to_keep=18, head_selection=name), shape)
        assert plan.sample(importance, update=5, seed=1).isfinite().all(), name
        assert plan.keep(importance).sum() == 18, name


@pytest.mark.parametrize(("k", "least"), [(3, 1), (3, 2), (1, 1), (6, 1), (7, 2)])
def test_conditioned_is_the_law_of_subsets_that_hold_the_floor(own: Callable, k: int, least: int):
    own(support.REPOSITORY / "scripts/studies/ablations.py")
    selection = SELECTIONS["conditioned"](Annealing(0.5, 0.5, 1))
    budget = Budget.grouped([range(8)], [k], [Draw((5, 6, 7), least)])
    importance = torch.randn(8, generator=generator(), dtype=torch.float64, requires_grad=True)
    subsets = [z for z in itertools.product((0.0, 1.0), repeat=8) if sum(z) == k and sum(z[5:]) >= least]
    z = torch.tensor(subsets, dtype=torch.float64)
    p = (z @ importance.detach() / 0.5).softmax(0)
    mean = p @ z
    covariance = (z - mean).T @ (p[:, None] * (z - mean))
    incoming = torch.arange(8.0, dtype=torch.float64)
    draw, counts = generator(1), torch.zeros(len(subsets))
    for _ in range(400):
        gates = selection.sample(importance, budget, 0, draw)
        counts[subsets.index(tuple(gates.detach().round().tolist()))] += 1
    (gradient,) = torch.autograd.grad(gates, importance, incoming)
    torch.testing.assert_close(gradient, covariance @ incoming / 0.5)
    assert ((counts / 400 - p).abs() < 4 * (p * (1 - p) / 400).sqrt() + 0.005).all()


def check_promises(name: str) -> None:
    selection, budget = make(name), Budget.top(3, 12)
    importance = torch.randn(12, generator=generator(), requires_grad=True)
    gates = selection.sample(importance, budget, 5, generator(1))
    assert gates.shape == (12,)
    assert gates.isfinite().all()
    assert gates.requires_grad == selection.learns
    assert torch.equal(gates, selection.sample(importance, budget, 5, generator(1)))
    state = torch.get_rng_state()
    selection.sample(importance, budget, 5, generator(1))
    assert torch.equal(state, torch.get_rng_state()), "the global generator belongs to dropout"
    kept = selection.keep(importance, budget)
    assert kept.sum() == 3
    assert set(kept.tolist()) <= {0.0, 1.0}
    assert not kept.requires_grad
    if selection.learns:
        (gradient,) = torch.autograd.grad(gates, importance, torch.arange(12.0))
        assert gradient.abs().sum() > 0


def test_a_selection_of_ones_own_may_have_a_constructor_of_its_own():
    class Own(Gumbel):
        def __init__(self, annealing: Annealing, kept: torch.Tensor | None = None, penalised: bool = False) -> None:
            super().__init__(annealing, kept, penalised)
            self.asked = penalised

    class Held(HardConcrete):
        def __init__(self, annealing: Annealing, kept: torch.Tensor | None = None, penalised: bool = False) -> None:
            super().__init__(annealing, kept, penalised)

    class Slim(StraightThrough):
        def __init__(self, annealing: Annealing, **_: object) -> None:
            super().__init__(annealing)

    importance = torch.linspace(-1, 1, 12)
    assert Own(ANNEALING, None, penalised=True).asked
    assert Held(ANNEALING, None, penalised=True).penalised
    for selection in (Own(ANNEALING), Held(ANNEALING, None, False), Slim(ANNEALING, penalised=False)):
        assert selection.keep(importance, Budget.top(3, 12)).sum() == 3
        assert selection.sample(importance, Budget.top(3, 12), 0, generator()).isfinite().all()


def test_a_selection_of_ones_own_is_given_the_importance_on_the_cpu_unless_it_works_anywhere():
    class Own(StraightThrough):
        def sample(self, importance, budget, update, generator):
            return super().sample(importance, budget, update, generator)

    class Anywhere(StraightThrough):
        anywhere = True

        def sample(self, importance, budget, update, generator):
            return super().sample(importance, budget, update, generator)

    meta, budget = torch.zeros(12, device="meta"), Budget.top(3, 12)
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"):
        Own(ANNEALING).sample(meta, budget, 0, generator())
    assert Own(ANNEALING).keep(meta, budget).device.type == "meta", "it is not its own"
    assert Anywhere(ANNEALING).sample(meta, budget, 0, generator()).device.type == "meta"


def test_a_name_is_taken_once():
    with pytest.raises(ValueError, match="gumbel exists already"):
        register_selection("gumbel")(StraightThrough)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "but the path of a Python file is expected: correct it, or unset it"),
        (
            "import no_such_module",
            r"failed \(ModuleNotFoundError: No module named 'no_such_module'\): correct the file",
        ),
        ("def", r"failed \(SyntaxError: "),
        ("from fairseq_dsp.subset import *; register_selection('ste')(Gumbel)", "named ste exists already"),
    ],
)
def test_a_bad_file_of_selections(own: Callable, tmp_path: Path, content: str | None, sentence: str):
    if content is not None:
        (tmp_path / "mine.py").write_text(content)
    with pytest.raises(UserError, match=sentence) as caught:
        own(tmp_path / "mine.py")
    assert str(tmp_path / "mine.py") in str(caught.value)


@pytest.mark.parametrize("k", range(13))
def test_straight_through_is_exact_with_ties_and_at_k_of_k(k: int):
    importance = torch.zeros(12, requires_grad=True)
    gates = make("ste").sample(importance, Budget.top(k, 12), 0, generator())
    assert gates.tolist() == [1.0] * k + [0.0] * (12 - k)
    (gradient,) = torch.autograd.grad(gates, importance, torch.arange(12.0))
    assert torch.equal(gradient, torch.arange(12.0))


def test_gumbel_cools_with_the_update():
    importance, budget = torch.linspace(-1, 1, 12), Budget.top(4, 12)
    softness = []
    for update in (0, 50, 100):
        gates = torch.stack([make("gumbel").sample(importance, budget, update, generator(s)) for s in range(50)])
        softness.append(torch.minimum(gates.abs(), (1 - gates).abs()).mean().item())
    assert softness[0] > softness[1] > softness[2]


def test_hard_concrete_gates_are_closed_as_often_as_the_penalty_says():
    selection = HardConcrete(ANNEALING, penalised=True)
    importance = torch.tensor([-2.0, -0.5, 0.0, 1.0, 3.0]).repeat(20_000)
    gates = selection.sample(importance, Budget.top(100_000, 100_000), 0, generator()).view(-1, 5)
    assert gates.min() == 0
    assert gates.max() == 1
    expected = torch.stack([selection.expected_open(w[None]) for w in importance[:5]])
    torch.testing.assert_close((gates > 0).float().mean(0), expected, atol=0.015, rtol=0)
    assert math.isclose(selection.expected_open(importance).item(), 20_000 * expected.sum().item(), rel_tol=1e-5)


def test_hard_concrete_keeps_open_gates_or_exactly_k():
    importance = torch.tensor([-3.0, 2.0, 0.1, -0.1])
    penalised, held = make("hard_concrete", 4, penalised=True), make("hard_concrete", 4)
    assert penalised.keep(importance, Budget.top(4, 4)).tolist() == [0, 1, 1, 0]
    for selection in (penalised, held):
        assert selection.keep(importance, Budget.top(1, 4)).tolist() == [0, 1, 0, 0]
        assert selection.keep(importance, Budget.top(3, 4)).tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("spread", [0.0, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("k", range(13))
def test_hard_concrete_holds_the_expectation_at_the_budget(k: int, spread: float):
    importance = (spread * torch.randn(12, generator=generator()) + 50).requires_grad_()
    log_alpha = hold(importance, Budget.top(k, 12))
    assert open_probability(log_alpha).sum().item() == pytest.approx(k, abs=1e-4)
    gates = make("hard_concrete").sample(importance, Budget.top(k, 12), 0, generator(1))
    assert gates.isfinite().all()
    (gradient,) = torch.autograd.grad(gates, importance, torch.randn(12, generator=generator(2)))
    assert gradient.isfinite().all()


def test_selections_that_are_not_annealed():
    assert make("hard_concrete").temperature(5) == make("hard_concrete").temperature(99) == 0.33
    assert make("ste").temperature(5) == make("ste").temperature(99) == 1
    assert make("gumbel").temperature(5) > make("gumbel").temperature(99)


def test_holding_the_expectation_is_a_penalty_that_balances_the_loss():
    importance, weight = torch.randn(12, generator=generator()).double().requires_grad_(), torch.arange(12.0).double()
    log_alpha = hold(importance, Budget.top(4, 12))
    (held,) = torch.autograd.grad((weight * log_alpha.sin()).sum(), importance)
    free = log_alpha.detach().requires_grad_()
    (loss,) = torch.autograd.grad((weight * free.sin()).sum(), free)
    (opening,) = torch.autograd.grad(open_probability(free).sum(), free)
    penalty = -loss.sum() / opening.sum()
    torch.testing.assert_close(held, loss + penalty * opening)
    assert held.sum().abs() < 1e-9
    assert torch.autograd.gradcheck(lambda w: hold(w, Budget.top(4, 12)), importance)


def test_hard_concrete_holds_each_type_and_what_a_floor_adds():
    importance = torch.linspace(-2, 2, 12)
    budget = Budget.grouped([range(4), range(4, 8), range(8, 12)], [3, 0, 4], [Draw((0, 1), 1), Draw((2, 3), 1)])
    p = open_probability(hold(importance, budget))
    assert [p[:4].sum(), p[4:8].sum(), p[8:].sum()] == pytest.approx([3, 0, 4])
    assert [(group.indices, group.count) for group in budget.groups] == [((0, 1, 2, 3), 3), ((8, 9, 10, 11), 4)]


def test_fixed_is_what_it_was_given():
    importance = torch.randn(12, generator=generator())
    for gates in (make("fixed").keep(importance, Budget.top(12, 12)), make("fixed").sample(importance, None, 0, None)):
        assert gates.tolist() == [1.0] * 3 + [0.0] * 9
    with pytest.raises(ValueError, match="one entry for each of the 11 heads"):
        make("fixed").keep(importance[:11], Budget.top(11, 11))
