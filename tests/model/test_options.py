"""Options that make no sense are refused in one sentence, before anything is trained."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from fairseq.models.transformer import transformer_decoder, transformer_encoder

from fairseq_dsp.errors import UserError
from fairseq_dsp.model import PruningConfig
from fairseq_dsp.model.plan import PruningPlan

DECODER_FIRST = torch.tensor([0.0] * 4 + [2.0] * 4 + [1.0] * 4)  # encoder self, decoder self, cross


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--heads-to-keep 13", "--heads-to-keep is 13, but there are 12 such heads: give a number from 0 to 12"),
        ("--heads-to-keep -1", "--heads-to-keep is -1"),
        ("--cross-heads-to-keep 5", "--cross-heads-to-keep is 5, but there are 4"),
        ("--heads-to-keep 6 --cross-heads-to-keep 2", "give either --heads-to-keep or"),
        ("--heads-to-keep 5 --min-heads-per-module 1", "need 6 heads in all, but only 5"),
        ("--cross-heads-to-keep 1 --min-heads-per-module 1", "need 2 heads in all, but only 1"),
        ("--heads-to-keep 6 --min-heads-per-module -1", "--min-heads-per-module is -1"),
        ("--heads-to-keep 6 --min-cross-heads -1", "--min-cross-heads is -1"),
        ("--heads-to-keep 6 --min-cross-heads 5", "--min-cross-heads is 5, but there are 4 such heads"),
        ("--heads-to-keep 2 --min-cross-heads 3", "--min-cross-heads is 3, but only 2 heads are to be kept"),
        ("--heads-to-keep 6 --min-encoder-heads 5", "--min-encoder-heads is 5, but there are 4 such heads"),
        (
            "--heads-to-keep 3 --min-encoder-heads 3 --min-decoder-heads 1",
            "--min-encoder-heads is 3 and --min-decoder-heads is 1, but only 3 heads are to be kept",
        ),
        ("--encoder-heads-to-keep 2 --min-cross-heads 1", "give --cross-heads-to-keep instead"),
        ("--cross-heads-to-keep 2 --min-encoder-heads 1", "give --encoder-heads-to-keep instead"),
        ("--heads-to-keep 6 --pruning-warmup-updates -1", "--pruning-warmup-updates is -1"),
        (
            "--head-selection hard_concrete --l0-penalty 1 --pruning-warmup-updates 5",
            "--pruning-warmup-updates 5 delays the choice of the heads, but",
        ),
        ("--heads-to-keep 6 --initial-temperature 0.1 --final-temperature 1", "above the initial temperature"),
        ("--heads-to-keep 6 --final-temperature 0", "positive, finite"),
        ("--heads-to-keep 6 --initial-temperature nan", "positive, finite"),
        ("--heads-to-keep 6 --cooldown-updates -5", "cooldown is -5 updates"),
        ("--cross-heads-to-keep 2 --heads-to-keep-updates 9", "--heads-to-keep-updates changes the budget for all"),
        ("--heads-to-keep 6 --heads-to-keep-low 8 --heads-to-keep-high 7", "low 8 is above"),
        ("--heads-to-keep-low 5 --heads-to-keep-high 9 --min-heads-per-module 1", "need 6 heads in all, but only 5"),
        ("--heads-to-keep 6 --heads-to-keep-low 1 --heads-to-keep-high 13", "--heads-to-keep-high is 13"),
        ("--heads-to-keep 6 --pruning-lr -1", "--pruning-lr is -1"),
        ("--heads-to-keep 6 --l0-penalty 0.1", "is for --head-selection hard_concrete"),
        ("--head-selection fixed", "belong together"),
        ("--head-selection fixed --kept-heads absent.json", "absent.json cannot be read"),
        ("--freeze-weights", "there are none to train"),
        ("--ddp-backend fully_sharded --heads-to-keep 3", "fully_sharded gives each process a part of the parameters"),
        ("--quant-noise-scalar 0.1", "--quant-noise-scalar 0.1 puts other layers in place"),
        ("--ffn-unit-width 5", "--ffn-unit-width 5 is about feed-forward units, but none are chosen: leave it out"),
        ("--encoder-attention-heads 3", "--encoder-attention-heads is 3, but a number that divides"),
        ("--decoder-attention-heads 0", "--decoder-attention-heads is 0, but a number that divides"),
        ("--base-layers 1", "--base-layers 1 puts other layers in place"),
        ("--heads-to-keep-low 2 --heads-to-keep-high 9 --heads-to-keep-updates 5", "low draws it: give one"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(build, flags: str, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        build(*flags.split())
    assert "\n" not in str(caught.value)


class Wrapped(torch.nn.Module):
    """A layer as fairscale hands it out: the module lies within another, and its attributes are those of both."""

    def __init__(self, layer: torch.nn.Module) -> None:
        super().__init__()
        self.inner = layer

    def __getattr__(self, name: str) -> Any:
        return self._modules["inner"] if name == "inner" else getattr(self._modules["inner"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs)


def test_layers_wrapped_by_fairscale(build, batch, monkeypatch: pytest.MonkeyPatch) -> None:
    for stack in (transformer_encoder, transformer_decoder):
        monkeypatch.setattr(stack, "fsdp_wrap", lambda layer, **_: Wrapped(layer))
    flags = ("--ddp-backend", "fully_sharded")
    with pytest.raises(UserError, match="fully_sharded gives each process a part of the parameters"):
        build(*flags, "--heads-to-keep", 3)
    assert build(*flags).eval()(**batch)[0].isfinite().all()


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ("--heads-to-keep 0", {"encoder_self": 0, "decoder_self": 0, "cross": 0}),
        ("--heads-to-keep 7 --head-selection ste", {"encoder_self": 4, "decoder_self": 3, "cross": 0}),  # all tie
        ("--heads-to-keep 7", {"encoder_self": 4, "decoder_self": 2, "cross": 1}),
        ("--heads-to-keep 1", {"encoder_self": 0, "decoder_self": 0, "cross": 1}),
        ("--heads-to-keep 7 --min-cross-heads 0", {"encoder_self": 4, "decoder_self": 3, "cross": 0}),
        (
            "--heads-to-keep 7 --head-selection gumbel --min-cross-heads 3",
            {"encoder_self": 4, "decoder_self": 0, "cross": 3},
        ),
        (
            "--heads-to-keep 8 --min-heads-per-module 1 --min-cross-heads 3",
            {"encoder_self": 3, "decoder_self": 2, "cross": 3},
        ),
        ("--encoder-heads-to-keep 1 --cross-heads-to-keep 3", {"encoder_self": 1, "decoder_self": 4, "cross": 3}),
        ("--heads-to-keep 6 --min-heads-per-module 1", {"encoder_self": 2, "decoder_self": 2, "cross": 2}),
        ("--heads-to-keep 8 --min-heads-per-module 1", {"encoder_self": 4, "decoder_self": 2, "cross": 2}),
    ],
)
def test_budgets_and_floors(build, flags: str, kept: dict[str, int]) -> None:
    heads = build(*flags.split()).pruner.kept()
    assert {kind: sum(map(len, heads.of(kind))) for kind in kept} == kept


@pytest.mark.parametrize(
    ("flags", "kept"),
    [
        ("--heads-to-keep 5 --min-cross-heads 0", (1, 4, 0)),
        ("--heads-to-keep 4", (0, 3, 1)),
        ("--heads-to-keep 5 --min-encoder-heads 2", (2, 2, 1)),
        ("--heads-to-keep 7 --min-encoder-heads 3 --min-heads-per-module 1", (3, 2, 2)),
        ("--heads-to-keep 6 --heads-to-keep-low 1 --heads-to-keep-high 6 --min-encoder-heads 1", (1, 4, 1)),
    ],
)
def test_a_floor_keeps_heads_that_importance_would_remove(build, flags: str, kept: tuple[int, int, int]) -> None:
    plan = build(*flags.split()).pruner.plan
    assert tuple(int(n) for n in plan.keep(DECODER_FIRST).reshape(3, 4).sum(1)) == kept


def test_of_a_single_head_cross_attention_has_its_floor(build) -> None:
    flags = "--heads-to-keep 6 --heads-to-keep-low 1 --heads-to-keep-high 6 --min-encoder-heads 1"
    plan = build(*flags.split()).pruner.plan
    assert plan.keep(DECODER_FIRST, 1).reshape(3, 4).sum(1).tolist() == [0, 0, 1]


def test_every_sample_has_the_floors(build) -> None:
    plan = build("--heads-to-keep", 4, "--min-encoder-heads", 2, "--min-cross-heads", 1).pruner.plan
    importance = torch.tensor([-3.0] * 4 + [3.0] * 4 + [-1.0] * 4)
    for update in range(0, 12_000, 100):
        encoder, decoder, cross = plan.sample(importance, update, seed=1).reshape(3, 4).sum(1)
        assert encoder >= 2
        assert cross >= 1
        assert encoder + decoder + cross == 4


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"heads_to_keep": 18}, (2, 15, 1)),
        ({"heads_to_keep": 13}, (1, 11, 1)),
        ({"heads_to_keep": 5}, (1, 3, 1)),
        ({"heads_to_keep": 4}, (0, 3, 1)),
        ({"heads_to_keep": 0}, (0, 0, 0)),
        ({"heads_to_keep": 18, "min_encoder_heads": 0}, (0, 15, 3)),
        ({"heads_to_keep": 18, "min_encoder_heads": 0, "min_cross_heads": 0}, (0, 15, 3)),
        ({"heads_to_keep": 18, "head_selection": "gumbel"}, (0, 15, 3)),
        ({"encoder_heads_to_keep": 0, "decoder_heads_to_keep": 15}, (0, 15, 12)),
    ],
)
def test_simple_keeps_a_ninth_in_the_encoder(options: dict[str, object], kept: tuple[int, int, int]) -> None:
    shape = {"encoder_self": [4] * 3, "decoder_self": [5] * 3, "cross": [4] * 3}
    plan = PruningPlan(PruningConfig(**options), shape)
    importance = torch.tensor([0.0] * 12 + [2.0] * 15 + [1.0] * 12)
    assert tuple(int(gates.sum()) for gates in plan.keep(importance).split([12, 15, 12])) == kept


def test_the_encoders_floor_is_no_more_than_the_heads_there_are() -> None:
    shape = {"encoder_self": [1], "decoder_self": [20], "cross": [20]}
    kept = PruningPlan(PruningConfig(heads_to_keep=27), shape).keep(torch.arange(41.0))
    assert kept[0] == 1
    assert kept.sum() == 27
