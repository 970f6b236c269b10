"""A budget of cost that heads and feed-forward units share: always kept, and split by what units are worth."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation.measuring import flops
from fairseq_dsp.evaluation.runners import FairseqRunner
from fairseq_dsp.model import FFN, PruningConfig, PruningPlan
from fairseq_dsp.model import HEADS as HEADS_KIND
from fairseq_dsp.model.attention_heads import attention_module
from fairseq_dsp.model.cost_budget import CostBudget
from fairseq_dsp.model.feed_forward import _module
from fairseq_dsp.model.kinds import KINDS
from fairseq_dsp.model.units import modules_of
from fairseq_dsp.subset.price import find_price, numbers_at

UNEQUAL = ("--encoder-embed-dim", 24, "--encoder-attention-heads", 3, "--encoder-ffn-embed-dim", 64)
"""Encoder and decoder have units of different sizes."""


def budget_of(
    share: float,
    *,
    heads: int = 2,
    layers: int = 2,
    wide: int = 16,
    units: int = 4,
    width: int = 8,
    option: str = "parameters_to_keep",
    **options: Any,
) -> CostBudget:
    """The budget of a Transformer of so many layers on each side, with as many heads and units in each."""
    config = PruningConfig(**{option: share}, **options)
    modules = [
        [
            attention_module(t, i, f"{'en' if 'en' in t else 'de'}coder.layers.{i}", heads, wide // heads, wide, wide)
            for t in HEADS_KIND.types
            for i in range(layers)
        ],
        [_module(t, i, f"{t}.layers.{i}", wide, units * width, width) for t in FFN.types for i in range(layers)],
    ]
    plans = [PruningPlan(config, {t: [heads] * layers for t in HEADS_KIND.types}, HEADS_KIND)]
    plans += [PruningPlan(config, {t: [units] * layers for t in FFN.types}, FFN)]
    return CostBudget(plans, modules)


def cost(budget: CostBudget, gates: list[torch.Tensor]) -> float:
    """What the units cost whose gate is 1."""
    return sum(g.cost * float(gates[g.place][list(g.units)].sum()) for g in budget.groups)


# --- what a unit costs ------------------------------------------------------------------------------------------------


def test_a_unit_costs_what_a_model_without_it_saves(build: Any) -> None:
    whole = build(*UNEQUAL, "--ffn-units-to-keep", 24, "--ffn-unit-width", 8)
    every = json.loads(whole.kept().to_json())

    def measured(kept: dict[str, Any]) -> tuple[int, int]:
        model = build(*UNEQUAL, "--head-selection", "fixed", "--kept-heads", json.dumps(kept))
        runner = FairseqRunner(model.eval(), 40, 40, 2, 5)
        return runner.parameters or 0, flops(runner, 5) or 0

    before = measured(every)
    for kind in KINDS.values():
        for of_type in kind.types:
            kept = json.loads(json.dumps(every))
            part = kept if kind is HEADS_KIND else kept[kind.name]
            part["kept"] -= len(part[of_type][1][:1])
            part[of_type][1] = part[of_type][1][1:]
            module = next(m for m in modules_of(whole, kind, whole.args) if m.type == of_type)
            saved = [one - other for one, other in zip(before, measured(kept), strict=True)]
            assert saved == [module.unit_parameters, kind.unit_flops(module, 5, 5 + 1, 2)], of_type


# --- the price --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_the_gradient_between_groups_is_that_of_the_numbers(temperature: float) -> None:
    """A gradient that all units of a group have in common says nothing within it: only the numbers' is left."""
    options = {"initial_temperature": temperature, "final_temperature": temperature, "head_selection": "simple"}
    budget = budget_of(0.4, option="flops_to_keep", min_cross_heads=2, **options)
    assert len(budget.groups) == 5
    draw = torch.Generator().manual_seed(3)
    importances = [0.3 * torch.randn(plan.units, generator=draw, dtype=torch.float64) for plan in budget.plans]
    importances[0][4:8] += 1
    importances[0][8:] -= 9  # cross-attention is at its floor
    worth = torch.randn(5, generator=draw, dtype=torch.float64).numpy()
    group_of = budget._group_of
    leaves = [one.clone().requires_grad_() for one in importances]
    for place in (0, 1):
        gates = budget.sample(place, leaves, 0, 1)
        (gates * torch.from_numpy(worth[budget._groups_of(place)])).sum().backward()

    def value(joined: np.ndarray) -> float:
        least = [g.least for g in budget.groups]
        scores = joined / temperature
        price = find_price(scores, group_of, budget._costs, least, budget.at(0.4))
        return float(worth @ numbers_at(price, scores, group_of, least))

    joined, step = torch.cat(importances).numpy(), 1e-5
    for i, found in enumerate(torch.cat([leaf.grad for leaf in leaves]).tolist()):
        sides = [joined.copy(), joined.copy()]
        sides[0][i], sides[1][i] = joined[i] + step, joined[i] - step
        assert found == pytest.approx((value(sides[0]) - value(sides[1])) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("selection", ["simple", "gumbel", "ste", "hard_concrete"])
def test_a_constant_added_to_all_importances_changes_nothing_and_learns_nothing(selection: str) -> None:
    budget = budget_of(0.5, head_selection=selection)
    draw = torch.Generator().manual_seed(2)
    importances = [torch.randn(plan.units, generator=draw).double() for plan in budget.plans]
    assert all(torch.equal(budget.keep(i, importances), budget.keep(i, [w + 3 for w in importances])) for i in (0, 1))
    before = [int(budget.keep(i, importances).sum()) for i in (0, 1)]
    moved = [importances[0], importances[1] + 1]
    assert int(budget.keep(0, moved).sum()) < before[0]
    assert int(budget.keep(1, moved).sum()) > before[1]
    leaves = [one.clone().requires_grad_() for one in importances]
    for place in (0, 1):
        gates = budget.sample(place, leaves, 0, 1)
        (gates * torch.randn(len(gates), generator=draw)).sum().backward()
    gradient = torch.cat([leaf.grad for leaf in leaves])
    assert float(gradient.abs().max()) > 1e-3
    assert abs(float(gradient.sum())) < 1e-8 * len(gradient)


def test_the_split_that_is_learnt_is_nearly_the_best_of_all() -> None:
    """Units whose worth is known and adds up: the best set is found by trying every number of heads."""
    shares = []
    for seed in range(3):
        budget = budget_of(0.5, cooldown_updates=120)
        draw = torch.Generator().manual_seed(seed)
        worth = [2 * torch.rand(12, generator=draw), [0.3, 1.0][seed % 2] * torch.rand(16, generator=draw)]
        importances = [torch.zeros(12, requires_grad=True), torch.zeros(16, requires_grad=True)]
        optimiser = torch.optim.Adam(importances, lr=0.08, betas=(0.9, 0.98))
        for update in range(120):
            optimiser.zero_grad()
            gates = [budget.sample(place, importances, update, seed) for place in (0, 1)]
            (-sum((g * w).sum() for g, w in zip(gates, worth, strict=True))).backward()
            optimiser.step()
        found = sum(float((budget.keep(i, importances) * worth[i]).sum()) for i in (0, 1))
        best = 0.0
        for heads in range(13):
            units = min(16, (budget.at(0.5) - heads * budget.groups[0].cost) // budget.groups[1].cost)
            if units >= 0:
                best = max(best, float(worth[0].topk(heads).values.sum() + worth[1].topk(units).values.sum()))
        shares.append(found / best)
    assert min(shares) > 0.95
    assert sum(shares) / len(shares) > 0.98


# --- the budget is kept -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(
    share=st.floats(0, 1),
    option=st.sampled_from(["parameters_to_keep", "flops_to_keep"]),
    heads=st.sampled_from([1, 2, 4]),
    layers=st.integers(1, 3),
    units=st.sampled_from([2, 4, 8]),
    scale=st.sampled_from([0.0, 0.1, 3.0, 1e4]),
    temperature=st.sampled_from([1e-8, 0.05, 1.0]),
    selection=st.sampled_from(["simple", "ste"]),
    floors=st.fixed_dictionaries({}, optional={"min_heads_per_module": st.just(1), "min_cross_heads": st.just(1)}),
    seed=st.integers(0, 99),
)
@example(
    share=0.9999999999999999, option="parameters_to_keep", heads=1, layers=1, units=2, scale=0.0, temperature=1e-8,
    selection="simple", floors={}, seed=0,
)  # fmt: skip
def test_the_budget_is_always_kept(
    share: float, option: str, heads: int, layers: int, units: int, scale: float, temperature: float, selection: str,
    floors: Any, seed: int,
) -> None:  # fmt: skip
    options = {"initial_temperature": 1.0, "final_temperature": temperature, "heads_to_keep_updates": 10}
    try:
        budget = budget_of(
            share, option=option, heads=heads, layers=layers, units=units, head_selection=selection, **options, **floors
        )
    except ValueError:  # the floors need more, or one head costs more than all units
        assume(False)
    draw = torch.Generator().manual_seed(seed)
    importances = [scale * torch.randn(plan.units, generator=draw) for plan in budget.plans]
    kept = [budget.keep(place, importances) for place in (0, 1)]
    most = share * budget.whole
    allowed = max(min(g.cost for g in budget.groups), 0.005 * budget.whole)
    assert most - allowed - 1 <= cost(budget, kept) <= most + 1e-5
    assert budget.allows(kept)
    more = [kept[0], torch.ones_like(kept[1])]
    assert budget.allows(more) == (cost(budget, more) <= most + 1e-5)
    for update in (1, 5, 40):
        gates = [budget.sample(place, importances, update, seed) for place in (0, 1)]
        most = budget.plans[0].share(update) * budget.whole
        assert all(((g == 0) | (g == 1)).all() for g in gates)
        assert most - allowed - 1 <= cost(budget, gates) <= most + 1e-5
        if floors:
            by_module = gates[0].view(-1, heads).sum(1)
            assert by_module.min() >= floors.get("min_heads_per_module", 0)
            assert gates[0][-heads * layers :].sum() >= floors.get("min_cross_heads", 0)


# --- in a model -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--parameters-to-keep", "--flops-to-keep"])
def test_a_model_trains_and_evaluates_within_the_budget(build: Any, batch: Any, option: str) -> None:
    model = build(*UNEQUAL, option, 0.4, "--ffn-unit-width", 8, "--cooldown-updates", 4)
    pruners = list(model.pruners.values())
    budget = pruners[0].chosen_by._budget
    optimiser = torch.optim.Adam([pruner.importance for pruner in pruners], lr=0.3)
    for update in range(6):
        model.train()
        optimiser.zero_grad()
        model(**batch)[0].square().sum().backward()
        gates = [pruner.sampled for pruner in pruners]
        assert budget.at(0.4) - budget.left_over <= cost(budget, gates) <= budget.at(0.4)
        assert all(bool(pruner.importance.grad.any()) == (update < 4) for pruner in pruners)
        if update < 4:
            optimiser.step()
        model.set_num_updates(update + 1)
        with torch.no_grad():
            model.eval()(**batch)
        kept = model.kept()
        gates = [units.to_gates(p.plan.shape) for units, p in zip(kept.all, pruners, strict=True)]
        assert budget.allows(gates)
    removed = sum(
        (module.units - len(left)) * module.unit_parameters
        for pruner, units in zip(pruners, kept.all, strict=True)
        for module, left in zip(pruner.modules, sum(units.layers, ()), strict=True)
    )
    whole = sum(p.numel() for p in model.parameters()) - sum(pruner.plan.units for pruner in pruners)
    model.make_generation_fast_()
    assert whole - sum(p.numel() for p in model.parameters()) == removed


def test_models_that_are_averaged_keep_the_budget(build: Any) -> None:
    flags = ("--parameters-to-keep", 0.4, "--ffn-unit-width", 8)
    states = []
    for seed in (1, 2):
        model = build(*flags)
        for pruner in model.pruners.values():
            pruner.importance.data = torch.randn(pruner.plan.units, generator=torch.Generator().manual_seed(seed))
        states.append({name: value.clone() for name, value in model.state_dict().items()})
    model = build(*flags)
    model.load_state_dict({name: (states[0][name] + states[1][name]) / 2 for name in states[0]})
    budget = model.pruner.chosen_by._budget
    gates = [u.to_gates(p.plan.shape) for u, p in zip(model.kept().all, model.pruners.values(), strict=True)]
    assert budget.allows(gates)
    model.load_state_dict(states[0])
    assert torch.equal(model.kept().to_gates(model.pruner.plan.shape), states[0]["heads.kept"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--parameters-to-keep", 1.5), "--parameters-to-keep is 1.5, but a share from 0 to 1 is expected"),
        (("--parameters-to-keep", -0.1), "but a share from 0 to 1 is expected"),
        (("--flops-to-keep", "nan"), "--flops-to-keep is nan, but a share from 0 to 1 is expected"),
        (("--parameters-to-keep", 0.5, "--flops-to-keep", 0.5), "but --flops-to-keep 0.5 is given, which is about"),
        (("--parameters-to-keep", 0.5, "--heads-to-keep", 6), "but --heads-to-keep 6 is given, which is about that"),
        (("--flops-to-keep", 0.5, "--ffn-units-to-keep", 6), "but --ffn-units-to-keep 6 is given, which is about"),
        (("--parameters-to-keep", 0.5, "--cross-heads-to-keep", 2), "but --cross-heads-to-keep 2 is given"),
        (("--parameters-to-keep", 0.5, "--uniform-heads"), "but --uniform-heads is given, which is about that too"),
        (
            ("--parameters-to-keep", 0.5, "--head-selection", "fixed", "--kept-heads", "SET"),
            "but --kept-heads is given",
        ),
        (
            ("--parameters-to-keep", 0.5, "--compact", "--kept-heads", "SET"),
            "--parameters-to-keep 0.5 is about a choice",
        ),
        (
            ("--parameters-to-keep", 0.2, "--min-heads-per-module", 1),
            "--parameters-to-keep is 0.2, but the least numbers of units that are asked for have 0.302 of the "
            "parameters: raise it, or lower --min-heads-per-module",
        ),
        (
            ("--flops-to-keep", 0.5, "--cross-self-attention"),
            "--flops-to-keep 0.5 counts the operations of self-attention and cross-attention, which --cross-self-att",
        ),
        (("--parameters-to-keep", 0.5, "--ffn-unit-width", 5), "--ffn-unit-width is 5, but the encoder's feed-forward"),
    ],
)
def test_shares_that_make_no_sense(build: Any, flags: tuple, message: str) -> None:
    kept = '{"total": 12, "kept": 1, "encoder_self": [[0], []], "decoder_self": [[], []], "cross": [[], []]}'
    with pytest.raises(UserError) as error:
        build(*(kept if word == "SET" else word for word in flags))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_units_that_cannot_be_exchanged_are_refused() -> None:
    with pytest.raises(ValueError, match="one of the heads has 1,072, and all that are smaller 132: give --heads-to-"):
        budget_of(0.5, heads=1, layers=2, units=1, width=1)


def test_without_a_unit_and_with_all(build: Any, batch: Any) -> None:
    none = build("--parameters-to-keep", 0, "--ffn-unit-width", 8, "--cooldown-updates", 0).eval()
    assert [units.kept for units in none.kept().all] == [0, 0]
    with torch.no_grad():
        assert torch.isfinite(none(**batch)[0]).all()
    whole = build("--flops-to-keep", 1, "--ffn-unit-width", 8)
    assert [units.kept for units in whole.kept().all] == [12, 16]
    assert not any(pruner.plan.prunes for pruner in whole.pruners.values())
