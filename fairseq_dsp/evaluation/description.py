"""How large a model is, and which of its heads and units it keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..errors import UserError
from ..model import PruningConfig
from ..model.dictionaries import check_words
from ..model.flat_options import config_of
from ..model.kinds import flag
from ..model.labels import check_fine_tuned, has_labels
from ..model.units import count_parameters
from .prepared import PreparedData


def describe(
    checkpoints: Sequence[str], heads_to_keep: int | None, kept_heads: str | None, data: PreparedData
) -> dict[str, Any]:
    """Return how many ``parameters`` an ensemble computes with, how many ``heads`` it had, and which are ``kept``.

    And ``sizes``: for each type of modules, of heads and of other units, how many each had before pruning. The last
    three are None where its members disagree, or choose no heads, as fairseq's own models.

    :param checkpoints: of its members.
    :raises UserError: if such heads cannot be kept, or a model is not one of plain translation, or classification; or
        if they would be different ones and fairseq, which gives all members the same options, cannot have them.
    """
    first, *others = (_describe(checkpoint, heads_to_keep, kept_heads, data) for checkpoint in checkpoints)
    names = ("heads", "sizes", "kept")
    agreed = {name: first[name] if all(o[name] == first[name] for o in others) else None for name in names}
    if others and agreed["kept"] is None:
        _check_apart(checkpoints, [model["cost"] for model in (first, *others)], heads_to_keep, kept_heads)
    return {"parameters": sum(model["parameters"] for model in (first, *others)), **agreed}


def _check_apart(
    checkpoints: Sequence[str], costs: Sequence[str | None], heads_to_keep: int | None, kept_heads: str | None
) -> None:
    """Check that the members of an ensemble can keep units of their own.

    :param costs: of each the option of the cost that its training had a budget of.
    """
    together = "make each compact with fairseq-dsp compact, and give an ensemble of these"
    if kept_heads is not None:
        raise UserError(
            f"--kept-heads {kept_heads} leaves different units to the members of {':'.join(checkpoints)}: {together}"
        )
    cost = next(filter(None, costs), None)
    if heads_to_keep is not None and cost is not None:
        raise UserError(
            f"with {heads_to_keep} heads the members of {':'.join(checkpoints)} keep different units, and one of them "
            f"was trained with {flag(cost)}, which says how many: {together}"
        )


def _check_classifies(state: dict[str, Any], checkpoint: str, data: PreparedData) -> None:
    """Raise a `UserError` if a model's task is one without labels, or of numbers: it fits no corpus with labels."""
    task = config_of(state, "task")
    if task is not None and not has_labels(task):
        raise UserError(
            f"{checkpoint} does not predict labels, but {data.folder} is a corpus for classification: give a model "
            "trained on it"
        )


def _describe(checkpoint: str, heads_to_keep: int | None, kept_heads: str | None, data: PreparedData) -> dict[str, Any]:
    """Return what `describe` does of one model, and the option of the ``cost`` that it has a budget of."""
    from ..removal.checkpoint import TrainedModel
    from ..removal.data_bin import check_task

    heads: dict[str, Any] = {"heads": None, "sizes": None, "kept": None, "cost": None}
    try:
        model = TrainedModel.read(checkpoint, heads_to_keep=heads_to_keep, kept_heads=kept_heads)
        state = model.state
        parameters = model.parameters_left()
        cost = PruningConfig.from_namespace(model.options).cost
        sizes = {module.type: module.units for module in model.modules}
        kept = json.loads(model.heads.to_json())
        heads = {"heads": model.heads.total, "sizes": sizes, "kept": kept, "cost": cost and cost[0]}
    except UserError:
        if heads_to_keep is not None or kept_heads is not None:
            raise
        from fairseq import checkpoint_utils

        state = checkpoint_utils.load_checkpoint_to_cpu(checkpoint)
        parameters = count_parameters(state["model"])
    if data.classifies:
        _check_classifies(state, checkpoint, data)
        check_fine_tuned(state, checkpoint)
    else:
        check_task(state, checkpoint)
        check_words(state, checkpoint, data.data_bin, data.dictionaries)
    return {"parameters": parameters, **heads}
