"""A learning rate of their own for the importance variables, under any of fairseq's optimisers.

fairseq has no hook for this: its trainer hands the optimiser one flat list of parameters, its scheduler overwrites the
learning rate of every group, and ``--fp16`` first copies all parameters into one flat tensor. So six of its functions
are replaced, once, when the plugin is imported. A parameter marked with ``optim_overrides["importance"]`` (fairseq's
own attribute, which its copies in float32 keep) lands in a group of its own:

- with the learning rate that its mark holds, whatever the scheduler says, and no weight decay, also after
  ``--optimizer-overrides``;
- left as it is, optimiser state included, while its mark says that it is not active: before pruning begins, so that the
  first steps are no larger than later ones, and once the units are fixed, so that momentum moves none of them;
- left out of the gradient norm, so that ``--clip-norm`` never shrinks the model's gradients because of it. (Half
  precision scales all gradients by the factor that it finds.)

Matrices that are marked with ``at_rest``, those of modules without units, are left as they are too: nothing reads them,
and a step would cost as much as that of any other parameter. (Half precision has one flat tensor for all.)

Everything else, the checkpoints' format and the optimiser's name included, stays stock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from fairseq import optim, utils
from fairseq.optim import FairseqOptimizer, FP16Optimizer
from torch import Tensor, nn

from ..errors import UserError
from ..wrapping import wrap

EPSILON = 1e-12
"""Adam's ε for the importance variables. Their gradient is per target token and, for a head that the sample leaves out,
small: the usual 1e-8 would shorten the steps of just those heads."""


def install() -> None:
    """Wrap fairseq's optimisers."""
    wrap(optim, "build_optimizer", _with_importance_group)
    wrap(FP16Optimizer, "build_optimizer", _importance_last)
    wrap(FP16Optimizer, "build_fp32_params", _with_mark)
    wrap(FairseqOptimizer, "load_state_dict", _with_own_groups)
    wrap(FairseqOptimizer, "step", _with_importance_lr)
    FairseqOptimizer.clip_grad_norm = _clip_grad_norm


def _mark(parameter: Tensor) -> dict[str, Any] | None:
    """Return ``lr`` and ``active`` of an importance variable, None for any other parameter."""
    return (getattr(parameter, "optim_overrides", None) or {}).get("importance")


def _with_importance_group(
    build: Callable[..., Any], cfg: Any, params: Iterable[Any], *args: Any, **kwargs: Any
) -> Any:
    params = [piece for entry in params for piece in _pieces(entry)]
    optimizer = build(cfg, params, *args, **kwargs)
    importance = [p for p in optimizer.params if _mark(p) is not None]
    if importance:
        if len(optimizer.param_groups) != 1:
            raise ValueError(
                f"the optimiser {type(optimizer).__name__} has parameter groups of its own, and the importance "
                "variables need one: use an optimiser with a single group, such as --optimizer adam"
            )
        (group,) = optimizer.param_groups
        group["params"] = [p for p in group["params"] if _mark(p) is None]
        own = {**group, "params": importance}
        optimizer.optimizer.add_param_group({**own, **_own_settings(own)})
    return optimizer


def _own_settings(group: dict[str, Any]) -> dict[str, Any]:
    """Return what a group of importance variables has otherwise than the model's, nothing for the model's group."""
    mark = _mark(group["params"][0]) if group["params"] else None
    if mark is None:
        return {}
    own = {"lr": mark["lr"], "weight_decay": 0.0, "scale_parameter": False}  # which would make it depend on the values
    if "betas" in group:  # of Adam and its kin; elsewhere it has another meaning, in Adadelta that of a step's size
        own["eps"] = EPSILON
    return {name: value for name, value in own.items() if name in group}


def _pieces(entry: Any) -> Iterator[Tensor]:
    """Yield the parameters of one entry of the list that fairseq hands to an optimiser.

    ``--fp16`` hands over a dict of flat tensors; one that ends with importance variables is cut into views there, one
    of all the rest and one of each importance, which share its memory and its gradient's.
    """
    for parameter in entry.values() if isinstance(entry, dict) else [entry]:
        marks = getattr(parameter, "importance_marks", None)
        if marks is None:
            yield parameter
            continue
        sizes = [size for size, _ in marks]
        sizes.insert(0, parameter.numel() - sum(sizes))
        parts = parameter.data.split(sizes), parameter.grad.split(sizes), [None, *(own for _, own in marks)]
        for data, gradient, overrides in zip(*parts, strict=True):
            if not data.numel():  # of frozen weights the importance is all
                continue
            piece = nn.Parameter(data)
            piece.grad = gradient
            if overrides is not None:
                piece.optim_overrides = overrides  # type: ignore[attr-defined]
            yield piece


def _importance_last(build: Callable[..., Any], cls: Any, cfg: Any, params: Iterable[Any], **kwargs: Any) -> Any:
    """Put the importance variables at the end of the flat tensor: a GPU has few pieces to update, not two a module."""
    return build(cls, cfg, sorted(params, key=lambda p: _mark(p) is not None), **kwargs)


def _with_mark(build: Callable[..., Any], cls: Any, args: Any, params: Any, flatten: bool = True) -> Any:
    fp32_params = build(cls, args, params, flatten=flatten)
    importance = [p for p in params if _mark(p) is not None]
    if flatten and len(fp32_params) == 1 and importance:
        (flat,) = fp32_params.values()
        flat.importance_marks = [(p.numel(), p.optim_overrides) for p in importance]
    return fp32_params


def _with_own_groups(
    load: Callable[..., None], self: Any, state_dict: dict[str, Any], *args: Any, **kwargs: Any
) -> None:
    """Keep the own settings of the importance variables, and say in a sentence what torch says of parameter groups.

    It reads the state of version 0.1 too, which had an importance variable in every attention module.
    """
    try:
        for parameter in self.params:
            order = (_mark(parameter) or {}).pop("order_of_0_1", None)
            if order is not None:
                state_dict = _in_one(state_dict, order)
        load(self, state_dict, *args, **kwargs)
        for group in self.param_groups:  # the overrides went to all of them
            group.update(_own_settings(group))
    except ValueError as error:
        if "parameter group" not in str(error):
            raise
        raise UserError(
            "the optimiser's state in the checkpoint is of other parameters than this training has, as after "
            "pruning options were added, changed or left out (--heads-to-keep, --ffn-units-to-keep, "
            "--parameters-to-keep, --flops-to-keep, --freeze-weights): give the options of the first training, or "
            "another --save-dir and --finetune-from-model"
        ) from error


def _in_one(state_dict: dict[str, Any], order: Tensor) -> dict[str, Any]:
    """Return a state dict whose last group has one parameter, the elements *order* of its parameters joined."""
    *groups, last = state_dict["param_groups"]
    first, *_ = members = last["params"]
    state = {i: values for i, values in state_dict["state"].items() if i not in members}
    parts = [state_dict["state"][i] for i in members if i in state_dict["state"]]
    if parts:
        state[first] = {
            name: torch.cat([part[name] for part in parts])[order] if torch.is_tensor(value) and value.dim() else value
            for name, value in parts[0].items()
        }
    return {**state_dict, "state": state, "param_groups": [*groups, {**last, "params": [first]}]}


def _with_importance_lr(step: Callable[..., None], self: Any, *args: Any, **kwargs: Any) -> None:
    resting: list[tuple[Tensor, Tensor | None]] = []
    for group in self.param_groups:
        mark = _mark(group["params"][0]) if group["params"] else None
        if mark is not None:
            group["lr"] = mark["lr"]
        resting += [(p, p.grad) for p in group["params"] if _rests(p)]
    for parameter, _ in resting:
        parameter.grad = None  # every optimiser of torch and fairseq passes over such a parameter
    step(self, *args, **kwargs)
    for parameter, gradient in resting:
        parameter.grad = gradient


def _rests(parameter: Tensor) -> bool:
    """Whether a step leaves a parameter as it is."""
    return getattr(parameter, "at_rest", False) or not (_mark(parameter) or {}).get("active", True)


def _clip_grad_norm(self: Any, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
    """Clip the model's gradients by their own norm; return it, or NaN if an importance gradient is not finite."""
    model: list[Tensor] = []
    importance: list[Tensor] = []
    for p in self.params:
        (model if _mark(p) is None else importance).append(p)
    norm = utils.clip_grad_norm_(model, max_norm, aggregate_norm_fn)
    grads = [p.grad.detach() for p in importance if p.grad is not None]
    if grads:
        # 0 · x is 0 for every finite x: overflows are seen without waiting for the device
        norm = norm.to(grads[0].device) + 0 * torch.stack([g.float().abs().max() for g in grads]).max()
    return norm
