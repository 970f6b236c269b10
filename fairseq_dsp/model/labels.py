"""The labels of a classification."""

from __future__ import annotations

from typing import Any

from ..errors import UserError


def labels_of(dictionary: Any) -> list[str]:
    """Return the labels in fairseq's dictionary of labels, without what fairseq adds to every dictionary."""
    own = dictionary.symbols[dictionary.nspecial :]
    return [label for label in own if label != "<mask>" and not label.startswith("madeupword")]


def check_labels(task: Any) -> None:
    """Check that a task's model has a class for each label.

    :param task: fairseq's; one without labels passes.
    :raises UserError: if there are more labels than classes.
    """
    config: Any = getattr(task, "cfg", None)
    classes = getattr(config, "num_classes", None)
    if classes is None or getattr(config, "regression_target", False):
        return
    labels = labels_of(task.label_dictionary)
    if len(labels) > classes:
        raise UserError(
            f"the data have {len(labels)} labels ({', '.join(labels)}), but the model has {classes} classes, so it "
            f"does not know {labels[classes]}: give --num-classes {len(labels)}, or the data that it was trained on"
        )
