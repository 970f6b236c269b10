"""Output projections that take over what removed units did: the least-squares solution, and what it is good for."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import inprocess
import numpy as np
import pairs
import pytest
import torch
from fairseq import checkpoint_utils

from fairseq_dsp.cli import main
from fairseq_dsp.importance.compensation import compensate, fit
from fairseq_dsp.model import HeadSet

HEADS = {
    "version": 2, "total": 12, "kept": 5, "encoder_self": [[1], []], "decoder_self": [[0, 1], []], "cross": [[0], [1]]
}  # fmt: skip
BOTH = HEADS | {"ffn": {"width": 8, "total": 16, "kept": 5, "encoder": [[0, 3], [1]], "decoder": [[], [2, 3]]}}
UNEVEN = HEADS | {"ffn": {"width": 3, "total": 40, "kept": 1, "encoder": [[0], []], "decoder": [[], []]}}


PLACES = {"encoder_self": "self_attn", "decoder_self": "self_attn", "cross": "encoder_attn"}


@pytest.fixture(scope="module")
def loaded(stock: Path, tiny_data: Path) -> tuple[Any, list[dict[str, Any]]]:
    """The model of the checkpoint, and the validation set in batches of five."""
    (model,), _, task = checkpoint_utils.load_model_ensemble_and_task([str(stock)], {"data": str(tiny_data)})
    task.load_dataset("valid")
    dataset = task.dataset("valid")
    return model.eval(), [dataset.collater([dataset[j] for j in range(i, i + 5)]) for i in range(0, 20, 5)]


@pytest.mark.parametrize("columns", [[0, 3, 4], [2], []])
@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_the_solution_is_that_of_least_squares(columns: list[int], ridge: float) -> None:
    """With λ as rows of √λ below the data, by numpy."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=(50, 6)) @ draw.normal(size=(6, 6))
    weight, bias = draw.normal(size=(4, 6)), draw.normal(size=4)
    z = np.hstack([x, np.ones((50, 1))])
    found, offset = fit(*map(torch.from_numpy, (z.T @ z, weight, bias)), columns, ridge)
    penalty = ridge * np.mean(np.diag(x[:, columns].T @ x[:, columns])) if columns else 0.0
    rows = np.hstack([np.sqrt(penalty) * np.eye(len(columns)), np.zeros((len(columns), 1))])
    left = np.vstack([np.hstack([x[:, columns], np.ones((50, 1))]), rows])
    right = np.vstack([x @ weight.T + bias, np.sqrt(penalty) * weight[:, columns].T])
    expected = np.linalg.lstsq(left, right, rcond=None)[0].T
    np.testing.assert_allclose(np.hstack([found, offset[:, None]]), expected, atol=1e-9)
    if not columns:
        np.testing.assert_allclose(offset, (x @ weight.T + bias).mean(0))


def outputs(model: Any, batches: list[dict[str, Any]], names: list[str]) -> dict[str, torch.Tensor]:
    """What layers read and give in the stock computation, of every token that is no padding, by name."""
    found: dict[str, list[torch.Tensor]] = {name: [] for name in names}

    def keep(name: str, padding: torch.Tensor) -> Any:
        return lambda _, inputs, __: found[name].append(inputs[0].detach()[~padding.t()])

    for batch in batches:
        inputs = batch["net_input"]
        handles = []
        for name in names:
            side = "src_tokens" if name.startswith("encoder") else "prev_output_tokens"
            layer = model.get_submodule(name)
            handles.append(layer.register_forward_hook(keep(name, inputs[side] == 1)))
        model(**inputs)
        for handle in handles:
            handle.remove()
    return {name: torch.cat(parts) for name, parts in found.items()}


def test_every_module_is_as_near_to_itself_as_it_can_be(loaded: tuple[Any, list[dict[str, Any]]]) -> None:
    """Feed-forward layers, whose input a hook sees; and the scores are nearer to the whole model's than without."""
    model, batches = loaded
    projections = compensate(model, batches, HeadSet.from_json(BOTH))
    assert {name.rpartition(".")[0] for name in projections} == {
        *(f"encoder.layers.{i}.self_attn.out_proj" for i in (0, 1)),
        "decoder.layers.1.self_attn.out_proj",
        *(f"decoder.layers.{i}.encoder_attn.out_proj" for i in (0, 1)),
        *(f"{side}.layers.{i}.fc2" for side in ("encoder", "decoder") for i in (0, 1)),
    }
    layers = {"encoder.layers.0.fc2": [0, 3], "encoder.layers.1.fc2": [1], "decoder.layers.1.fc2": [2, 3]}
    for name, x in outputs(model, batches, list(layers)).items():
        weight, bias = (value.detach().double() for value in model.get_submodule(name).parameters())
        columns = [8 * unit + i for unit in layers[name] for i in range(8)]
        y = x.double() @ weight.t() + bias
        ours = x.double() @ projections[f"{name}.weight"].double().t() + projections[f"{name}.bias"].double()
        z = torch.cat([x.double(), torch.ones(len(x), 1)], 1)
        expected = torch.zeros_like(weight)
        expected[:, columns], offset = fit(z.t() @ z, weight, bias, columns)
        torch.testing.assert_close(projections[f"{name}.weight"], expected.float(), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(projections[f"{name}.bias"], offset.float(), rtol=1e-4, atol=1e-5)
        plain = x[:, columns].double() @ weight[:, columns].t() + bias
        assert float((ours - y).square().sum()) < float((plain - y).square().sum())
    small = copy.deepcopy(model)
    heads = HeadSet.from_json(HEADS)
    losses = []
    for state in ({}, compensate(model, batches, heads)):
        small.load_state_dict(model.state_dict() | state)
        for kind, attribute in PLACES.items():
            stack = small.encoder if kind == "encoder_self" else small.decoder
            for layer, kept in zip(stack.layers, heads.of(kind), strict=True):
                weight = getattr(layer, attribute).out_proj.weight.data
                for gone in {0, 1} - set(kept):
                    weight[:, gone * weight.shape[1] // 2 : (gone + 1) * weight.shape[1] // 2] = 0
        losses.append(difference(small, model, batches))
    assert losses[1] < losses[0]


def difference(one: Any, other: Any, batches: list[dict[str, Any]]) -> float:
    """The mean square of the difference between the scores of two models."""
    total = [
        (one(**batch["net_input"])[0] - other(**batch["net_input"])[0]).square().mean().item() for batch in batches
    ]
    return sum(total)


def test_from_a_checkpoint_to_a_training(stock: Path, tiny_data: Path, tmp_path: Path, capsys: Any) -> None:
    heads, out = tmp_path / "heads.json", tmp_path / "start.pt"
    heads.write_text(json.dumps(HEADS))
    base = torch.load(stock, weights_only=True)
    base["extra_state"]["ema"] = base["model"]  # as of --store-ema
    torch.save(base, tmp_path / "base.pt")
    command = ["compensate", str(tmp_path / "base.pt"), str(out), "--data", str(tiny_data), "--kept-heads", str(heads)]
    command.append("--cpu")
    assert main(command) == 0
    assert "ema" not in torch.load(out, weights_only=True)["extra_state"]
    assert "5 output projections fitted for 5 of 12 heads" in capsys.readouterr().out
    before, after = (torch.load(path, weights_only=True) for path in (stock, out))
    assert not any(value.requires_grad for value in after["model"].values())
    changed = {name for name, value in before["model"].items() if not torch.equal(value, after["model"][name])}
    assert {name.rpartition(".")[0] for name in changed} == {
        *(f"encoder.layers.{i}.self_attn.out_proj" for i in (0, 1)),
        "decoder.layers.1.self_attn.out_proj",
        *(f"decoder.layers.{i}.encoder_attn.out_proj" for i in (0, 1)),
    }
    flags = ["--head-selection", "fixed", "--kept-heads", heads, "--finetune-from-model", out, "--max-update", 2]
    state = inprocess.train(tiny_data, tmp_path / "trained", "--cpu", *flags)
    assert state["optimizer_history"][-1]["num_updates"] == 2
    assert main(command) == 1
    assert "start.pt exists" in capsys.readouterr().err.splitlines()[-1]


def test_all_heads_change_nothing(loaded: tuple[Any, list[dict[str, Any]]]) -> None:
    every = HEADS | {"kept": 12, **{kind: [[0, 1]] * 2 for kind in ("encoder_self", "decoder_self", "cross")}}
    assert compensate(*loaded, HeadSet.from_json(every)) == {}


def test_columns_that_read_zeros_alone_stay_as_they_are() -> None:
    """Such as those of a head that was removed and came back as zeros."""
    x = torch.cat([torch.randn(50, 2, dtype=torch.float64), torch.zeros(50, 2), torch.ones(50, 1)], 1)
    weight, bias = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    left, offset = fit(x.t() @ x, weight, bias, [2, 3])
    torch.testing.assert_close(left, weight[:, 2:])
    torch.testing.assert_close(offset, bias + (x[:, :2] @ weight[:, :2].t()).mean(0))


def test_a_classifier(tmp_path: Path) -> None:
    data = pairs.make(tmp_path)
    pairs.train(data, tmp_path, "--arch", "roberta_dsp_tiny", "--max-update", 2)
    (tmp_path / "heads.json").write_text(json.dumps({
        "version": 2, "total": 4, "kept": 1, "encoder_self": [[], [1]], "decoder_self": [], "cross": []
    }))  # fmt: skip
    command = [str(tmp_path / name) for name in ("checkpoint_last.pt", "start.pt")]
    options = ["--data", str(data), "--kept-heads", str(tmp_path / "heads.json"), "--cpu"]
    assert main(["compensate", *command, *options]) == 0


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (HEADS | {"total": 72}, "heads.json and .*: the set of heads is for a model of 72 heads, but this"),
        (HEADS | {"kept": 4}, "it says that 4 heads are kept, but lists 5"),
        (HEADS | {"total": "12"}, "the total of its heads is '12', but a whole number is expected"),
        (UNEVEN, "10 feed-forward units of 3 are 30, but encoder.layers.0 has 32"),
        (None, "heads.json cannot be read"),
    ],
)
def test_heads_that_do_not_fit(
    change: dict[str, Any] | None, sentence: str, stock: Path, tiny_data: Path, tmp_path: Path, capsys: Any
) -> None:
    if change is not None:
        (tmp_path / "heads.json").write_text(json.dumps(change))
    where = ["--data", str(tiny_data), "--kept-heads", str(tmp_path / "heads.json"), "--cpu"]
    assert main(["compensate", str(stock), str(tmp_path / "out.pt"), *where]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("fairseq-dsp compensate: ")
    assert re.search(sentence, error), error
    assert not (tmp_path / "out.pt").exists()


def test_a_pruned_model_and_a_test_set(stock: Path, tiny_data: Path, tmp_path: Path, capsys: Any) -> None:
    heads = tmp_path / "heads.json"
    heads.write_text(json.dumps(HEADS))
    inprocess.train(tiny_data, tmp_path, "--cpu", "--head-selection", "fixed", "--kept-heads", heads, "--max-update", 1)
    where = ["--data", str(tiny_data), "--kept-heads", str(heads), "--cpu"]
    assert main(["compensate", str(tmp_path / "checkpoint_last.pt"), str(tmp_path / "out.pt"), *where]) == 1
    assert "the model keeps only 5 of its 12 heads" in capsys.readouterr().err
    units = ["--ffn-units-to-keep", 7, "--cooldown-updates", 1]
    inprocess.train(tiny_data, tmp_path / "units", "--cpu", *units, "--max-update", 2)
    assert main(["compensate", str(tmp_path / "units/checkpoint_last.pt"), str(tmp_path / "out.pt"), *where]) == 1
    assert "the model keeps only 7 of its" in capsys.readouterr().err
    assert main(["compensate", str(stock), str(tmp_path / "out.pt"), *where, "--split", "test"]) == 1
    assert "--split test is a test set" in capsys.readouterr().err
