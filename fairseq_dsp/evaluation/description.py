"""How large a model is, and which of its heads and units it keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..errors import UserError
from ..model.units import count_parameters
from .prepared import PreparedData


def describe(
    checkpoints: Sequence[str], heads_to_keep: int | None, kept_heads: str | None, data: PreparedData
) -> dict[str, Any]:
    """Return the number of ``parameters`` of an ensemble, of ``heads`` before pruning, and the set of those ``kept``.

    The last two are None where its members disagree, or choose no heads, as fairseq's own models.

    :param checkpoints: of its members.
    :raises UserError: if such heads cannot be kept, or a model is not one of plain translation, or classification.
    """
    first, *others = (_describe(checkpoint, heads_to_keep, kept_heads, data) for checkpoint in checkpoints)
    agreed = {name: first[name] if all(o[name] == first[name] for o in others) else None for name in ("heads", "kept")}
    return {"parameters": sum(model["parameters"] for model in (first, *others)), **agreed}


def _describe(checkpoint: str, heads_to_keep: int | None, kept_heads: str | None, data: PreparedData) -> dict[str, Any]:
    """Return what `describe` does of one model."""
    from ..removal.checkpoint import TrainedModel
    from ..removal.data_bin import check_task

    heads: dict[str, Any] = {"heads": None, "kept": None}
    try:
        model = TrainedModel.read(checkpoint, heads_to_keep=heads_to_keep, kept_heads=kept_heads)
        state = model.state
        heads = {"heads": model.heads.total, "kept": json.loads(model.heads.to_json())}
    except UserError:
        if heads_to_keep is not None or kept_heads is not None:
            raise
        from fairseq import checkpoint_utils

        state = checkpoint_utils.load_checkpoint_to_cpu(checkpoint)
    weights = state["model"]
    if data.classifies:  # the head of the language model reads nothing
        weights = {name: weight for name, weight in weights.items() if ".lm_head." not in name}
    else:
        check_task(state, checkpoint)
    return {"parameters": count_parameters(weights), **heads}
