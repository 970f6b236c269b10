"""What modules compute with in place of parameters: the same numbers, and no more operations for more modules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from inprocess import randomise
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_dsp.model.attention import PrunableAttention
from fairseq_dsp.model.entering import Entering, KeptParts, ScaledColumns

UNITS = ("--ffn-unit-width", 8, "--ffn-units-to-keep", 5, "--encoder-ffn-embed-dim", 32)


class Launches(TorchDispatchMode):
    """Counts what a GPU would be given: all operations but views, and the making of empty tensors."""

    number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        view = any(one.alias_info and not one.alias_info.is_write for one in func._schema.returns)
        self.number += not view and not any(word in func.__name__ for word in ("empty", "detach"))
        return func(*args, **(kwargs or {}))


def leave_gradients(entering: Entering, modules: list[Any]) -> None:
    for module in modules:
        for leaf in module.module.given:
            leaf.grad = torch.ones_like(leaf)


@pytest.mark.parametrize("how", ["scaled", "kept"])
def test_more_modules_take_no_more_operations(build: Any, how: str) -> None:
    counts = []
    for layers in (1, 5):
        model = build("--heads-to-keep", 2, "--encoder-layers", layers, "--decoder-layers", layers)
        modules = model.pruner.modules
        assert len(modules) == 3 * layers
        columns = torch.ones(sum(m.units * m.width for m in modules), requires_grad=True)
        parts = KeptParts(modules, [[0]] * len(modules))
        with Launches() as launches:
            entering = ScaledColumns(modules, columns) if how == "scaled" else parts.cut()
        made = launches.number
        leave_gradients(entering, modules)
        with Launches() as launches:
            gradients = entering.gradients()
        assert all(gradient is not None for gradient in gradients)
        counts.append((made, launches.number))
    assert counts[0] == counts[1]
    assert sum(counts[0]) <= 12


@pytest.mark.parametrize("flags", [(), ("--checkpoint-activations",), ("--no-cross-attention",)], ids=str)
def test_scaled_matrices_have_the_gradients_of_gates_in_the_modules(
    build: Any, batch: dict[str, Any], monkeypatch: pytest.MonkeyPatch, flags: tuple[Any, ...]
) -> None:
    """In float64, to its precision; a module that changes its matrix at each call scales it by itself."""
    results = []
    for noisy in (False, True):
        monkeypatch.setattr(PrunableAttention, "is_noisy", property(lambda _, noisy=noisy: noisy))
        model = build("--heads-to-keep", 4, "--min-cross-heads", 0, "--dropout", 0, *flags).double().train()
        randomise(model)
        for _ in range(2):  # gradients add up over the passes of an update
            model(**batch)[0].square().sum().backward()
        assert all((module.module.gate is not None) == noisy for module in model.pruner.modules)
        assert model.pruner.importance.grad.abs().min() > 0
        results.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        atol = 1e-6 if name == "heads.importance" else 1e-11  # which is in float32
        torch.testing.assert_close(gradient, results[1][name], rtol=1e-6, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("update", [3, 10], ids=["choosing", "fixed"])
def test_a_layer_that_is_dropped_leaves_its_parameters_without_gradient(
    build: Any, batch: dict[str, Any], update: int
) -> None:
    """As in the stock model, so that the optimiser passes over them."""
    flags = ("--heads-to-keep", 6, "--min-heads-per-module", 1, "--cooldown-updates", 10)
    model = build(*flags, "--encoder-layerdrop", 0.5, "--decoder-layerdrop", 0.5).train()
    model.set_num_updates(update)
    states = set()
    torch.manual_seed(1)
    for _ in range(30):
        model.zero_grad(set_to_none=True)
        model(**batch)[0].square().sum().backward()
        for i, layer in enumerate(model.encoder.layers):
            unused = layer.fc1.weight.grad is None
            states.add((i, unused))
            for name, parameter in layer.self_attn.named_parameters():
                assert (parameter.grad is None) == unused, name
    assert len(states) == 4
    assert not torch.isnan(model.pruner.importance.grad).any()


def test_units_in_half_precision(build: Any, batch: dict[str, Any]) -> None:
    """Matrices of heads and of feed-forward units, in bfloat16, in both phases."""
    model = build("--heads-to-keep", 5, *UNITS, "--dropout", 0, "--cooldown-updates", 10).bfloat16().train()
    randomise(model)
    for update in (3, 10):
        model.set_num_updates(update)
        model.zero_grad(set_to_none=True)
        model(**batch)[0].float().square().sum().backward()
        for pruner in model.pruners.values():
            assert pruner.importance.grad.dtype == torch.float32
            for module in pruner.modules:
                for name in module.parameters:
                    gradient = module.parameter(name).grad
                    if gradient is None:
                        assert update == 10, "only once the units are fixed, in a module without any"
                        assert module.module.kept == ()
                    else:
                        assert gradient.dtype == torch.bfloat16
