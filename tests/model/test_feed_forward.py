"""Feed-forward units: gated, fixed and removed, alone and with heads, they compute what the definition says."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from inprocess import randomise

from fairseq_dsp.errors import UserError
from fairseq_dsp.model import HEADS as HEADS_KIND
from fairseq_dsp.model import HeadSet, PruningConfig, PruningPlan, modules_of
from fairseq_dsp.model.feed_forward import FFN
from fairseq_dsp.model.gates import ALL, CHOOSING, FIXED, scale_columns, to_columns
from fairseq_dsp.model.kinds import UnitModule
from fairseq_dsp.subset import hard_top_k

UNITS = ("--ffn-unit-width", 8, "--ffn-units-to-keep", 5, "--dropout", 0, "--cooldown-updates", 10)  # of 16
HEADS = ("--heads-to-keep", 4)


@torch.no_grad()
def masked_by_hand(stock: Any, model: Any, batch: dict[str, Any], gates: dict[str, torch.Tensor]) -> torch.Tensor:
    """What a stock model computes whose columns that read a unit are multiplied by its gate."""
    weights = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith(("heads.", "ffn."))}
    for name, pruner in model.pruners.items():
        for module, part in zip(pruner.modules, gates[name].split([m.units for m in pruner.modules]), strict=True):
            weights[f"{module.name}.{module.last}"] *= part.repeat_interleave(module.width)
    stock.load_state_dict(weights)
    return stock.eval()(**batch)[0]


def test_the_gradient_of_a_gate_is_exact() -> None:
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(3, 8, generator=draw, dtype=torch.float64, requires_grad=True)
    factors = torch.rand(8, generator=draw, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(scale_columns, (weight, factors))


def test_each_column_has_the_gate_of_its_unit() -> None:
    """Modules of different widths, one after the other; the gradient of a gate is the sum over its columns."""
    widths, sizes = [2, 2, 3, 1], [2, 3, 1, 2]
    modules = [UnitModule(FFN, "encoder", 0, "x", n, w, {}) for n, w in zip(sizes, widths, strict=True)]
    gates = torch.arange(8.0, dtype=torch.float64, requires_grad=True)
    each = [w for n, w in zip(sizes, widths, strict=True) for _ in range(n)]
    assert torch.equal(to_columns(gates, modules), gates.repeat_interleave(torch.tensor(each)))
    assert torch.autograd.gradcheck(lambda gates: to_columns(gates, modules), (gates,))


@pytest.mark.parametrize("flags", [UNITS, (*UNITS, *HEADS)], ids=["alone", "with heads"])
def test_evaluation_keeps_exactly_the_best_units(build: Any, batch: dict[str, Any], flags: tuple) -> None:
    model = build(*flags).eval()
    randomise(model)
    gates = {
        "ffn": hard_top_k(model.pruners["ffn"].importance, 5),
        "heads": model.pruner.plan.keep(model.pruner.importance),
    }
    kept = model.kept()
    assert (kept.kept, kept.set_of(FFN).kept) == (4 if HEADS[0] in flags else 12, 5)
    assert torch.equal(kept.set_of(FFN).to_gates(model.pruners["ffn"].plan.shape), gates["ffn"])
    with torch.no_grad():
        found = model(**batch)[0]
    torch.testing.assert_close(
        found, masked_by_hand(build(arch="transformer"), model, batch, gates), atol=1e-5, rtol=1e-5
    )


def test_the_gates_of_training_scale_the_units_and_learn(build: Any, batch: dict[str, Any]) -> None:
    model, stock = build(*UNITS, *HEADS, "--head-selection", "gumbel").train(), build(arch="transformer")
    randomise(model)
    model.set_num_updates(2)
    output = model(**batch)[0]
    output.square().sum().backward()
    sampled = {name: pruner.sampled.clone() for name, pruner in model.pruners.items()}
    assert sum(sampled["ffn"]) == pytest.approx(5, abs=1e-4)
    torch.testing.assert_close(output, masked_by_hand(stock, model, batch, sampled), atol=1e-5, rtol=1e-5)
    for name, pruner in model.pruners.items():
        brute = torch.zeros_like(sampled[name])
        for i in range(len(brute)):
            step = [sampled[name].clone(), sampled[name].clone()]
            for sign, gates in zip((1, -1), step, strict=True):
                gates[i] += sign * 1e-2
            values = [masked_by_hand(stock, model, batch, {**sampled, name: gates}).square().sum() for gates in step]
            brute[i] = (values[0] - values[1]) / 2e-2
        importance = pruner.importance.detach().requires_grad_()
        pruner.plan.sample(importance, 2, pruner.seed).backward(brute)
        scale = float(importance.grad.abs().max())
        assert scale > 0
        torch.testing.assert_close(pruner.importance.grad, importance.grad, atol=2e-2 * scale, rtol=2e-2)


def test_heads_and_units_draw_different_numbers(build: Any) -> None:
    model = build("--heads-to-keep", 5, "--ffn-unit-width", 8, "--ffn-units-to-keep", 5, "--head-selection", "gumbel")
    first = [pruner.plan.sample(torch.zeros(12), 0, 1) for pruner in (model.pruner, model.pruner)]
    assert torch.equal(*first)
    noise = [pruner.plan.sample(torch.zeros(pruner.plan.units), 0, 1)[:12] for pruner in model.pruners.values()]
    assert noise[0].argsort().tolist() != noise[1].argsort().tolist()


@pytest.mark.parametrize(
    "flags",
    [
        UNITS,
        (*UNITS, *HEADS),
        (*UNITS, "--encoder-normalize-before", "--decoder-normalize-before", "--activation-fn", "gelu"),
        (*UNITS, "--checkpoint-activations"),
        (*UNITS, "--ffn-units-to-keep", 1, "--encoder-ffn-embed-dim", 48),
        (*UNITS, "--ffn-units-to-keep", 0),
    ],
    ids=lambda flags: " ".join(map(str, flags[8:])) or "default",
)
def test_fixed_and_removed_units_compute_what_masked_ones_do(build: Any, batch: dict[str, Any], flags: tuple) -> None:
    model = build(*flags).train()
    randomise(model)
    results = []
    for update, fixed in ((10, True), (10, False)):
        model.set_num_updates(update)
        model.zero_grad()
        pruner = model.pruners["ffn"]
        if not fixed:  # gates of 0 and 1 in the stock computation
            gates = pruner.plan.keep(pruner.importance).split([m.units for m in pruner.modules])
            model.encoder.pruners = {}
            for gated, gate in zip(pruner.gated, gates, strict=True):
                gated.kept, gated.gate = None, gate.repeat_interleave(pruner.width)
        output = model(**batch)[0]
        output.square().sum().backward()
        results.append(
            (output.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
        )
    (output, gradients), (masked, of_masked) = results
    torch.testing.assert_close(output, masked, atol=1e-5, rtol=1e-5)
    largest = max(float(g.abs().max()) for g in of_masked.values())
    for name, gradient in of_masked.items():
        assert float((gradient - gradients[name]).abs().max()) / largest <= 1e-6, name
    model.encoder.pruners = model.pruners
    kept = model.kept()
    small = copy.deepcopy(model).eval()
    small.remove_closed_heads()
    assert small.kept_heads == kept
    with torch.no_grad():
        torch.testing.assert_close(small(**batch)[0], model.eval()(**batch)[0], atol=1e-5, rtol=1e-5)
    for module, left in zip(modules_of(small, FFN, small.args), sum(kept.set_of(FFN).layers, ()), strict=True):
        layer = small.get_submodule(module.name)
        assert sum(p.numel() for n, p in layer.named_parameters() if n.startswith("fc")) == 16 + 8 * len(left) * 33
    made = build("--compact", "--kept-heads", kept.to_json(), *flags[4:6], *flags[8:]) if flags == UNITS else None
    if made is not None:
        made.load_state_dict(small.state_dict())


def test_all_units_kept_is_the_stock_model(build: Any, batch: dict[str, Any]) -> None:
    stock = build(arch="transformer", seed=4)
    model = build("--ffn-units-to-keep", 64, seed=4)  # a sixteenth of a layer each
    assert {k: v for k, v in model.state_dict().items() if not k.startswith(("heads.", "ffn."))}.keys() == set(
        stock.state_dict()
    )
    for mode in (False, True):
        outputs = []
        for each in (stock, model):
            torch.manual_seed(1)
            outputs.append(each.train(mode)(**batch)[0])
        assert torch.equal(*outputs)


def test_a_model_without_units_to_choose_says_nothing_of_them(build: Any) -> None:
    model = build(*HEADS)
    assert not [name for name in model.state_dict() if name.startswith("ffn")]
    assert list(json.loads(model.kept().to_json())) == [
        "version", "total", "kept", "encoder_self", "decoder_self", "cross",
    ]  # fmt: skip
    layers = [*model.encoder.layers, *model.decoder.layers]
    assert {type(linear) for layer in layers for linear in (layer.fc1, layer.fc2)} == {
        torch.nn.Linear
    }  # as tools expect


def test_phases_of_both_kinds(build: Any) -> None:
    plan = build(*UNITS, "--pruning-warmup-updates", 5).pruners["ffn"].plan
    assert [plan.phase(update) for update in (4, 5, 14, 15)] == [ALL, CHOOSING, CHOOSING, FIXED]


def test_the_set_goes_through_json(build: Any) -> None:
    kept = build(*UNITS, *HEADS).kept()
    content = json.loads(kept.to_json())
    assert content["ffn"] | {"encoder": 0, "decoder": 0} == {
        "width": 8, "total": 16, "kept": 5, "encoder": 0, "decoder": 0,
    }  # fmt: skip
    assert HeadSet.read(kept.to_json()) == kept


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (("--ffn-units-to-keep", 17, "--ffn-unit-width", 8), "--ffn-units-to-keep is 17, but there are 16 such feed-f"),
        (("--ffn-units-to-keep", -1), "give a number from 0 to 64"),
        (("--ffn-units-to-keep", 3, "--ffn-unit-width", 5), "--ffn-unit-width is 5, but the encoder's feed-forward"),
        (("--ffn-units-to-keep", 3, "--ffn-unit-width", 0), "--ffn-unit-width is 0, but it must be 1 or more"),
        (("--ffn-units-to-keep", 3, "--encoder-ffn-embed-dim", 40), "which do not make 16 equal units"),
        (("--ffn-units-to-keep", 3, "--compact", "--kept-heads", "SET"), "--ffn-units-to-keep 3 is about a choice"),
        (("--ffn-units-to-keep", 3, "--head-selection", "fixed", "--kept-heads", "SET"), "says nothing of feed-f"),
    ],
)
def test_what_does_not_fit_is_refused(build: Any, flags: tuple, sentence: str) -> None:
    shape = {"encoder_self": [2, 2], "decoder_self": [2, 2], "cross": [2, 2]}
    heads = HeadSet.from_gates(torch.ones(12), shape).to_json()
    with pytest.raises(UserError, match=sentence):
        build(*(heads if flag == "SET" else flag for flag in flags))


@pytest.mark.parametrize(
    ("options", "units", "heads"),
    [
        ({"heads_to_keep": 6}, [16, 13, 10, 8, 5, 5], [12, 10, 9, 8, 6, 6]),
        ({"heads_to_keep": 12}, [16, 13, 10, 8, 5, 5], [12] * 6),
        ({}, [16, 13, 10, 8, 5, 5], [12] * 6),
    ],
)
def test_the_budgets_of_both_kinds_shrink_over_the_same_updates(
    options: dict[str, int], units: list[int], heads: list[int]
) -> None:
    config = PruningConfig(ffn_units_to_keep=5, heads_to_keep_updates=4, head_selection="ste", **options)
    for kind, expected in ((FFN, units), (HEADS_KIND, heads)):
        sizes = {of_type: [4, 4] if kind is FFN else [2, 2] for of_type in kind.types}
        plan = PruningPlan(config, sizes, kind)
        drawn = [int(plan.sample(torch.arange(float(plan.units)), update, 1).sum()) for update in range(6)]
        assert drawn == expected
        at_first = ALL if expected[0] == plan.units else CHOOSING
        assert [plan.phase(update) for update in (0, 1)] == [at_first, ALL if len(set(expected)) == 1 else CHOOSING]
