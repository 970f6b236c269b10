"""``--uniform-heads``: as many heads in each module of a stack, exactly K in all."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from fairseq_dsp.model import HeadSet, PruningConfig, PruningPlan
from fairseq_dsp.model.gates import ALL, CHOOSING

SHAPE = {"encoder_self": [4] * 6, "decoder_self": [4] * 6, "cross": [4] * 6}


def counts(k: int, shape: Mapping[str, list[int]] = SHAPE, **options: object) -> dict[str, list[int]]:
    """How many heads are kept in each module, of random importances."""
    plan = PruningPlan(PruningConfig(heads_to_keep=k, uniform_heads=True, **options), shape)
    importance = torch.randn(plan.units, generator=torch.Generator().manual_seed(k))
    gates = plan.keep(importance)
    assert int(gates.sum()) == k
    assert plan.allows(gates)
    sampled = plan.sample(importance, 0, 1)
    assert float(sampled.sum()) == pytest.approx(k)
    kept = HeadSet.from_gates(gates, shape)
    return {kind: [len(layer) for layer in kept.of(kind)] for kind in shape}


@pytest.mark.parametrize(
    ("k", "encoder", "decoder"),
    [(72, 4, 4), (36, 2, 2), (54, 3, 3), (18, 1, 1), (24, 2, 1), (42, 3, 2), (48, 2, 3), (30, 1, 2)],
)
def test_each_module_of_a_stack_keeps_as_many(k: int, encoder: int, decoder: int) -> None:
    assert counts(k) == {"encoder_self": [encoder] * 6, "decoder_self": [decoder] * 6, "cross": [decoder] * 6}


def test_the_best_heads_of_each_module_stay() -> None:
    plan = PruningPlan(PruningConfig(heads_to_keep=36, uniform_heads=True), SHAPE)
    importance = torch.arange(72.0)
    assert plan.keep(importance).view(18, 4).tolist() == [[0, 0, 1, 1]] * 18


def test_an_encoder_alone_and_stacks_of_other_sizes() -> None:
    alone = {"encoder_self": [12] * 3, "decoder_self": [], "cross": []}
    assert counts(9, alone)["encoder_self"] == [3, 3, 3]
    other = {"encoder_self": [8] * 2, "decoder_self": [4] * 3, "cross": [4] * 3}
    assert counts(20, other) == {"encoder_self": [4, 4], "decoder_self": [2] * 3, "cross": [2] * 3}


def test_every_module_of_a_stack_shrinks_alike() -> None:
    config = PruningConfig(heads_to_keep=30, uniform_heads=True, heads_to_keep_updates=6)
    plan = PruningPlan(config, SHAPE)
    importance = torch.randn(72, generator=torch.Generator().manual_seed(1))
    for update, encoder, decoder in ((0, 4, 4), (1, 4, 4), (2, 3, 3), (4, 2, 3), (6, 1, 2), (9, 1, 2)):
        kept = HeadSet.from_gates(plan.sample(importance, update, 1), SHAPE)
        assert [len(layer) for layer in kept.of("encoder_self")] == [encoder] * 6, update
        assert [len(layer) for layer in (*kept.of("decoder_self"), *kept.of("cross"))] == [decoder] * 12, update
        assert plan.phase(update) == (ALL if update < 2 else CHOOSING)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"heads_to_keep": 35}, r"cannot be 35 in all: give --heads-to-keep 30 or 36"),
        ({"heads_to_keep": 6}, r"6 modules of the encoder and 12 modules of the decoder, which cannot be 6 in all"),
        ({"heads_to_keep": 80}, r"there are 72 such heads"),
        ({"encoder_heads_to_keep": 6}, "but --encoder-heads-to-keep is given"),
        ({"heads_to_keep": 18, "heads_to_keep_low": 9, "heads_to_keep_high": 18}, "but --heads-to-keep-low is given"),
    ],
)
def test_what_is_not_uniform_is_refused(options: dict[str, int], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        PruningPlan(PruningConfig(uniform_heads=True, **options), SHAPE)
