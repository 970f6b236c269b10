"""Heads that are fixed: only the kept ones are computed, and the numbers are those of gates of 0 and 1."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import inprocess
import pytest
import torch
from inprocess import randomise

from fairseq_dsp.errors import UserError
from fairseq_dsp.model import HEADS
from fairseq_dsp.model.gates import ALL, CHOOSING, FIXED
from fairseq_dsp.removal.checkpoint import TrainedModel

KEPT = ("--heads-to-keep", 5, "--dropout", 0, "--cooldown-updates", 10)


def run(model: Any, batch: dict[str, Any]) -> torch.Tensor:
    model.zero_grad(set_to_none=True)
    output, extra = model(**batch, alignment_layer=1)
    output.square().sum().backward()
    assert extra["attn"][0] is not None or not model.pruner.gated[-1].kept
    return output.detach()


@pytest.mark.parametrize(
    "flags",
    [
        (),
        ("--encoder-normalize-before", "--decoder-normalize-before"),
        ("--encoder-attention-heads", 4, "--encoder-embed-dim", 32, "--decoder-attention-heads", 2),
        ("--cross-self-attention", "--no-cross-attention", "--min-cross-heads", 0),
        ("--cross-self-attention",),
        ("--checkpoint-activations",),
        ("--no-cross-attention", "--min-cross-heads", 0),
        ("--min-heads-per-module", 0, "--heads-to-keep", 1),
        ("--heads-to-keep", 0, "--min-cross-heads", 0, "--min-encoder-heads", 0),
    ],
    ids=lambda flags: " ".join(map(str, flags)) or "default",
)
def test_forward_and_backward_are_those_of_masked_heads(build: Any, batch: dict[str, Any], flags: tuple) -> None:
    flags = tuple(map(str, flags))
    model = build(*KEPT, *flags).train()
    randomise(model)
    masked, results = model.pruner, []
    model.set_num_updates(10)
    for skipping in (False, True):
        if not skipping:  # gates of 0 and 1 in the stock computation
            gates = masked.plan.keep(masked.importance)
            model.encoder.pruners = {}
            for attention, module, part in zip(
                masked.gated, masked.modules, gates.split([m.units for m in masked.modules]), strict=True
            ):
                attention.gate = part.repeat_interleave(module.width)
        else:
            model.encoder.pruners = model.pruners
        output = run(model, batch)
        results.append((output, {name: p.grad for name, p in model.named_parameters()}))
    assert any(attention.kept is not None for attention in masked.gated)
    (output, gradients), (fixed, of_fixed) = results
    largest = max(float(g.abs().max()) for g in gradients.values() if g is not None)
    torch.testing.assert_close(fixed, output, atol=1e-5, rtol=1e-5)
    parameters = dict(model.named_parameters())
    for name, gradient in of_fixed.items():
        if name == "heads.importance":
            assert not gradient.any()
            continue
        if gradients[name] is None:  # an encoder that nothing reads
            assert gradient is None, name
            continue
        if gradient is None:  # nothing is written where no head is left
            assert getattr(parameters[name], "at_rest", False), name
            gradient = torch.tensor(0.0)
        error = float((gradient - gradients[name]).abs().max()) / largest
        assert error <= 1e-6, f"{name}: {error:.1e} of the largest gradient"


def test_no_parameter_of_a_removed_head_has_a_gradient(build: Any, batch: dict[str, Any]) -> None:
    model = build(*KEPT).train()
    randomise(model)
    model.set_num_updates(10)
    run(model, batch)
    for module, kept in zip(model.pruner.modules, (a.kept for a in model.pruner.gated), strict=True):
        gone = [h for h in range(module.units) if kept is not None and h not in kept]
        if gone:
            for name, (dim, _) in module.parameters.items():
                gradient = module.module.get_parameter(name).grad
                if gradient is not None:
                    assert not gradient.index_select(dim, module.rows(gone)).any(), f"{module.name}.{name}"


def test_phases(build: Any) -> None:
    def phases(*flags: object) -> list[int]:
        plan = build("--heads-to-keep", 5, *flags).pruner.plan
        return [plan.phase(update) for update in (0, 4, 5, 9, 10, 99)]

    assert phases("--cooldown-updates", 5) == [CHOOSING, CHOOSING, FIXED, FIXED, FIXED, FIXED]
    assert phases("--cooldown-updates", 5, "--pruning-warmup-updates", 5) == [
        ALL,
        ALL,
        CHOOSING,
        CHOOSING,
        FIXED,
        FIXED,
    ]
    shrinking = ("--heads-to-keep-updates", 70)  # 12 until update 5, of 12 − 7 · 5 / 70
    assert phases("--cooldown-updates", 99, *shrinking) == [ALL, ALL, ALL, CHOOSING, CHOOSING, FIXED]
    for selection in ("gumbel", "ste", "hard_concrete"):  # whose importance goes on learning
        assert phases("--cooldown-updates", 5, "--head-selection", selection) == [CHOOSING] * 6
    plan = build("--heads-to-keep", 12).pruner.plan
    assert plan.phase(3) == ALL


@pytest.mark.parametrize("selection", ["simple", "gumbel", "ste", "hard_concrete"])
@pytest.mark.parametrize("frozen", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(build, batch, selection: str, frozen: bool) -> None:
    grads = []
    flags = ("--heads-to-keep", 5, "--dropout", 0, "--head-selection", selection, "--cooldown-updates", 10)
    for more in ((), ("--checkpoint-activations",)):
        model = build(*flags, *more, *(["--freeze-weights"] if frozen else []))
        randomise(model)
        model.load_state_dict(model.state_dict())  # frozen weights must be trained ones
        model.train()
        for update in (3, 10):
            model.set_num_updates(update)
            run(model, batch)
            grads.append([model.pruner.importance.grad] + [p.grad for p in model.parameters() if p.requires_grad])
    for one, other in zip(grads[:2], grads[2:], strict=True):
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(a, b)


def test_the_sampler_is_gone_through_once_in_a_backward_pass(build, batch, monkeypatch: pytest.MonkeyPatch) -> None:
    from fairseq_dsp.subset import Gumbel

    passes = []
    sample = Gumbel.sample

    def watched(self: Gumbel, *args: Any) -> torch.Tensor:
        gates = sample(self, *args)
        gates.register_hook(lambda gradient: passes.append(gradient.clone()))
        return gates

    monkeypatch.setattr(Gumbel, "sample", watched)
    for more in ((), ("--checkpoint-activations",)):
        passes.clear()
        model = build("--heads-to-keep", 5, "--dropout", 0, "--head-selection", "gumbel", *more).train()
        run(model, batch)
        assert len(passes) == 1
        assert (passes[0] != 0).all(), "of all modules"
        run(model, batch)
        assert len(passes) == 2


def test_what_a_checkpoint_keeps_is_what_it_says(build: Any, batch: dict[str, Any]) -> None:
    """Not what a rule of today would choose, unless another number of heads is asked for."""
    model = build(*KEPT)
    randomise(model)
    state = model.state_dict()
    assert int(state["heads.kept"].sum()) == 5
    other = state["heads.kept"].clone()
    cross = slice(8, 12)  # any other heads of the same type are allowed
    other[cross] = other[cross].flip(0)
    assert not torch.equal(other, state["heads.kept"])
    assert model.pruner.plan.allows(other)
    state["heads.kept"] = other
    later = build(*KEPT).eval()
    later.load_state_dict(state)
    assert later.pruner.kept().to_gates(later.pruner.plan.shape).tolist() == other.tolist()
    fewer = build("--heads-to-keep", 3).eval()
    fewer.load_state_dict(state)
    assert fewer.pruner.kept().kept == 3
    later.train()(**batch)  # training goes on choosing, by the importance
    later.eval()(**batch)
    assert torch.equal(later.state_dict()["heads.kept"], model.state_dict()["heads.kept"])


def test_averaged_checkpoints_that_disagree_keep_k_by_the_mean_importance(build: Any) -> None:
    states = []
    for seed in (1, 2):
        model = build(*KEPT)
        with torch.no_grad():
            model.pruner.importance.copy_(torch.randn(12, generator=torch.Generator().manual_seed(seed)))
        states.append(model.state_dict())
    assert not torch.equal(*(state["heads.kept"] for state in states))
    mean = {  # as fairseq's scripts/average_checkpoints.py does
        name: sum(s[name] for s in states) / 2
        if states[0][name].is_floating_point()
        else sum(s[name] for s in states) // 2
        for name in states[0]
    }
    model = build(*KEPT).eval()
    model.load_state_dict(mean)
    expected = model.pruner.plan.keep(mean["heads.importance"])
    assert torch.equal(model.pruner.kept().to_gates(model.pruner.plan.shape), expected)


@pytest.mark.parametrize(
    ("options", "floor"),
    [
        (KEPT, 3),
        (("--heads-to-keep", 8, "--uniform-heads"), 8),
        (("--parameters-to-keep", 0.5), 3),
        (("--heads-to-keep-low", 3, "--heads-to-keep-high", 6), 3),
    ],
    ids=lambda options: str(options[0]) if isinstance(options, tuple) else "",
)
def test_a_later_versions_floors_change_no_checkpoint(
    tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[Any, ...], floor: int
) -> None:
    """Nor does what `heads` and `compact` read of it."""
    config = inprocess.argparse_config(tiny_data, tmp_path, *options)
    model = inprocess.build(config)
    randomise(model)
    with torch.no_grad():  # few in the decoder's self-attention
        model.pruner.importance[4:8] -= 2
    state = model.state_dict()
    kept = state["heads.kept"].clone()
    assert kept[4:8].sum() < floor
    earlier = inprocess.save(model, config, tmp_path / "earlier.pt")

    def other(_: Any, kind: str, __: int, **___: bool) -> int:
        return floor if kind == "decoder_self" else 0

    monkeypatch.setattr(type(HEADS), "default_floor", other)
    later = inprocess.build(config).eval()
    later.load_state_dict(state)
    assert not torch.equal(later.pruner.chosen_by.keep(later.pruner.importance), kept), "what it would choose"
    assert torch.equal(later.kept().to_gates(later.pruner.plan.shape), kept)
    assert torch.equal(TrainedModel.read(str(earlier)).heads.to_gates(later.pruner.plan.shape), kept)


@pytest.mark.parametrize("update", [3, 10])
def test_two_forward_passes_before_a_backward_pass(build: Any, batch: dict[str, Any], update: int) -> None:
    """As if they had been made one after the other; where layers are computed again, they are refused."""
    model = build(*KEPT).train()
    randomise(model)
    model.set_num_updates(update)
    found = []
    for together in (False, True):
        model.zero_grad()
        outputs = []
        for factor in (1, 3):
            outputs.append(factor * model(**batch)[0].square().sum())
            if not together:
                outputs.pop().backward()
        if together:
            sum(outputs).backward()
        found.append([parameter.grad for parameter in model.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    model = build(*KEPT, "--checkpoint-activations").train()
    model.set_num_updates(update)
    for _ in range(2):
        model(**batch)[0].sum().backward()
    output = model(**batch)[0]
    with pytest.raises(UserError, match="two forward passes were made before a backward pass, but with --checkpoint"):
        model(**batch)
    del output
    model(**batch)
