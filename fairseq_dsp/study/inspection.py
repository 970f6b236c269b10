"""What is in a checkpoint: how large the model is, which heads it keeps."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from typing import Any

from ..errors import UserError
from ..model.config import PruningConfig, model_namespace
from ..model.heads import TYPES, HeadSet
from ..model.plan import PruningPlan

_IMPORTANCE = "out_proj.importance"
_PLACES = {
    "encoder_self": "encoder.layers.{}.self_attn",
    "decoder_self": "decoder.layers.{}.self_attn",
    "cross": "decoder.layers.{}.encoder_attn",
}


@dataclass(frozen=True)
class Inspection:
    """What a checkpoint holds.

    :param heads: number of heads of the unpruned model, or None for a model that does not say.
    :param kept: the heads that evaluation keeps, or None for a model that does not say.
    :param parameters: number of parameters of the model, the importance variables left out.
    """

    heads: int | None
    kept: HeadSet | None
    parameters: int

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        import json

        kept = None if self.kept is None else json.loads(self.kept.to_json())
        return {"heads": self.heads, "kept": kept, "parameters": self.parameters}


def inspect(path: str, heads_to_keep: int | None = None, kept_heads: str | None = None) -> Inspection:
    """Look into the checkpoint *path*, as it is evaluated with so many heads, with these heads, or with its own.

    :raises UserError: if it cannot be read, or such a number of heads cannot be kept.
    """
    from fairseq import checkpoint_utils

    state = checkpoint_utils.load_checkpoint_to_cpu(path)
    weights = state["model"]
    parameters = sum(value.numel() for name, value in weights.items() if not _is_bookkeeping(name))
    shape: dict[str, list[int]] = {}
    importance = []
    for kind in TYPES:
        names: list[str] = []
        while (name := f"{_PLACES[kind].format(len(names))}.{_IMPORTANCE}") in weights:
            names.append(name)
        shape[kind] = [weights[name].numel() for name in names]
        importance += [weights[name] for name in names]
    options = _options(state)
    if not importance or getattr(options, "compact", False):
        kept = getattr(options, "kept_heads", None)
        if heads_to_keep is not None or kept_heads is not None:
            raise UserError(
                f"other heads cannot be kept of {path}: its heads have no importance, because "
                "it is compact or of the stock transformer; leave the option out, or train with --arch transformer_dsp"
            )
        heads = HeadSet.read(kept) if isinstance(kept, str) and not importance and _readable(kept) else None
        return Inspection(heads.total if heads else None, heads, parameters)
    import torch

    try:
        if kept_heads is not None:
            kept_set = HeadSet.read(kept_heads)
            return Inspection(int(kept_set.to_gates(shape).numel()), kept_set, parameters)
        plan = PruningPlan(PruningConfig.from_namespace(options), shape)
        gates = plan.keep(torch.cat(importance).float(), heads_to_keep)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from error
    return Inspection(plan.heads, HeadSet.from_gates(gates, shape), parameters)


def _options(state: dict[str, Any]) -> Namespace:
    """The options of the model in a checkpoint, without a budget that would stand in the way of another one."""
    config = state["cfg"]["model"] if state.get("cfg") is not None else state["args"]
    return Namespace(**vars(model_namespace(config)))


def _readable(path: str) -> bool:
    try:
        HeadSet.read(path)
    except ValueError:
        return False
    return True


def _is_bookkeeping(name: str) -> bool:
    """Whether an entry of a state dict is none of the model's weights."""
    return name.endswith((_IMPORTANCE, ".version", "_float_tensor", "num_updates"))
