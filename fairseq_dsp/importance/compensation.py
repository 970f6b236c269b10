"""Heads that stay take over what they can of the others', by least squares.

The output projection of a module gives y = W x + b, where x holds the outputs of all its heads side by side, or the
neurons of a feed-forward layer. Without some of them the columns S of W are left, and the best that can be had of them
on some tokens is

    min over V, c   Σ_x ‖V x_S + c − (W x + b)‖² + λ ‖V − W_S‖²,

whose solution takes two sums over the tokens, Σ x xᵀ and Σ x, so one pass through the unpruned model does for all
modules. Kwon et al. 2022 ("A Fast Post-Training Pruning Framework for Transformers") tune the gates of what stays in
this way; here it is the whole projection.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..model import HeadSet, modules_of
from ..model.kinds import UnitModule
from ..model.sets import UnitSet
from ..model.units import shape_of
from .michel import modules_with_all_heads, reading

RIDGE = 1e-3
"""λ, as a share of the mean over the columns that stay of the sum of squares over all tokens."""


@torch.no_grad()
def compensate(model: Any, batches: Iterable[dict[str, Any]], heads: HeadSet) -> dict[str, Tensor]:
    """Return the output projections of modules that lose units, fitted to what the whole module gives.

    :param model: unpruned, an encoder–decoder Transformer or a RoBERTa; it is put into evaluation mode.
    :param batches: as fairseq's datasets collate them, on the model's device.
    :param heads: what stays, of heads and maybe of other kinds.
    :return: by their names in the state dict, weights of the full shape, whose columns of removed units are 0, and
        biases.
    :raises ValueError: if the model has not all its heads, the set does not fit it, or there is no batch.
    """
    modules_with_all_heads(model)
    for pruner in getattr(model, "pruners", {}).values():
        if (kept := pruner.kept().kept) < pruner.plan.units:
            raise ValueError(
                f"the model keeps only {kept} of its {pruner.plan.units} {pruner.kind.units}, so the others cannot be "
                "read: give an unpruned checkpoint"
            )
    model.eval()
    projections = [
        (module, name, kept)
        for units in heads.all
        for module, name, kept in _projections(model, units)
        if len(kept) < module.units
    ]
    sums: dict[str, Tensor] = {}
    token: dict[str, Tensor] = {}

    def hook(of_encoder: bool, name: str) -> Callable[..., None]:
        def add(_: nn.Module, inputs: tuple[Tensor]) -> None:
            x = inputs[0][token["source" if of_encoder else "target"].t()].double()  # (T, B, C) → (tokens, C)
            x = torch.cat([x, x.new_ones(len(x), 1)], 1)
            sums[name] = sums.get(name, 0) + x.t() @ x

        return add

    hooks = {model.get_submodule(name): hook(module.stack == "encoder", name) for module, name, _ in projections}
    with reading(model, hooks), torch.enable_grad():  # without gradients the encoder would take another path
        for batch in batches:
            inputs = batch["net_input"]
            token["source"] = inputs["src_tokens"] != model.encoder.dictionary.pad()
            if "prev_output_tokens" in inputs:
                token["target"] = inputs["prev_output_tokens"] != model.decoder.dictionary.pad()
            model(**inputs)
    found: dict[str, Tensor] = {}
    for module, name, kept in projections:
        layer: Any = model.get_submodule(name)
        if name not in sums:
            raise ValueError("there is no sentence: give at least one batch")
        columns = module.rows(kept).tolist()
        weight, bias = fit(sums[name], layer.weight.double(), layer.bias.double(), columns)
        full = torch.zeros_like(layer.weight)
        full[:, columns] = weight.to(full)
        found |= {f"{name}.weight": full, f"{name}.bias": bias.to(full)}
    return found


def fit(
    moments: Tensor, weight: Tensor, bias: Tensor, columns: list[int], ridge: float = RIDGE
) -> tuple[Tensor, Tensor]:
    """Return the best weight of some columns, and the bias, for what a linear layer reads; see above.

    :param moments: Σ z zᵀ of z = (x, 1). *Shape:* (C + 1, C + 1), float64.
    :param weight: *Shape:* (D, C).
    :param bias: *Shape:* (D).
    :param columns: those to keep.
    :param ridge: λ, as a share of the mean of their diagonal.
    :return: *Shapes:* (D, len(columns)), (D).
    """
    last = len(moments) - 1
    kept = [*columns, last]
    whole = torch.cat([weight, bias[:, None]], 1)
    left, right = moments[kept][:, kept].clone(), moments[kept] @ whole.t()
    if columns:
        penalty = ridge * (left.diagonal()[:-1].mean() or 1.0)  # columns that read nothing but zeros stay as they are
        left.diagonal()[:-1].add_(penalty)
        right[:-1] += penalty * weight[:, columns].t()
    solution = torch.linalg.solve(left, right).t()
    return solution[:, :-1], solution[:, -1]


def _projections(model: Any, units: UnitSet) -> list[tuple[UnitModule, str, tuple[int, ...]]]:
    """Return of each module of a kind the name of its output projection, and what stays of it."""
    modules = list(modules_of(model, units.kind, Namespace(ffn_units_to_keep=units.kept, ffn_unit_width=units.width)))
    units.to_gates(shape_of(modules, units.kind))  # raises if the set is another model's
    for module in modules:
        if (columns := model.get_parameter(f"{module.name}.{module.last}").shape[1]) != module.units * module.width:
            raise ValueError(
                f"{module.units} {units.kind.units} of {module.width} are {module.units * module.width}, but "
                f"{module.name} has {columns}: give a set that was made of this model"
            )
    return [
        (module, f"{module.name}.{module.last.removesuffix('.weight')}", units.of(module.type)[module.layer])
        for module in modules
    ]
