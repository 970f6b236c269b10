"""A learning rate of their own for the importance variables, under any of fairseq's optimisers.

fairseq has no hook for this: its trainer hands the optimiser one flat list of parameters, its scheduler overwrites the
learning rate of every group, and ``--fp16`` first copies all parameters into one flat tensor. So six of its functions
are replaced, once, when the plugin is imported. A parameter marked with ``optim_overrides["importance"]`` (fairseq's
own attribute, which its copies in float32 keep) lands in a group of its own:

- with the learning rate that its mark holds at that update, whatever the scheduler says: 0 once the heads are fixed, so
  that momentum moves none of them; and without weight decay, also after ``--optimizer-overrides``;
- left out of the gradient norm, so that ``--clip-norm`` never shrinks the model's gradients because of it.

Everything else, the checkpoints' format and the optimiser's name included, stays stock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import Any

import torch
from fairseq import optim, utils
from fairseq.optim import FairseqOptimizer, FP16Optimizer
from torch import Tensor, nn

EPSILON = 1e-12
"""Adam's ε for the importance variables. Their gradient is per target token and, for a head that the sample leaves out,
small: the usual 1e-8 would shorten the steps of just those heads."""


def install() -> None:
    """Wrap fairseq's optimisers; a second call changes nothing."""
    if hasattr(optim.build_optimizer, "__wrapped__"):
        return
    optim.build_optimizer = _with_importance_group(optim.build_optimizer)
    FP16Optimizer.build_optimizer = classmethod(_importance_last(FP16Optimizer.build_optimizer.__func__))
    FP16Optimizer.build_fp32_params = classmethod(_with_mark(FP16Optimizer.build_fp32_params.__func__))
    FairseqOptimizer.load_state_dict = _keeping_own_settings(FairseqOptimizer.load_state_dict)
    FairseqOptimizer.step = _with_importance_lr(FairseqOptimizer.step)
    FairseqOptimizer.clip_grad_norm = _clip_grad_norm


def _importance_lr(parameter: Tensor) -> float | None:
    """Return the learning rate of an importance variable, None for any other parameter."""
    overrides = getattr(parameter, "optim_overrides", None) or {}
    return overrides["importance"]["lr"] if "importance" in overrides else None


def _with_importance_group(build: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(build)
    def build_optimizer(cfg: Any, params: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        params = [piece for entry in params for piece in _pieces(entry)]
        optimizer = build(cfg, params, *args, **kwargs)
        importance = [p for p in optimizer.params if _importance_lr(p) is not None]
        if importance:
            if len(optimizer.param_groups) != 1:
                raise ValueError(
                    f"the optimiser {type(optimizer).__name__} has parameter groups of its own, and the importance "
                    "variables need one: use an optimiser with a single group, such as --optimizer adam"
                )
            (group,) = optimizer.param_groups
            group["params"] = [p for p in group["params"] if _importance_lr(p) is None]
            own = {**group, "params": importance}
            optimizer.optimizer.add_param_group({**own, **_own_settings(own)})
        return optimizer

    return build_optimizer


def _own_settings(group: dict[str, Any]) -> dict[str, Any]:
    """Return what a group of importance variables has otherwise than the model's, nothing for the model's group."""
    rate = _importance_lr(group["params"][0]) if group["params"] else None
    if rate is None:
        return {}
    own = {"lr": rate, "weight_decay": 0.0}
    if isinstance(group.get("eps"), float):  # Adafactor has two, of another meaning
        own["eps"] = EPSILON
    return {name: value for name, value in own.items() if name in group}


def _keeping_own_settings(load: Callable[..., None]) -> Callable[..., None]:
    @wraps(load)
    def load_state_dict(self: Any, *args: Any, **kwargs: Any) -> None:
        load(self, *args, **kwargs)
        for group in self.param_groups:  # the overrides went to all of them
            group.update(_own_settings(group))

    return load_state_dict


def _pieces(entry: Any) -> Iterator[Tensor]:
    """Yield the parameters of one entry of the list that fairseq hands to an optimiser.

    ``--fp16`` hands over a dict of flat tensors; one that ends with the importance is cut in two views there, which
    share its memory and its gradient's.
    """
    for parameter in entry.values() if isinstance(entry, dict) else [entry]:
        mark = getattr(parameter, "importance_mark", None)
        if mark is None:
            yield parameter
            continue
        start, overrides = mark
        for part in [slice(start), slice(start, None)][start == 0 :]:  # of frozen weights the importance is all
            piece = nn.Parameter(parameter.data[part])
            piece.grad = parameter.grad[part]
            if part.start is not None:
                piece.optim_overrides = overrides  # type: ignore[attr-defined]
            yield piece


def _importance_last(build: Callable[..., Any]) -> Callable[..., Any]:
    """Put the importance variables at the end of the flat tensor: a GPU has two pieces to update, not two a module."""

    @wraps(build)
    def build_optimizer(cls: Any, cfg: Any, params: Iterable[Any], **kwargs: Any) -> Any:
        return build(cls, cfg, sorted(params, key=lambda p: _importance_lr(p) is not None), **kwargs)

    return build_optimizer


def _with_mark(build: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(build)
    def build_fp32_params(cls: Any, args: Any, params: Any, flatten: bool = True) -> Any:
        fp32_params = build(cls, args, params, flatten=flatten)
        importance = [p for p in params if _importance_lr(p) is not None]
        if flatten and len(fp32_params) == 1 and importance:
            (flat,) = fp32_params.values()
            flat.importance_mark = flat.numel() - sum(p.numel() for p in importance), importance[0].optim_overrides
        return fp32_params

    return build_fp32_params


def _with_importance_lr(step: Callable[..., None]) -> Callable[..., None]:
    @wraps(step)
    def with_importance_lr(self: Any, *args: Any, **kwargs: Any) -> None:
        for group in self.param_groups:
            own = _importance_lr(group["params"][0]) if group["params"] else None
            group["lr"] = group["lr"] if own is None else own
        step(self, *args, **kwargs)

    return with_importance_lr


def _clip_grad_norm(self: Any, max_norm: float, aggregate_norm_fn: Any = None) -> Tensor:
    """Clip the model's gradients by their own norm; return it, or NaN if an importance gradient is not finite."""
    model: list[Tensor] = []
    importance: list[Tensor] = []
    for p in self.params:
        (model if _importance_lr(p) is None else importance).append(p)
    norm = utils.clip_grad_norm_(model, max_norm, aggregate_norm_fn)
    grads = [p.grad.detach() for p in importance if p.grad is not None]
    if grads:
        # 0 · x is 0 for every finite x: overflows are seen without waiting for the device
        norm = norm.to(grads[0].device) + 0 * torch.stack([g.float().abs().max() for g in grads]).max()
    return norm
