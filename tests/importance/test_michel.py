"""Scores of heads against the definition, one sentence at a time."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import inprocess
import pytest
import torch
import torch.nn.functional as F
from fairseq import tasks
from torch import Tensor

from fairseq_dsp.importance import HeadScores, choose, score
from fairseq_dsp.importance.michel import _loss, gate_gradients
from fairseq_dsp.model import TYPES, modules_of

Batches = tuple[Any, list[dict[str, Any]]]


@pytest.fixture(params=["transformer_dsp", "transformer"])
def setting(request: pytest.FixtureRequest, tiny_data: Path, tmp_path: Path) -> Batches:
    """A model, and 20 padded sentences in batches of 1, 7 and 12."""
    config = inprocess.argparse_config(tiny_data, tmp_path, arch=request.param)
    task = tasks.setup_task(config.task)
    task.load_dataset("valid")
    torch.manual_seed(3)
    model = task.build_model(config.model).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    dataset = task.dataset("valid")
    bounds = [(0, 1), (1, 8), (8, 20)]
    return model, [dataset.collater([dataset[i] for i in range(*bound)]) for bound in bounds]


def loss_with_gates(model: Any, sample: dict[str, Any], xi: Tensor) -> Tensor:
    """The loss of a batch when every head output is multiplied by its gate through the output projection's columns."""
    modules = list(modules_of(model))
    state = {name: value.detach() for name, value in model.state_dict().items()}
    for module, gate in zip(modules, xi.split([m.units for m in modules]), strict=True):
        name = f"{module.name}.out_proj.weight"
        state[name] = state[name] * gate.repeat_interleave(state[name].shape[1] // module.units)
    output, _ = torch.func.functional_call(model, state, (), sample["net_input"])
    return F.cross_entropy(output.flatten(0, 1), sample["target"].flatten(), ignore_index=1, reduction="sum")


def one_by_one(model: Any, batches: list[dict[str, Any]]) -> Tensor:
    """The gradient of every gate for every sentence, each in a batch of its own, without padding. *Shape:* (B, N)"""
    rows = []
    for batch in batches:
        inputs = batch["net_input"]
        for i in range(len(batch["id"])):
            source = inputs["src_tokens"][i]
            target = batch["target"][i]
            source, length = source[source != 1][None], int((target != 1).sum())
            sample = {
                "net_input": {
                    "src_tokens": source,
                    "src_lengths": torch.tensor([source.shape[1]]),
                    "prev_output_tokens": inputs["prev_output_tokens"][i : i + 1, :length],
                },
                "target": target[None, :length],
            }
            xi = torch.ones(12, requires_grad=True)
            (gradient,) = torch.autograd.grad(loss_with_gates(model, sample, xi), xi)
            rows.append(gradient)
    return torch.stack(rows)


def test_gradients_of_a_batch_equal_the_loop_over_its_sentences(setting: Batches):
    model, batches = setting
    together = torch.cat([gate_gradients(model, batch, torch.ones(12)) for batch in batches])
    apart = one_by_one(model, batches)
    assert together.shape == (20, 12)
    assert apart.abs().max() > 0.1
    torch.testing.assert_close(together.float(), apart, atol=1e-5, rtol=1e-5)


def test_the_score_is_the_mean_absolute_gradient_normalised_by_module(setting: Batches):
    model, batches = setting
    scores = score(model, batches)
    assert scores.sentences == 20
    expected = one_by_one(model, batches).abs().mean(0)
    expected = torch.cat([part / part.norm() for part in expected.split(2)])
    torch.testing.assert_close(scores.values.float(), expected, atol=1e-5, rtol=1e-5)
    # the absolute value is taken of each sentence: of the sum over all it would be another ranking
    summed = torch.cat([part / part.norm() for part in one_by_one(model, batches).sum(0).abs().split(2)])
    assert not torch.allclose(summed, expected, atol=0.01)


def test_scoring_leaves_the_model_as_it_was(setting: Batches):
    model, batches = setting
    before = {name: value.clone() for name, value in model.state_dict().items()}
    output = model(**batches[1]["net_input"])[0]
    trained = [p.requires_grad for p in model.parameters()]
    score(model, batches)
    assert [p.requires_grad for p in model.parameters()] == trained
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model(**batches[1]["net_input"])[0], output)
    assert not any(module.module.out_proj._forward_pre_hooks for module in modules_of(model))


def test_an_adaptive_softmax_has_the_loss_of_its_own_distribution(tiny_data: Path, tmp_path: Path):
    """Its decoder's output are no logits."""
    # a smooth function, for differences of losses that are partly in float32 need large steps
    flags = ("--adaptive-softmax-cutoff", "9", "--decoder-output-dim", "16", "--activation-fn", "gelu")
    config = inprocess.argparse_config(tiny_data, tmp_path, *flags, arch="transformer")
    task = tasks.setup_task(config.task)
    task.load_dataset("valid")
    torch.manual_seed(1)
    model = task.build_model(config.model).eval()
    dataset = task.dataset("valid")
    batch = dataset.collater([dataset[i] for i in range(8)])
    output = model(**batch["net_input"])
    assert output[0].shape[-1] == 16
    whole = model.get_normalized_probs(output, log_probs=True)
    assert whole.shape[-1] == len(task.target_dictionary)
    expected = -whole.gather(2, batch["target"][..., None])[batch["target"] != 1].sum()
    torch.testing.assert_close(_loss(model, batch), expected)
    gradients = gate_gradients(model, batch, torch.ones(12))
    for head in (0, 5, 11):  # by central differences
        losses = []
        for step in (1e-3, -1e-3):
            gates = torch.ones(12, dtype=torch.float64)
            gates[head] += step
            with torch.no_grad():
                twin = copy.deepcopy(model).double()
                modules = list(modules_of(twin))
                for module, gate in zip(modules, gates.split([m.units for m in modules]), strict=True):
                    weight = module.module.out_proj.weight
                    weight.mul_(gate.repeat_interleave(weight.shape[1] // module.units))
                whole = twin.get_normalized_probs(twin(**batch["net_input"]), log_probs=True)
            losses.append(-whole.gather(2, batch["target"][..., None])[batch["target"] != 1].sum())
        slope = (losses[0] - losses[1]) / 2e-3
        torch.testing.assert_close(gradients[:, head].sum(), slope, rtol=1e-3, atol=1e-4)


def test_heads_that_nothing_reads_score_nothing(tiny_data: Path, tmp_path: Path):
    """Without cross-attention the encoder has no effect on the loss."""
    config = inprocess.argparse_config(tiny_data, tmp_path, "--no-cross-attention", arch="transformer_dsp")
    task = tasks.setup_task(config.task)
    task.load_dataset("valid")
    model, dataset = task.build_model(config.model), task.dataset("valid")
    scores = score(model, [dataset.collater([dataset[i] for i in range(4)])])
    assert scores.shape == {"encoder_self": [2, 2], "decoder_self": [2, 2], "cross": []}
    assert scores.values[:4].tolist() == [0] * 4
    assert (scores.values[4:] > 0).all()


def test_a_removed_head_scores_nothing_and_changes_the_others(setting: Batches):
    model, batches = setting
    gates = torch.ones(12)
    gates[[0, 5]] = 0
    scores = score(model, batches, gates=gates)
    assert scores.values[[0, 5]].tolist() == [0, 0]
    assert (scores.values[gates > 0] > 0).all()
    assert not torch.allclose(scores.values[6:8], score(model, batches).values[6:8])


SHAPE = {kind: [2] for kind in TYPES}


def table(values: list[float]) -> HeadScores:
    return HeadScores(torch.tensor(values), SHAPE, 1)


def test_one_shot_keeps_the_highest_and_ties_go_to_the_lower_index():
    heads, _ = choose(lambda gates: table([0.1, 0.9, 0.5, 0.5, 0.2, 0.7]), SHAPE, 3)
    assert [heads.of(kind) for kind in TYPES] == [((1,),), ((0,),), ((1,),)]
    heads, _ = choose(lambda gates: table([0.1, 0.9, 0.5, 0.5, 0.2, 0.7]), SHAPE, 4, floor=1)
    assert [heads.of(kind) for kind in TYPES] == [((1,),), ((0, 1),), ((1,),)]


def test_greedy_scores_anew_and_never_brings_a_head_back():
    seen: list[list[float]] = []

    def scoring(gates: Tensor) -> HeadScores:
        seen.append(gates.tolist())
        # head 5 is worthless until head 0 is gone, and head 0 looks best once it is
        return table([0.1, 0.8, 0.6, 0.7, 0.5, 0.2] if gates.dim() == 0 else [1.0, 0.3, 0.6, 0.7, 0.5, 0.9])

    heads, first = choose(scoring, SHAPE, 2, steps=4)
    assert seen == [1.0, [0, 1, 1, 1, 1, 1], [0, 0, 1, 1, 1, 1], [0, 0, 1, 1, 0, 1]]
    assert [heads.of(kind) for kind in TYPES] == [((),), ((1,),), ((1,),)]
    assert first.values[0] == pytest.approx(0.1)


@pytest.mark.parametrize("k", range(7))
@pytest.mark.parametrize("steps", [1, 3, 9])
def test_exactly_k(k: int, steps: int):
    heads, _ = choose(lambda gates: table([0.3] * 6), SHAPE, k, steps=steps)
    assert heads.kept == k


@pytest.mark.parametrize(("k", "times"), [(6, 1), (5, 1), (4, 2), (0, 6)])
def test_it_scores_once_for_each_number_of_heads(k: int, times: int):
    seen = []

    def scoring(gates: Tensor) -> HeadScores:
        seen.append(tuple(gates.expand(6).tolist()))
        return table([0.1, 0.9, 0.5, 0.6, 0.2, 0.7])

    choose(scoring, SHAPE, k, steps=6)
    assert len(seen) == len(set(seen)) == times


def test_what_cannot_be_is_refused_before_anything_is_scored():
    def scoring(gates: Tensor) -> HeadScores:
        raise AssertionError

    with pytest.raises(ValueError, match="from 0 to 6"):
        choose(scoring, SHAPE, 7)
    with pytest.raises(ValueError, match="need 3 heads in all, but only 2"):
        choose(scoring, SHAPE, 2, floor=1)
    with pytest.raises(ValueError, match="number of steps is 0"):
        choose(scoring, SHAPE, 2, steps=0)
