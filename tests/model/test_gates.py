"""The gates of a model: what they compute, in training and in evaluation."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from fairseq.sequence_generator import SequenceGenerator
from torch import Tensor

from fairseq_dsp.model import modules_of
from fairseq_dsp.model.gates import scale_columns
from fairseq_dsp.subset import hard_top_k


def logits(model: Any, batch: dict[str, Tensor]) -> Tensor:
    return model(**batch)[0]


def randomise(model: Any, seed: int = 3) -> None:
    """Give every head an importance of its own, and every bias a value: fairseq starts them at 0."""
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("importance", "bias")):
                parameter.copy_(torch.randn(parameter.shape, generator=draw))


class HeadScaler:
    """Multiplies head outputs by gates where they are made, before the output projection: the definition of a gate."""

    def __init__(self, model: Any, gates: Tensor) -> None:
        self.handles = []
        values = iter(gates.split([m.units for m in modules_of(model)]))
        for module in modules_of(model):
            module.module.onnx_trace = True  # the path of plain operations, where out_proj is called with its input
            self.handles.append(module.module.out_proj.register_forward_pre_hook(self.hook(next(values))))

    @staticmethod
    def hook(gate: Tensor) -> Any:
        def scale(_: Any, inputs: tuple[Tensor]) -> tuple[Tensor]:
            (x,) = inputs
            return ((x.unflatten(-1, (len(gate), -1)) * gate[:, None]).flatten(-2),)

        return scale


@pytest.mark.parametrize("k", [0, 1, 5, 11])
def test_evaluation_multiplies_each_head_output_by_the_hard_gate(build, batch, k: int) -> None:
    free = ("--min-cross-heads", 0, "--min-encoder-heads", 0)
    pruned, stock = build("--heads-to-keep", k, *free).eval(), build(arch="transformer").eval()
    randomise(pruned)
    stock.load_state_dict({n: p for n, p in pruned.state_dict().items() if not n.startswith("heads.")})
    gates = hard_top_k(pruned.pruner.importance, k)
    assert gates.sum() == k
    HeadScaler(stock, gates)
    torch.testing.assert_close(logits(pruned, batch), logits(stock, batch), atol=1e-5, rtol=1e-5)


def test_training_multiplies_each_head_output_by_the_sampled_gate_and_backpropagates_to_it(build, batch) -> None:
    flags = ("--dropout", 0, "--head-selection", "gumbel", "--initial-temperature", 0.5, "--final-temperature", 0.5)
    pruned, stock = build("--heads-to-keep", 5, *flags).train(), build(*flags[:2], arch="transformer").train()
    randomise(pruned)
    stock.load_state_dict({n: p for n, p in pruned.state_dict().items() if not n.startswith("heads.")})
    logits(pruned, batch).square().sum().backward()
    gates = pruned.pruner.sampled.clone().requires_grad_()
    assert gates.sum().item() == pytest.approx(5, abs=1e-5)
    assert ((gates > 0.01) & (gates < 0.99)).any(), "the sample should be soft at this temperature"
    HeadScaler(stock, gates)
    out = logits(stock, batch)
    out.square().sum().backward()
    torch.testing.assert_close(logits(pruned, batch), out, atol=1e-5, rtol=1e-5)
    stock_grads = dict(stock.named_parameters())
    for name, parameter in pruned.named_parameters():
        if not name.startswith("heads."):
            torch.testing.assert_close(parameter.grad, stock_grads[name].grad, atol=1e-3, rtol=1e-4, msg=name)
    # the importance's gradient is the gates' gradient, taken through the sample of the same update
    importance = pruned.pruner.importance.detach().requires_grad_()
    pruned.pruner.plan.sample(importance, 0, pruned.pruner.seed).backward(gates.grad)
    torch.testing.assert_close(pruned.pruner.importance.grad, importance.grad, atol=1e-3, rtol=1e-3)


def test_keeping_all_heads_is_the_stock_model_in_training_too(build, batch) -> None:
    for flags in ((), ("--heads-to-keep", 12), ("--encoder-heads-to-keep", 4, "--min-heads-per-module", 2)):
        pruned, stock = build(*flags).train(), build(arch="transformer").train()
        randomise(pruned)
        stock.load_state_dict({n: p for n, p in pruned.state_dict().items() if not n.startswith("heads.")})
        outputs = []
        for model in (pruned, stock):
            torch.manual_seed(9)  # dropout
            outputs.append(logits(model, batch))
        assert torch.equal(*outputs), flags
        assert not pruned.pruner.importance.requires_grad


def test_the_same_seed_initialises_the_stock_parameters_alike(build) -> None:
    pruned, stock = build("--heads-to-keep", 3), build(arch="transformer")
    for name, value in stock.state_dict().items():
        assert torch.equal(pruned.state_dict()[name], value), name


def test_evaluation_draws_no_noise_and_leaves_the_generator_alone(build, batch) -> None:
    model = build("--heads-to-keep", 5).eval()
    randomise(model)
    before = torch.get_rng_state()
    first, second = logits(model, batch), logits(model, batch)
    assert torch.equal(first, second)
    assert torch.equal(before, torch.get_rng_state())


def test_the_sample_depends_on_seed_and_update_alone(build, batch) -> None:
    model = build("--heads-to-keep", 5).train()

    def sample(update: int) -> Tensor:
        model.set_num_updates(update)
        logits(model, batch)
        return model.pruner.sampled.clone()

    first, other = sample(3), sample(4)
    torch.rand(7)
    assert torch.equal(sample(3), first)
    assert not torch.equal(first, other)
    assert not torch.equal(build("--heads-to-keep", 5, seed=2).pruner.plan.sample(torch.zeros(12), 3, 2), first)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    model.pruner.begin(torch.zeros(1), training=True)
    assert torch.equal(torch.rand(3), expected), "sampling gates must not consume the generator that dropout uses"


def test_changed_importance_is_seen_by_the_next_batch_without_leaving_evaluation(build, batch) -> None:
    model = build("--heads-to-keep", 3).eval()
    randomise(model)
    with torch.no_grad():
        before = logits(model, batch)
        model.pruner.importance.data.neg_()
        assert not torch.equal(logits(model, batch), before)


def test_beam_search_is_that_of_a_model_whose_removed_heads_are_zeroed(build, batch) -> None:
    """The incremental path reads the same gates as the fused one."""
    pruned, zeroed = build("--heads-to-keep", 4).eval(), build(arch="transformer").eval()
    randomise(pruned)
    state = {n: p.clone() for n, p in pruned.state_dict().items() if not n.startswith("heads.")}
    gates = iter(hard_top_k(pruned.pruner.importance, 4).split([m.units for m in pruned.pruner.modules]))
    for module in pruned.pruner.modules:
        state[f"{module.name}.out_proj.weight"] *= next(gates).repeat_interleave(8)
    zeroed.load_state_dict(state)
    sample = {"net_input": batch}
    found = []
    for model in (pruned, zeroed):
        generator = SequenceGenerator([model], model.decoder.dictionary, beam_size=4, max_len_b=10)
        found.append(generator.generate([model], sample))
    for a, b in zip(*found, strict=True):
        for one, other in zip(a, b, strict=True):
            assert torch.equal(one["tokens"], other["tokens"])
            torch.testing.assert_close(one["positional_scores"], other["positional_scores"])


def test_encoder_and_decoder_may_have_different_numbers_of_heads(build, batch) -> None:
    model = build("--encoder-attention-heads", 4, "--decoder-attention-heads", 1, "--heads-to-keep", 7)
    assert model.pruner.plan.shape == {"encoder_self": [4, 4], "decoder_self": [1, 1], "cross": [1, 1]}
    assert logits(model.train(), batch).isfinite().all()
    assert model.pruner.kept().kept == 7


def test_layerdrop_does_not_shift_the_gates(build, batch) -> None:
    model = build("--heads-to-keep", 5, "--encoder-layerdrop", 0.5, "--decoder-layerdrop", 0.5)
    assert [m.name for m in model.pruner.modules] == [m.name for m in build().pruner.modules]
    for update in range(8):
        model.train().set_num_updates(update)
        logits(model, batch)
        gates = model.pruner.sampled.split([module.units for module in model.pruner.modules])
        for module, own in zip(model.pruner.modules, gates, strict=True):
            scaled = scale_columns(module.parameter(module.last), own.repeat_interleave(module.width))
            assert torch.equal(module.module.given[0], scaled)


def test_activation_checkpointing_gives_the_same_gradients(build, batch) -> None:
    grads = []
    for flags in ((), ("--checkpoint-activations",)):
        model = build("--heads-to-keep", 5, "--dropout", 0, *flags).train()
        randomise(model)
        logits(model, batch).square().sum().backward()
        grads.append(model.pruner.importance.grad)
    torch.testing.assert_close(*grads)


def test_importance_stays_exact_in_half_precision(build) -> None:
    model = build("--heads-to-keep", 1, "--min-cross-heads", 0)
    with torch.no_grad():
        model.pruner.importance.fill_(20)
        model.pruner.importance[7] = 20.0001  # equal to the others in half precision
    before = model.pruner.kept()
    for convert in (torch.nn.Module.half, torch.nn.Module.bfloat16):
        half = convert(copy.deepcopy(model))
        assert half.encoder.layers[0].fc1.weight.dtype != torch.float32
        assert half.pruner.importance.dtype == torch.float32
        assert half.pruner.kept() == before
    assert before.of("decoder_self")[1] == (1,)


def test_a_model_can_be_copied_and_pickled_after_training_on_a_batch(build, batch) -> None:
    model = build("--heads-to-keep", 5, "--dropout", 0).train()
    logits(model, batch)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.pruner.gated[0] is other.encoder.layers[0].self_attn
        assert torch.equal(logits(other.eval(), batch), logits(model.eval(), batch))
        assert torch.equal(logits(other.train(), batch), logits(model.train(), batch))


@pytest.mark.parametrize("selection", ["simple", "gumbel", "ste", "hard_concrete"])
def test_schedules_begin_after_the_updates_with_all_heads(build, batch, selection: str) -> None:
    flags = ("--heads-to-keep", 2, "--head-selection", selection, "--cooldown-updates", 4, "--final-temperature", 0.5)
    shrinking = ("--heads-to-keep-updates", 5)
    at_once, later = build(*flags, *shrinking), build(*flags, *shrinking, "--pruning-warmup-updates", 20)
    for update in (0, 19):
        later.train().set_num_updates(update)
        logits(later, batch).sum().backward()
        assert torch.equal(later.pruner.sampled, torch.ones(12))
        assert later.pruner.temperature == at_once.pruner.temperature, "the temperature of its first update"
        assert not later.pruner.importance.grad.any(), "nothing is learnt, with a gradient"
        assert later.pruner.kept().kept == 2, "evaluation keeps K all the same"
    for update in (0, 2, 4, 30):
        at_once.train().set_num_updates(update)
        later.set_num_updates(20 + update)
        for model in (at_once, later):
            logits(model, batch)
        assert later.pruner.temperature == at_once.pruner.temperature
        assert later.pruner.plan.phase(20 + update) == at_once.pruner.plan.phase(update)
        if selection != "hard_concrete":  # whose number of open gates is random
            totals = [float(model.pruner.sampled.sum()) for model in (at_once, later)]
            assert totals[0] == pytest.approx(totals[1], abs=1e-5)


def test_a_larger_budget_at_first_and_a_drawn_budget(build, batch) -> None:
    model = build("--heads-to-keep", 2, "--heads-to-keep-updates", 10, "--initial-temperature", 0.1).train()
    totals = {}
    for update in (0, 5, 10, 50):
        model.set_num_updates(update)
        logits(model, batch)
        totals[update] = float(model.pruner.sampled.sum())
    assert totals == pytest.approx({0: 12, 5: 7, 10: 2, 50: 2}, abs=1e-5)
    budget = ["--heads-to-keep", 4, "--heads-to-keep-low", 2, "--heads-to-keep-high", 6, "--cooldown-updates", 5]
    model = build(*budget).train()
    drawn = []
    for update in range(60):
        model.set_num_updates(update)
        logits(model, batch)
        drawn.append(round(float(model.pruner.sampled.sum()), 3))
    assert drawn[:2] == [12, 8]
    assert set(drawn[2:]) == {2, 3, 4, 5, 6}
    assert model.pruner.kept().kept == 4


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gates_in_half_precision(dtype: torch.dtype) -> None:
    """Against float64: the scaled matrix rounded once, and no overflow where a gradient sums over a column of it."""
    draw = torch.Generator().manual_seed(5)
    weight = torch.randn(64, 32, generator=draw).to(dtype)
    grad = (10_000 * torch.rand(64, 32, generator=draw)).to(dtype)
    factors = torch.rand(32, generator=draw)
    parameter = torch.nn.Parameter(weight.abs())
    scaled = scale_columns(parameter, factors.requires_grad_())
    scaled.backward(grad)
    matrix, exact = weight.abs().double(), factors.detach().double()
    assert torch.equal(scaled, (matrix * exact).to(dtype))
    to_factors = (matrix * grad.double()).sum(0)
    assert to_factors.min() > torch.finfo(torch.float16).max
    torch.testing.assert_close(factors.grad.double(), to_factors, rtol=1e-6, atol=0)
    assert torch.equal(parameter.grad, (grad.double() * exact).to(dtype))
