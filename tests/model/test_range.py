"""A model for every number of heads of a range: which heads each update trains, and which each number keeps."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from fairseq_dsp.errors import UserError
from fairseq_dsp.model import PruningConfig, PruningPlan
from fairseq_dsp.model.attention_heads import HEADS
from fairseq_dsp.model.gates import ALL, CHOOSING, FIXED

RANGE = ("--heads-to-keep-low", 2, "--heads-to-keep-high")


@pytest.mark.parametrize("layers", [2, 3, 6])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"min_encoder_heads": 1, "min_cross_heads": 2},
        {"min_encoder_heads": 11},
        {"min_encoder_heads": 11, "min_decoder_heads": 1},
        {"min_heads_per_module": 1},
        {"head_selection": "ste"},
    ],
    ids=str,
)
def test_the_heads_of_a_number_are_among_those_of_a_larger_one(layers: int, options: dict[str, Any]) -> None:
    shape = {name: [8] * layers for name in ("encoder_self", "decoder_self", "cross")}
    low = 3 * layers if "min_heads_per_module" in options else 3
    config = PruningConfig(heads_to_keep_low=low, heads_to_keep_high=24 * layers, **options)
    plan, draw = PruningPlan(config, shape), torch.Generator().manual_seed(1)
    for scale in (0.0, 1.0):  # with ties, too
        importance = (scale * torch.randn(24 * layers, generator=draw)).round(decimals=1)
        kept = [plan.keep(importance, k) for k in range(low, 24 * layers + 1)]
        assert [int(gates.sum()) for gates in kept] == list(range(low, 24 * layers + 1))
        assert all((larger >= smaller).all() for smaller, larger in itertools.pairwise(kept))


def test_a_smaller_number_has_its_share_of_the_encoders_floor() -> None:
    shape = {name: [4] * 3 for name in ("encoder_self", "decoder_self", "cross")}
    config = PruningConfig(heads_to_keep_low=3, heads_to_keep_high=36, min_encoder_heads=9)
    plan = PruningPlan(config, shape)
    importance = torch.cat([torch.zeros(12), torch.arange(1.0, 25.0)])  # the encoder's are the least
    found = {k: [int(part.sum()) for part in plan.keep(importance, k).split(12)] for k in (36, 24, 18, 12, 9, 6, 3)}
    assert {k: counts[0] for k, counts in found.items()} == {36: 12, 24: 6, 18: 5, 12: 3, 9: 3, 6: 2, 3: 1}
    for seed in range(20):
        drawn = plan.sample(importance, 3, seed)
        assert (drawn[:12] > 0).sum() >= plan.floor("encoder_self", int(drawn.sum()))


def test_the_phases_of_a_training(build: Any) -> None:
    plan = build(*RANGE, 12, "--cooldown-updates", 100, "--pruning-warmup-updates", 10).pruner.plan
    assert [plan.phase(update) for update in (0, 10, 14, 40, 109, 110, 500)] == [ALL] * 3 + [CHOOSING] * 2 + [FIXED] * 2
    for elapsed, least in ((20, 8), (45, 5), (90, 2), (99, 2)):
        drawn = {int(plan.sample(torch.zeros(12), 10 + elapsed, seed).sum()) for seed in range(300)}
        assert drawn == set(range(least, 12)), "of all twelve heads nothing is learnt"
    drawn_later = [plan.drawn(update, seed=1) for update in range(110, 1110)]
    assert set(drawn_later) == set(range(2, 13))
    assert 300 < drawn_later.count(2) < 430, "0.25 + 0.625 log(4/3) / log(14/3)"
    assert 110 < drawn_later.count(12) < 200, "0.125 + 0.625 log(14/13) / log(14/3)"
    assert drawn_later.count(3) > drawn_later.count(10)


def test_a_range_below_all_is_reached_slowly(build: Any) -> None:
    plan = build(*RANGE, 6, "--cooldown-updates", 100, "--min-encoder-heads", 2).pruner.plan
    for elapsed, numbers in ((5, {11}), (20, {8}), (45, {5, 6}), (90, {2, 3, 4, 5, 6}), (99, {2, 3, 4, 5, 6})):
        assert {int(plan.sample(torch.zeros(12), elapsed, seed).sum()) for seed in range(200)} == numbers
    largest = [max(int(plan.sample(torch.zeros(12), e, seed).sum()) for seed in range(30)) for e in range(100)]
    assert largest[0] == 12
    assert all(after in (before, before - 1) for before, after in itertools.pairwise(largest))


def test_after_the_cooldown_the_first_of_the_order_are_computed(build: Any, batch: dict[str, torch.Tensor]) -> None:
    model = build(*RANGE, 12, "--heads-to-keep", 4, "--cooldown-updates", 5).train()
    pruner, seen = model.pruner, set()
    with torch.no_grad():
        pruner.importance.copy_(torch.randn(12, generator=torch.Generator().manual_seed(2)))
    for update in range(5, 60):
        model.set_num_updates(update)
        model(**batch)
        k = int(pruner.sampled.sum())
        seen.add(k)
        assert torch.equal(pruner.sampled, pruner.plan.keep(pruner.importance, k))
        for module, part in zip(pruner.gated, pruner.sampled.split(2), strict=True):
            assert module.gate is None
            assert (module.kept or (0, 1)) == tuple(part.nonzero().flatten().tolist()) or module.kept == ()
    assert seen >= {2, 3, 12}
    assert model.kept().kept == 4
    model.eval()(**batch)
    assert sum(2 if module.kept is None else len(module.kept) for module in pruner.gated) == 4


def test_a_selection_that_never_ends_draws_from_the_whole_range(build: Any) -> None:
    plan = build(*RANGE, 6, "--head-selection", "ste", "--cooldown-updates", 100).pruner.plan
    for update in (0, 1000):
        assert plan.phase(update) == CHOOSING
        assert {int(plan.sample(torch.zeros(12), update, seed).sum()) for seed in range(200)} == {2, 3, 4, 5, 6}


def test_hard_concrete_gates_are_held_at_each_number(build: Any) -> None:
    plan = build(*RANGE, 6, "--head-selection", "hard_concrete").pruner.plan
    numbers = [plan.drawn(7, seed) for seed in range(200)]
    assert set(numbers) == {2, 3, 4, 5, 6}
    for number in range(2, 7):
        drawn = [plan.sample(torch.zeros(12), 7, seed) for seed, found in enumerate(numbers) if found == number]
        mean = torch.stack([(gates > 0).sum() for gates in drawn]).double().mean()
        assert abs(mean - number) < 4 * (number * (1 - number / 12) / len(drawn)) ** 0.5
        assert plan.keep(torch.arange(12.0), number).sum() == number


def test_without_a_number_evaluation_keeps_the_largest(build: Any) -> None:
    assert build(*RANGE, 9).pruner.kept().kept == 9


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--heads-to-keep-low 2 --heads-to-keep-high 13", "--heads-to-keep-high is 13, but there are 12 such heads"),
        ("--heads-to-keep-low -1 --heads-to-keep-high 9", "--heads-to-keep-low is -1, but there are 12 such heads"),
        ("--heads-to-keep-low 9 --heads-to-keep-high 3", "--heads-to-keep-low 9 is above --heads-to-keep-high 3: swap"),
        (
            "--heads-to-keep-low 3 --heads-to-keep-high 9 --min-encoder-heads 2 --min-cross-heads 3",
            "--min-cross-heads is 3 and --min-encoder-heads is 2, but as few as 3 heads are to be kept",
        ),
        (
            "--heads-to-keep 3 --heads-to-keep-low 3 --heads-to-keep-high 9 --min-encoder-heads 4 --min-cross-heads 2",
            "--min-cross-heads is 2 and --min-encoder-heads is 4, but as few as 3 heads are to be kept",
        ),
        (
            "--heads-to-keep-low 1 --heads-to-keep-high 3 --min-encoder-heads 4",
            r"--min-encoder-heads is 4, but at most 3 heads .* a range of more \(--heads-to-keep-high\)",
        ),
        (
            "--heads-to-keep-low 3 --heads-to-keep-high 9 --head-selection hard_concrete --l0-penalty 0.01",
            "--l0-penalty 0.01 removes heads whatever their number, and --heads-to-keep-low 3 trains many numbers",
        ),
        (
            "--heads-to-keep-low 5 --heads-to-keep-high 9 --min-heads-per-module 1",
            "need 6 heads in all, but only 5 are to be kept",
        ),
        (
            "--heads-to-keep 2 --heads-to-keep-low 3 --heads-to-keep-high 9",
            "--heads-to-keep 2 is outside of the range from 3 to 9 heads that is trained: give a number within it",
        ),
    ],
)
def test_ranges_that_are_none(build: Any, flags: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(*flags.split())


@pytest.mark.parametrize(("low", "floors"), [(0, (0, 0)), (1, (1, 0)), (2, (1, 1))])
def test_the_least_number_may_be_below_the_floors_by_default(low: int, floors: tuple[int, int]) -> None:
    """The encoder has its share of what the cross-attention's default leaves; sets stay nested."""
    shape = {name: [4] * 3 for name in ("encoder_self", "decoder_self", "cross")}
    config = PruningConfig(heads_to_keep=low, heads_to_keep_low=low, heads_to_keep_high=36, min_encoder_heads=9)
    plan = PruningPlan(config, shape)
    importance = torch.cat([torch.zeros(12), torch.ones(12), torch.zeros(12)])  # the decoder's are the largest
    kept = [plan.keep(importance, k) for k in range(low, 37)]
    assert [int(gates.sum()) for gates in kept] == list(range(low, 37))
    assert all((larger >= smaller).all() for smaller, larger in itertools.pairwise(kept))
    assert (int(kept[0][24:].sum()), int(kept[0][:12].sum())) == floors


def test_floors_that_are_given_come_before_the_default_ones() -> None:
    for low, high, given in ((6, 12, 4), (3, 12, 2)):
        config = PruningConfig(heads_to_keep_low=low, heads_to_keep_high=high, min_decoder_heads=given)
        plan = PruningPlan(config, dict.fromkeys(HEADS.types, [4] * 3))
        for total in range(low, high + 1):
            kept = plan.keep(torch.arange(36.0), total).view(3, 12).sum(1)  # the least are worth the least
            assert kept.sum() == total
            assert kept[1] >= given
    plan = PruningPlan(PruningConfig(heads_to_keep=2, min_decoder_heads=2), dict.fromkeys(HEADS.types, [4] * 3))
    assert plan.keep(torch.arange(36.0)).view(3, 12).sum(1).tolist() == [0, 2, 0]


def test_units_leave_slowly_beside_a_range_of_heads(build: Any) -> None:
    """The options of one budget that shrinks are those of the other kind."""
    model = build(
        *(
            "--heads-to-keep-low",
            2,
            "--heads-to-keep-high",
            9,
            "--cooldown-updates",
            100,
            "--heads-to-keep-updates",
            50,
        ),
        *("--ffn-units-to-keep", 16),
    )
    heads, units = (pruner.plan for pruner in model.pruners.values())
    assert [heads.phase(update) for update in (0, 20, 99, 100)] == [ALL, CHOOSING, CHOOSING, FIXED]
    counts = [units._counts_at(update)[0] for update in (0, 25, 50)]
    assert counts == sorted(counts, reverse=True)
    assert (counts[0], counts[-1]) == (units.units, 16)
