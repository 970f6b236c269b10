"""The labels of a classification.

A class is a place among the labels, in the order of fairseq's dictionary of labels, and another corpus may have the
same labels in another order. So checkpoints know theirs, as they know the dictionaries of their words: in the state
dict's metadata. A training may start from a model with other labels; what only uses a model compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from ..errors import UserError

_KEY = "labels"


def labels_of(dictionary: Any) -> list[str]:
    """Return the labels in fairseq's dictionary of labels, without what fairseq adds to every dictionary."""
    own = dictionary.symbols[dictionary.nspecial :]
    return [label for label in own if label != "<mask>" and not label.startswith("madeupword")]


def predicts_labels(task: Any) -> bool:
    """Whether a task of fairseq's is one of predicting labels, and not numbers."""
    config: Any = getattr(task, "cfg", None)
    return getattr(config, "num_classes", None) is not None and not getattr(config, "regression_target", False)


def tie(model: Any, task: Any) -> None:
    """Have a model leave the labels of its task in its state dicts, and keep those of the state dicts that it loads."""
    model.labels = (labels_of(task.label_dictionary) or None) if predicts_labels(task) else None
    model.trained_labels = None
    model.register_state_dict_post_hook(_leave)
    model.register_load_state_dict_pre_hook(_keep)


def _leave(model: Any, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    metadata[_KEY] = model.labels


def _keep(model: Any, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: Any) -> None:
    model.trained_labels = metadata.get(_KEY)


def trained_labels(parameters: Mapping[str, Tensor]) -> Sequence[str] | None:
    """Return the labels that a model was trained with, in the order of its classes; None if its state does not say."""
    labels: Sequence[str] | None = getattr(parameters, "_metadata", {}).get("", {}).get(_KEY)
    return labels


def check_labels(task: Any, trained: Sequence[str] | None = None) -> None:
    """Check that a task's model has a class for each label.

    :param task: fairseq's; one without labels passes.
    :param trained: the labels that the model was trained with, where it is to be used with those of the task.
    :raises UserError: if there are more labels than classes, or a class was another label in training.
    """
    if not predicts_labels(task):
        return
    labels, classes = labels_of(task.label_dictionary), task.cfg.num_classes
    if len(labels) > classes:
        raise UserError(
            f"the data have {len(labels)} labels ({', '.join(labels)}), but the model has {classes} classes, so it "
            f"does not know {labels[classes]}: give --num-classes {len(labels)}, or the data that it was trained on"
        )
    if trained is not None and list(trained[: len(labels)]) != labels:
        raise UserError(
            f"the data have the labels {', '.join(labels)}, but the model was trained with {', '.join(trained)}, so "
            "labels would be confused: give data that were binarised with the label/dict.txt of its training"
        )


def check_fine_tuned(state: dict[str, Any], path: str) -> None:
    """Check that a classifier is not as import-bert left it: its labels would be chance.

    :param state: what fairseq loaded from the checkpoint *path*.
    :raises UserError: if it is.
    """
    history = state.get("optimizer_history") or [{}]
    heads = [name for name in state["model"] if name.startswith("classification_heads.")]
    if not heads or history[-1].get("num_updates") == 0:
        what = "a classification head that was never trained" if heads else "no classification head"
        raise UserError(f"{path} has {what}, so the labels that it gives mean nothing: fine-tune it first")
