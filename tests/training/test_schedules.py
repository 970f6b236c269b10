"""What follows from the number of updates alone: resumed, overflowed and accumulated training."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from pathlib import Path

import inprocess
import pytest
import support
import torch

from fairseq_dsp.errors import UserError
from fairseq_dsp.model import UnitPruner
from fairseq_dsp.model.monitor import WINDOW, GradientMonitor
from fairseq_dsp.subset import relaxed_top_k
from fairseq_dsp.subset.topk import gumbel_noise

GUMBEL = ["--head-selection", "gumbel", "--heads-to-keep", 6, "--cooldown-updates", 15]
RANGE = ["--heads-to-keep-low", 2, "--heads-to-keep-high", 9]
VOITA = [
    *("--head-selection", "hard_concrete", "--l0-penalty", 0.01, "--heads-to-keep", 5),
    *("--criterion", "label_smoothed_cross_entropy_dsp", "--task", "translation_dsp"),
]


SIX = json.dumps({"total": 12, "kept": 6} | {name: [[0], [0]] for name in ("encoder_self", "decoder_self", "cross")})
NO_CROSS = json.dumps({**json.loads(SIX), "total": 8, "kept": 4, "cross": []})
NONE_LAST = json.dumps({**json.loads(SIX), "kept": 5, "cross": [[0], []]})
PLAIN = ["--heads-to-keep", 6, "--cooldown-updates", 10]


@pytest.mark.parametrize(
    "flags",
    support.mostly_slow(
        [
            PLAIN,
            GUMBEL,
            [*GUMBEL, "--update-freq", 2],
            VOITA,
            ["--head-selection", "hard_concrete", "--heads-to-keep", 5],
            ["--heads-to-keep", 3, "--heads-to-keep-updates", 15],
            [*RANGE, "--heads-to-keep", 3],
            [*RANGE, "--cooldown-updates", 5, "--update-freq", 2],
            ["--ffn-units-to-keep", 7, "--ffn-unit-width", 8, "--heads-to-keep-updates", 15],
        ],
        PLAIN,
    ),
    ids=[
        "simple",
        "gumbel",
        "update-freq",
        "hard_concrete",
        "hard_concrete at K",
        "shrinking",
        "drawn",
        "drawn from an order",
        "shrinking units",
    ],
)
def test_a_resumed_run_equals_one_straight_through(flags: list, tiny_data: Path, tmp_path: Path):
    straight = inprocess.train(tiny_data, tmp_path / "straight", "--cpu", *flags, "--max-update", 16)
    inprocess.train(tiny_data, tmp_path / "halves", "--cpu", *flags, "--max-update", 7)
    halves = inprocess.train(tiny_data, tmp_path / "halves", "--cpu", *flags, "--max-update", 16)
    assert straight["model"].keys() == halves["model"].keys()
    for name, value in straight["model"].items():
        assert torch.equal(value, halves["model"][name]), name


@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        ([], ["update 10000, from which on the heads are fixed"]),
        (["--cooldown-updates", 3], []),
        (
            ["--cooldown-updates", 2, "--pruning-warmup-updates", 3],
            ["update 5, from which on the heads are fixed: the weights never train with those that stay alone; lower"],
        ),
        (["--cooldown-updates", 2, "--pruning-warmup-updates", 2], ["give --cooldown-updates 1, about 30% of the upd"]),
        (["--cooldown-updates", 9, "--ffn-units-to-keep", 7], ["update 9", "update 9, from which on the feed-forward"]),
        (["--head-selection", "gumbel"], ["update 10000, from which on the temperature and the number of heads no"]),
        (["--head-selection", "gumbel", "--cooldown-updates", 2], []),
        (["--head-selection", "hard_concrete"], []),
        (["--head-selection", "hard_concrete", "--heads-to-keep-updates", 9], ["update 9, from which on the temp"]),
    ],
)
def test_a_training_that_ends_before_its_heads_are_fixed_warns(
    flags: list, warned: list[str], tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inprocess.train(tiny_data, tmp_path, "--cpu", "--heads-to-keep", 6, *flags, "--max-update", 3)
    found = [text for text in caplog.messages if "--max-update 3 ends this training before" in text]
    assert len(found) == len(warned), found
    assert all(part in text for part, text in zip(warned, found, strict=True)), found


def test_what_may_end_a_training_earlier(tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    flags = ["--cpu", "--heads-to-keep", 6, "--patience", 3, "--stop-time-hours", 2.5, "--max-epoch", 2]
    inprocess.train(tiny_data, tmp_path, *flags, "--max-update", 0)
    for told in ("--max-epoch 2 ends", "--patience 3 may end", "--stop-time-hours 2.5 may end"):
        assert f"{told} this training before update 10000, from which on the heads are fixed" in caplog.text


def test_options_without_a_budget_are_told(tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    flags = ["--cpu", "--max-update", 1, "--head-selection", "gumbel", "--cooldown-updates", 9]
    inprocess.train(tiny_data, tmp_path / "none", *flags)
    assert "nothing is pruned, so these options change nothing: --head-selection, --cooldown-upda" in caplog.text
    caplog.clear()
    inprocess.train(tiny_data, tmp_path / "all", *flags, "--heads-to-keep", 12)
    assert "change nothing" not in caplog.text


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            "--ffn-units-to-keep 9 --ffn-unit-width 4 --cooldown-updates 1 --min-heads-per-module 1 --uniform-heads",
            "without --heads-to-keep no heads are pruned, so these options change nothing: --min-heads-per-module, "
            "--uniform-heads",
        ),
        (
            "--heads-to-keep 6 --head-selection ste --initial-temperature 0.5 --cooldown-updates 2",
            "--head-selection ste is not annealed, so these change nothing: --initial-temperature",
        ),
        (
            "--head-selection hard_concrete --l0-penalty 1 --min-encoder-heads 2 --heads-to-keep-updates 9",
            "without --heads-to-keep a penalty keeps to no number, so these change nothing: --heads-to-keep-updates, "
            "--min-encoder-heads",
        ),
        (
            "--criterion label_smoothed_cross_entropy_dsp --distill-weight 0.9",
            "--distill-weight 0.9 changes nothing without",
        ),
        ("--heads-to-keep 6 --ffn-units-to-keep 9 --ffn-unit-width 4 --cooldown-updates 1", ""),
        ("--heads-to-keep 12 --ffn-units-to-keep 9 --ffn-unit-width 4 --cooldown-updates 1", ""),
        ("--heads-to-keep 6 --head-selection hard_concrete --l0-penalty 1 --min-encoder-heads 2", ""),
    ],
)
def test_options_of_another_choice_are_told(
    flags: str, told: str, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    inprocess.train(tiny_data, tmp_path, "--cpu", "--max-update", 1, *flags.split())
    found = [text for text in caplog.messages if "change nothing" in text or "changes nothing" in text]
    assert len(found) == bool(told)
    assert told in "".join(found)


def test_a_training_does_not_go_on_with_other_heads(tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    flags = ["--cpu", "--cooldown-updates", 2]
    inprocess.train(tiny_data, tmp_path, *flags, "--heads-to-keep", 6, "--max-update", 3)
    before = (tmp_path / "checkpoint_best.pt").read_bytes()
    for more in (["--max-update", 3], ["--max-update", 6]):
        with pytest.raises(
            UserError, match=r"--heads-to-keep is 1, but this training began with 6 .*: give that to go"
        ):
            inprocess.train(tiny_data, tmp_path, *flags, "--heads-to-keep", 1, *more)
    assert (tmp_path / "checkpoint_best.pt").read_bytes() == before
    inprocess.train(tiny_data, tmp_path, *flags, "--heads-to-keep", 6, "--pruning-lr", 0.1, "--max-update", 6)
    assert "--pruning-lr was 0.2 in this training so far, and is 0.1 from here on" in caplog.text
    flags[-1] = 9
    with pytest.raises(UserError, match=r"the heads are fixed since before update 6 .*: give the schedule with which"):
        inprocess.train(tiny_data, tmp_path, *flags, "--heads-to-keep", 6, "--max-update", 12)


def test_what_may_end_a_training_is_told_before_the_heads_are_fixed(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for updates, told in ((2, 1), (4, 2), (6, 2)):
        flags = ["--cpu", "--heads-to-keep", 6, "--cooldown-updates", 3, "--patience", 5, "--max-update", updates]
        inprocess.train(tiny_data, tmp_path, *flags)
        assert caplog.text.count("--patience 5 may end this training before update 3") == told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--criterion", "label_smoothed_cross_entropy_dsp"], r"another criterion\): give the one that it was trained"),
        (["--optimizer", "sgd"], r"another optimizer\): give .* or another --save-dir and --finetune-from-model /"),
        (
            ["--encoder-layers", 1],
            r"size mismatch for heads.importance.*\): give the architecture and the sizes that it",
        ),
    ],
)
def test_a_training_does_not_go_on_as_another(flags: list, told: str, tiny_data: Path, tmp_path: Path):
    heads = ["--cpu", "--heads-to-keep", 6, "--cooldown-updates", 2]
    inprocess.train(tiny_data, tmp_path, *heads, "--max-update", 4)
    with pytest.raises(UserError, match=rf"does not fit this training \({told}"):
        inprocess.train(tiny_data, tmp_path, *heads, "--max-update", 8, *flags)


def test_a_training_that_prunes_does_not_quantise(tiny_data: Path, tmp_path: Path):
    config = tmp_path / "config.yaml"
    config.write_text(
        "n_centroids: {Linear: {key: in_features, value: {'*': 8}}}\n"
        "block_sizes: {Linear: {key: fuzzy_name, value: {attn: 8}}}\n"
        "layers_to_quantize: [decoder\\.layers\\.\\d+\\.self_attn\\.out_proj]\n"
    )
    flags = ["--cpu", "--max-update", 4, "--quantization-config-path", config]
    with pytest.raises(UserError, match=r"--quantization-config-path .* is not supported in a training that prunes"):
        inprocess.train(tiny_data, tmp_path / "out", *flags, "--heads-to-keep", 6, "--cooldown-updates", 2)


@pytest.mark.parametrize("budget", [[], ["--heads-to-keep", 4]])
def test_heads_that_come_back_are_told(
    budget: list, tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flags = ["--cpu", "--cooldown-updates", 2, "--max-update", 3]
    inprocess.train(tiny_data, tmp_path / "six", *flags, "--heads-to-keep", 6)
    assert "are there again" not in caplog.text
    start = tmp_path / "six/checkpoint_last.pt"
    inprocess.train(tiny_data, tmp_path / "on", *flags, *budget, "--finetune-from-model", start)
    assert "keeps 6 of 12 heads, but in this training all of them are there again: to keep these, give" in caplog.text


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (
            ["--head-selection", "fixed", "--kept-heads", SIX],
            "--heads-to-keep 6 is about choosing heads, but --kept-heads gives them: leave one of them out",
        ),
        (["--cooldown-updates", 0], "--cooldown-updates is 0, so the heads are fixed before anything says which are"),
        (
            ["--cooldown-updates", 5, "--heads-to-keep-updates", 9],
            "--heads-to-keep-updates is 9, but with --cooldown-updates 5 the heads are fixed before that",
        ),
    ],
)
def test_heads_that_would_be_fixed_too_early_are_refused(flags: list, told: str, tiny_data: Path, tmp_path: Path):
    with pytest.raises(UserError, match=told):
        inprocess.train(tiny_data, tmp_path, "--cpu", "--heads-to-keep", 6, *flags, "--max-update", 12)
    assert not list(tmp_path.glob("*.pt"))


def test_another_number_than_that_of_the_units_given(tiny_data: Path, tmp_path: Path):
    layers = {"encoder": [[0, 1], []], "decoder": [[], []]}
    units = json.dumps({**json.loads(SIX), "version": 2, "ffn": {"width": 8, "total": 16, "kept": 2, **layers}})
    flags = ["--cpu", "--head-selection", "fixed", "--kept-heads", units, "--ffn-units-to-keep", 5, "--max-update", 1]
    told = "--ffn-units-to-keep is 5, but --kept-heads gives 2 feed-forward units: leave one of them out"
    with pytest.raises(UserError, match=told):
        inprocess.train(tiny_data, tmp_path, *flags)


@pytest.mark.parametrize(
    ("flags", "refused"),
    [
        (["--heads-to-keep", 6], True),
        (["--heads-to-keep", 6, "--min-heads-per-module", 1], False),
        (["--heads-to-keep", 6, "--uniform-heads"], False),
        (["--head-selection", "fixed", "--kept-heads", SIX], False),
        (["--head-selection", "fixed", "--kept-heads", NONE_LAST], True),
        (["--compact", "--kept-heads", NONE_LAST], True),
        ([], False),
    ],
)
def test_alignments_need_a_head_of_the_last_layer(flags: list, refused: bool, tiny_data: Path, tmp_path: Path):
    flags = ["--cpu", *flags, "--load-alignments", "--max-update", 1]
    told = pytest.raises(UserError, match="all its heads may be removed: give --min-heads-per-module 1")
    with told if refused else contextlib.nullcontext():
        inprocess.train(tiny_data, tmp_path, *flags)


@pytest.mark.parametrize(("metric", "option"), [("bleu", "--eval-bleu"), ("accuracy", "--report-accuracy")])
def test_a_metric_that_validation_does_not_compute(metric: str, option: str, tiny_data: Path, tmp_path: Path):
    flags = ["--cpu", "--best-checkpoint-metric", metric, "--max-update", 1]
    with pytest.raises(UserError, match=f"is {metric}, which validation computes with {option} only: give that too"):
        inprocess.train(tiny_data, tmp_path, *flags)
    assert not list(tmp_path.glob("*.pt"))
    inprocess.train(tiny_data, tmp_path / "computed", *flags, option)


def test_a_metric_that_nothing_computes(tiny_data: Path, tmp_path: Path):
    flags = ["--cpu", "--best-checkpoint-metric", "nll_los", "--max-update", 1]
    told = "is nll_los, which validation does not compute, did you mean nll_loss.: give one of accuracy, bleu, loss"
    with pytest.raises(UserError, match=told):
        inprocess.train(tiny_data, tmp_path, *flags)
    inprocess.train(tiny_data, tmp_path / "not asked", *flags, "--disable-validation")


def test_a_training_that_diverges_is_told_in_a_sentence(tiny_data: Path, tmp_path: Path):
    told = r"the gradients of update 3 hold a NaN or an infinity \(gradients are Nan/Inf\), so training stops: lower"
    with pytest.raises(UserError, match=told):
        inprocess.train(tiny_data, tmp_path, "--cpu", "--lr", 1e30, "--max-update", 5)


@pytest.mark.parametrize("flags", [[], ["--heads-to-keep", 4], ["--compact", "--kept-heads", NO_CROSS]])
def test_alignments_need_cross_attention(flags: list, tiny_data: Path, tmp_path: Path):
    flags = ["--cpu", "--no-cross-attention", *flags, "--load-alignments", "--max-update", 1]
    with pytest.raises(UserError, match="this model has no cross-attention: leave it out"):
        inprocess.train(tiny_data, tmp_path, *flags)


def test_blocks_of_noise_must_fit_what_is_left(tiny_data: Path, tmp_path: Path):
    flags = ["--cpu", "--compact", "--kept-heads", SIX, "--quant-noise-pq", 0.1, "--max-update", 1]
    told = "block-size is 16, but encoder.layers.0.self_attn keeps 1 of its heads, each of 8 columns"
    with pytest.raises(UserError, match=told):
        inprocess.train(tiny_data, tmp_path, *flags, "--quant-noise-pq-block-size", 16)
    inprocess.train(tiny_data, tmp_path, *flags, "--quant-noise-pq-block-size", 8)


def test_fixed_heads_stay_fixed(tiny_data: Path, tmp_path: Path):
    flags = ["--cpu", "--heads-to-keep", 6, "--cooldown-updates", 5]
    decided = inprocess.train(tiny_data, tmp_path / "decided", *flags, "--max-update", 5)
    later = inprocess.train(tiny_data, tmp_path / "later", *flags, "--max-update", 12)
    assert torch.equal(*(inprocess.importance(state["model"]) for state in (decided, later)))
    momentum = later["last_optimizer_state"]["state"]
    assert list(momentum.values())[-1]["exp_avg"].any(), "nothing but the rate holds them still"


@pytest.fixture
def samples(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, float, list[float]]]:
    """Update number, temperature and gates of every training forward pass that follows."""
    seen: list[tuple[int, float, list[float]]] = []
    begin = UnitPruner.begin

    def watched(self: UnitPruner, x: torch.Tensor, training: bool) -> torch.Tensor:
        x = begin(self, x, training)
        if training:
            assert self.sampled is not None
            seen.append((self.update, self.temperature, self.sampled.tolist()))
        return x

    monkeypatch.setattr(UnitPruner, "begin", watched)
    return seen


def test_one_draw_an_update_in_all_its_micro_batches(tiny_data: Path, tmp_path: Path, samples: list):
    inprocess.train(tiny_data, tmp_path, "--cpu", *GUMBEL, "--update-freq", 3, "--max-update", 4)
    updates = [update for update, *_ in samples]
    assert updates == sorted(updates)
    assert set(updates) == {0, 1, 2, 3}
    assert updates.count(0) == 3, "the last update of an epoch may have fewer batches"
    draws = {update: gates for update, _, gates in samples}
    assert all(gates == draws[update] for update, _, gates in samples)
    assert len({tuple(gates) for gates in draws.values()}) == 4


def test_of_a_range_all_micro_batches_have_the_same_heads(tiny_data: Path, tmp_path: Path, samples: list):
    flags = [*RANGE, "--cooldown-updates", 3, "--update-freq", 3]
    inprocess.train(tiny_data, tmp_path, "--cpu", *flags, "--max-update", 14)
    gates = {update: tuple(drawn) for update, _, drawn in samples}
    assert len(samples) > 30
    assert all(tuple(drawn) == gates[update] for update, _, drawn in samples)
    later = {drawn for update, drawn in gates.items() if update >= 3}
    assert {2, 9} <= {sum(drawn) for drawn in later} <= set(range(2, 10))
    ordered = sorted(later, key=sum)
    assert all(one <= other for few, many in itertools.pairwise(ordered) for one, other in zip(few, many, strict=True))


def test_the_draw_does_not_depend_on_dropout(tiny_data: Path, tmp_path: Path, samples: list):
    for rate in (0.0, 0.3):
        flags = [*GUMBEL, "--pruning-lr", 0, "--dropout", rate, "--max-update", 4]
        inprocess.train(tiny_data, tmp_path / str(rate), "--cpu", *flags)
    assert samples[:4] == samples[4:]


def test_an_overflowed_update_advances_nothing(
    tiny_data: Path, tmp_path: Path, samples: list, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *_: self)  # fairseq puts the number 0 on the GPU
    scale = ["--memory-efficient-fp16", "--fp16-init-scale", 2**24, "--fp16-scale-tolerance", 0.0]
    state = inprocess.train(tiny_data, tmp_path, "--cpu", *VOITA, *scale, "--max-update", 4)
    updates = [update for update, *_ in samples]
    assert updates == sorted(updates)
    assert set(updates) == {0, 1, 2, 3}
    assert updates.count(0) > 1, "nothing overflowed: the test shows nothing"
    drawn = {update: gates for update, _, gates in samples}
    assert all(gates == drawn[update] for update, _, gates in samples)
    assert state["optimizer_history"][-1]["num_updates"] == 4


@pytest.mark.parametrize(
    ("k", "temperature", "words"),
    [
        (4, 1e-4, "hardly learn: in "),
        (64, 0.005, "exploded and was scaled down to its bound, 10000 times"),
        (36, 0.5, None),
    ],
)
def test_gradients_that_vanish_or_explode_are_logged(
    k: int, temperature: float, words: str | None, caplog: pytest.LogCaptureFixture
):
    monitor, draw = GradientMonitor(), torch.Generator().manual_seed(1)
    w = torch.randn(72, generator=draw, requires_grad=True)
    with caplog.at_level(logging.WARNING):
        for _ in range(5 * WINDOW):
            importance = w * 1
            gates = relaxed_top_k(importance, k, temperature, gumbel_noise(72, draw).float())
            monitor.watch(importance, gates)
            gates.backward(torch.randn(72, generator=draw))
            monitor.report(temperature, "advice")
    said = [record.getMessage() for record in caplog.records]
    if words is None:
        assert not said
    else:
        assert all(words in line and f"the temperature is now {temperature:.3g}" in line for line in said)
        assert len(said) == 3, "in five windows it is said at the first, the second and the fourth"


def test_a_training_in_which_nothing_is_learnt_says_so(
    tiny_data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    cold = ["--heads-to-keep", 4, "--initial-temperature", 1e-5, "--final-temperature", 1e-6, "--max-update", 52]
    with caplog.at_level(logging.WARNING):
        inprocess.train(tiny_data, tmp_path, "--cpu", *cold)
    assert "the importance variables hardly learn" in caplog.text
