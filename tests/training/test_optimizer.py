"""The importance variables' own learning rate: the step that was taken is read from the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import inprocess
import pytest
import torch
from fairseq.optim import FairseqOptimizer, FP16Optimizer
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from fairseq_dsp.errors import UserError
from fairseq_dsp.training.optimizer import EPSILON

RATE = 0.2
needs_cuda = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="fairseq's code for this calls CUDA, and there is none"),
]
KINDS = [
    pytest.param("--cpu", id="float32"),
    pytest.param("--cpu --clip-norm 1e-4", id="clip-norm"),
    pytest.param("--cpu --update-freq 3", id="update-freq"),
    pytest.param("--cpu --memory-efficient-fp16", id="memory-efficient-fp16"),
    pytest.param("--cpu --amp", id="amp"),
    pytest.param("--fp16", id="fp16", marks=needs_cuda),
    pytest.param("--fp16 --fp16-no-flatten-grads", id="fp16-no-flatten-grads", marks=needs_cuda),
    pytest.param("--fp16 --update-freq 2 --clip-norm 0.1", id="fp16-update-freq", marks=needs_cuda),
    pytest.param("--memory-efficient-fp16", id="memory-efficient-fp16-cuda", marks=needs_cuda),
    pytest.param("--amp", id="amp-cuda", marks=needs_cuda),
]


def assert_steps(before: Path, after: dict[str, Tensor]) -> None:
    """Every importance variable moved by its own rate, and no other parameter by more than the warm-up's."""
    start = torch.load(before, weights_only=True)["model"]
    steps = (inprocess.importance(after) - inprocess.importance(start)).abs()
    assert steps.numel() == 12
    torch.testing.assert_close(steps, torch.full((12,), RATE), rtol=0.01, atol=0)
    others = inprocess.without_importance(start)
    moved = [(after[name].float() - value.float()).abs().max() for name, value in others.items()]
    assert max(moved) < 0.01


@pytest.mark.parametrize("flags", KINDS)
def test_first_update(flags: str, tiny_data: Path, equal_importance: Path, tmp_path: Path):
    """With the stock task, criterion and adam, during warm-up, without weight decay."""
    options = ["--heads-to-keep", 6, "--pruning-lr", RATE, "--weight-decay", 0.1, "--max-update", 1]
    start = ["--finetune-from-model", equal_importance]
    state = inprocess.train(tiny_data, tmp_path, *options, *start, *flags.split())
    assert_steps(equal_importance, state["model"])


def test_first_update_in_bf16(tiny_data: Path, equal_importance: Path, tmp_path: Path):
    overrides = [
        "common.bf16=true",
        "optimizer.weight_decay=0.1",
        "optimization.max_update=1",
        f"model.pruning_lr={RATE}",
    ]
    start = f"checkpoint.finetune_from_model={equal_importance}"
    overrides = [*inprocess.HYDRA_TINY, *["+" * o.startswith("model.") + o for o in overrides], start]
    overrides.append("model.share_decoder_input_output_embed=false")  # as in the checkpoint
    overrides += ["model.heads_to_keep=6"]
    state = inprocess.train_hydra("joint", tiny_data, tmp_path, *overrides)
    weight = state["model"]["encoder.layers.0.fc1.weight"]
    assert torch.equal(weight, weight.bfloat16().float()), "the model was in bfloat16"
    assert_steps(equal_importance, state["model"])


@pytest.mark.parametrize("selection", ["ste", "hard_concrete"])
def test_first_update_of_other_selections(selection: str, tiny_data: Path, equal_importance: Path, tmp_path: Path):
    options = ["--cpu", "--pruning-lr", RATE, "--weight-decay", 0.1, "--max-update", 1, "--head-selection", selection]
    budget = ["--heads-to-keep", 11] if selection == "ste" else ["--l0-penalty", 0.1]
    criterion = ["--criterion", "label_smoothed_cross_entropy_dsp"]
    start = ["--finetune-from-model", equal_importance]
    state = inprocess.train(tiny_data, tmp_path, *options, *budget, *criterion, *start)
    assert_steps(equal_importance, state["model"])


def test_adafactor(tiny_data: Path, equal_importance: Path, tmp_path: Path):
    """Its eps is a pair, of another meaning than Adam's."""
    options = ["--cpu", "--optimizer", "adafactor", "--adafactor-eps", "(1e-30,1e-3)", "--lr", 1e-3]
    budget = ["--heads-to-keep", 6, "--pruning-lr", RATE, "--max-update", 5]
    state = inprocess.train(tiny_data, tmp_path, *options, *budget, "--finetune-from-model", equal_importance)
    start = torch.load(equal_importance, weights_only=True)["model"]
    assert (inprocess.importance(state["model"]) - inprocess.importance(start)).abs().min() > 0


def test_the_rate_does_not_depend_on_the_importance(tiny_data: Path, equal_importance: Path, tmp_path: Path):
    """Adafactor multiplies it by the size of the parameter, unless it is told not to."""
    options = ["--cpu", "--optimizer", "adafactor", "--adafactor-eps", "(1e-30,1e-3)", "--lr", 1e-3]
    options += [
        "--heads-to-keep",
        6,
        "--pruning-lr",
        RATE,
        "--max-update",
        1,
        "--finetune-from-model",
        equal_importance,
    ]
    one, other = (
        inprocess.importance(inprocess.train(tiny_data, tmp_path / str(len(flags)), *options, *flags)["model"])
        for flags in ([], ["--scale-parameter"])
    )
    torch.testing.assert_close(one, other)


def test_a_frozen_model_trains_with_the_same_steps(tiny_data: Path, equal_importance: Path, tmp_path: Path):
    options = ["--cpu", "--heads-to-keep", 6, "--pruning-lr", RATE, "--freeze-weights", "--max-update", 1]
    state = inprocess.train(tiny_data, tmp_path, *options, "--finetune-from-model", equal_importance)["model"]
    start = torch.load(equal_importance, weights_only=True)["model"]
    steps = (inprocess.importance(state) - inprocess.importance(start)).abs()
    torch.testing.assert_close(steps, torch.full((12,), RATE), rtol=0.01, atol=0)


def test_the_rate_survives_scheduler_and_resume(tiny_data: Path, tmp_path: Path):
    options = ["--cpu", "--heads-to-keep", 6, "--pruning-lr", RATE, "--weight-decay", 0.1]
    groups: list[list[tuple[float, float]]] = []

    def watch(optimizer: torch.optim.Optimizer, *_: object) -> None:
        groups.append([(group["lr"], group["weight_decay"]) for group in optimizer.param_groups])

    hook = register_optimizer_step_pre_hook(watch)
    try:
        inprocess.train(tiny_data, tmp_path, *options, "--max-update", 3)
        inprocess.train(tiny_data, tmp_path, *options, "--max-update", 6)
    finally:
        hook.remove()
    assert len(groups) == 6
    assert all(importance == (RATE, 0.0) for _, importance in groups)
    assert all(rate < 0.01 and decay == 0.1 for (rate, decay), _ in groups)


@pytest.mark.parametrize(
    "changed", [["--heads-to-keep", 12], ["--heads-to-keep", 6, "--freeze-weights"],
                ["--heads-to-keep", 6, "--ffn-units-to-keep", 20]]
)  # fmt: skip
def test_other_options_of_pruning_on_resume_are_refused_in_a_sentence(
    changed: list[Any], tiny_data: Path, tmp_path: Path
):
    inprocess.train(tiny_data, tmp_path, "--cpu", "--heads-to-keep", 6, "--max-update", 2)
    with pytest.raises(UserError, match="is of other parameters than this training has"):
        inprocess.train(tiny_data, tmp_path, "--cpu", *changed, "--max-update", 4)


@pytest.mark.parametrize("flags", ["", "--memory-efficient-fp16"])
def test_overrides_on_resume_are_for_the_model(flags: str, tiny_data: Path, tmp_path: Path):
    options = ["--cpu", "--heads-to-keep", 6, "--pruning-lr", RATE, *flags.split()]
    overrides = {"weight_decay": 0.3, "eps": 1e-3, "betas": (0.8, 0.9), "lr": 7.0}
    groups: list[list[dict[str, Any]]] = []

    def watch(optimizer: torch.optim.Optimizer, *_: object) -> None:
        groups.append([dict(group) for group in optimizer.param_groups])

    inprocess.train(tiny_data, tmp_path, *options, "--max-update", 2)
    hook = register_optimizer_step_pre_hook(watch)
    try:
        inprocess.train(tiny_data, tmp_path, *options, "--max-update", 4, "--optimizer-overrides", overrides)
    finally:
        hook.remove()
    assert len(groups) == 2
    for model, importance in groups:
        assert (model["weight_decay"], model["eps"], model["betas"]) == (0.3, 1e-3, (0.8, 0.9))
        assert (importance["weight_decay"], importance["eps"], importance["lr"]) == (0, EPSILON, RATE)
        assert importance["betas"] == (0.8, 0.9), "the rest is the same for both"


class Marked(nn.Module):
    """Parameters of which two are importance variables, as the pruner marks them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.parts = nn.ParameterList([torch.randn(n).half() for n in (6, 4, 5, 4, 3)])
        for i in (1, 3):
            self.parts[i].data = self.parts[i].data.float()
            self.parts[i].optim_overrides = {"importance": {"lr": RATE}}


def test_flattened_half_precision(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """--fp16 copies all parameters into one flat float32 tensor; its pieces must step each at its rate."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)  # the one thing that it asks CUDA for
    config = inprocess.argparse_config(tiny_data, tmp_path, "--fp16", "--weight-decay", 0.1, "--fp16-init-scale", 4)
    model = Marked()
    before = [p.detach().clone() for p in model.parts]
    optimizer = FP16Optimizer.build_optimizer(config, list(model.parts))
    assert optimizer.has_flat_params
    flat = next(iter(optimizer.fp32_params.values()))
    optimizer.set_lr(1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        loss = sum((p.float() * (i + 1)).sum() for i, p in enumerate(model.parts))
        optimizer.backward(loss)
        optimizer.multiply_grads(1 / 4)
        norm = optimizer.clip_grad_norm(1.0)
        optimizer.step()
    expected = (6 * 1 + 5 * 9 + 3 * 25) ** 0.5 / 4  # of the model's gradients alone
    assert abs(float(norm) - expected) < 1e-3
    for i, (old, new) in enumerate(zip(before, model.parts, strict=True)):
        rate = RATE if i in (1, 3) else 1e-3
        decay = 0.0 if i in (1, 3) else 2 * 0.1 * 1e-3 * old.float()
        torch.testing.assert_close(new.float(), old.float() - 2 * rate - decay, atol=2e-3, rtol=2e-3)
    # the pieces share the flat tensor's memory: what is saved and copied back is what was trained
    torch.testing.assert_close(flat.data[14:], torch.cat([model.parts[1].data, model.parts[3].data]))
    assert [len(group["params"]) for group in optimizer.param_groups] == [1, 2], "a GPU launches a step for each"
    state = optimizer.state_dict()
    assert [group["lr"] for group in state["param_groups"]] == [1e-3, RATE]


def test_flattened_half_precision_of_frozen_weights(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    config = inprocess.argparse_config(tiny_data, tmp_path, "--fp16", "--fp16-init-scale", 4)
    model = Marked()
    optimizer = FP16Optimizer.build_optimizer(config, [model.parts[1], model.parts[3]])
    optimizer.set_lr(1e-3)
    before = [p.detach().clone() for p in model.parts]
    optimizer.backward(sum(p.float().sum() for p in model.parts))
    optimizer.step()
    steps = [(old - new).abs().max().item() for old, new in zip(before, model.parts, strict=True)]
    assert steps == pytest.approx([0, RATE, 0, RATE, 0], rel=1e-3)


def parameters(*gradients: list[float]) -> list[nn.Parameter]:
    made = []
    for gradient in gradients:
        parameter = nn.Parameter(torch.zeros(len(gradient)))
        parameter.grad = torch.tensor(gradient)
        made.append(parameter)
    return made


def test_clipping_looks_at_the_model_alone():
    model, importance = parameters([3.0, 4.0], [1e4, 1e4])
    importance.optim_overrides = {"importance": {"lr": RATE}}
    optimizer = FairseqOptimizer(None)
    optimizer._optimizer = torch.optim.SGD([{"params": [model]}, {"params": [importance]}], lr=1.0)
    assert optimizer.clip_grad_norm(1.0) == 5
    torch.testing.assert_close(model.grad, torch.tensor([0.6, 0.8]))
    assert importance.grad.tolist() == [1e4, 1e4]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_seen(bad: float):
    model, importance = parameters([3.0, 4.0], [bad, 1.0])
    importance.optim_overrides = {"importance": {"lr": RATE}}
    optimizer = FairseqOptimizer(None)
    optimizer._optimizer = torch.optim.SGD([{"params": [model]}, {"params": [importance]}], lr=1.0)
    assert not optimizer.clip_grad_norm(1.0).isfinite()


def test_each_kind_of_units_rests_by_itself(tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """While one kind of units is chosen, another may be fixed or not begun: its importance is left as it is."""
    monkeypatch.setattr(torch.cuda, "current_device", lambda: None)
    config = inprocess.argparse_config(tiny_data, tmp_path, "--fp16", "--fp16-init-scale", 4)
    model = Marked()
    model.parts[3].optim_overrides["importance"]["active"] = False
    optimizer = FP16Optimizer.build_optimizer(config, list(model.parts))
    before = [p.detach().clone() for p in model.parts]
    optimizer.backward(sum(p.float().sum() for p in model.parts))
    optimizer.step()
    steps = [(old - new).abs().max().item() for old, new in zip(before, model.parts, strict=True)]
    assert steps[1] == pytest.approx(RATE, rel=1e-3)
    assert steps[3] == 0
    assert min(steps[0], steps[2], steps[4]) > 0
