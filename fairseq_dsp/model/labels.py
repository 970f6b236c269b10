"""What a classification is trained on: labels, and sentences or pairs of them.

A class is a place among the labels, in the order of fairseq's dictionary of labels, and another corpus may have the
same labels in another order. So checkpoints know theirs, as they know the dictionaries of their words: in the state
dict's metadata. They know there, too, how many sentences an input has. A training may start from a model of another
corpus; what only uses a model compares them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fairseq.data import data_utils
from torch import Tensor

from ..errors import UserError

_LABELS, _SENTENCES = "labels", "sentences"


class TrainedOn(NamedTuple):
    """What a model knows of the corpus it was trained on; None where it does not.

    :param labels: in the order of its classes.
    :param sentences: of an input: one, or two.
    """

    labels: Sequence[str] | None = None
    sentences: int | None = None


def labels_of(dictionary: Any) -> list[str]:
    """Return the labels in fairseq's dictionary of labels, without what fairseq adds to every dictionary."""
    own = dictionary.symbols[dictionary.nspecial :]
    return [label for label in own if label != "<mask>" and not label.startswith("madeupword")]


def predicts_labels(task: Any) -> bool:
    """Whether a task of fairseq's is one of predicting labels, and not numbers."""
    return has_labels(getattr(task, "cfg", None))


def has_labels(config: Any) -> bool:
    """The same of a task's options, as a checkpoint holds them."""
    return getattr(config, "num_classes", None) is not None and not getattr(config, "regression_target", False)


def _sentences_of(task: Any) -> int | None:
    """Return how many sentences an input of a task has; None if its folder has dictionaries alone."""
    folder = Path(task.cfg.data)
    return 1 + (folder / "input1").is_dir() if any((folder / "input0").glob("*.idx")) else None


def tie(model: Any, task: Any) -> None:
    """Have a model leave in its state dicts what its task is, and keep what those that it loads were trained on."""
    model.corpus = TrainedOn()
    if predicts_labels(task):
        model.corpus = TrainedOn(labels_of(task.label_dictionary) or None, _sentences_of(task))
    model.trained_on = TrainedOn()
    model.register_state_dict_post_hook(_leave)
    model.register_load_state_dict_pre_hook(_keep)


def _leave(model: Any, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    metadata[_LABELS], metadata[_SENTENCES] = model.corpus


def _keep(model: Any, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *_: Any) -> None:
    model.trained_on = TrainedOn(metadata.get(_LABELS), metadata.get(_SENTENCES))


def trained_on(parameters: Mapping[str, Tensor]) -> TrainedOn:
    """Return what a state dict knows of the corpus that the model was trained on."""
    metadata = getattr(parameters, "_metadata", {}).get("", {})
    return TrainedOn(metadata.get(_LABELS), metadata.get(_SENTENCES))


def check_labels(task: Any, trained: TrainedOn | None = None) -> None:
    """Check that a task's model has a class for each label.

    :param task: fairseq's; one without labels passes.
    :param trained: what the model was trained on, where it is to be used with the data of the task.
    :raises UserError: if there are more labels than classes, or a class was another label in training, or an input had
        another number of sentences.
    """
    if not predicts_labels(task):
        return
    labels, classes = labels_of(task.label_dictionary), task.cfg.num_classes
    if len(labels) > classes:
        raise UserError(
            f"the data have {len(labels)} labels ({', '.join(labels)}), but the model has {classes} classes, so it "
            f"does not know {labels[classes]}: give --num-classes {len(labels)}, or the data that it was trained on"
        )
    if trained is None:
        return
    if trained.labels is not None and list(trained.labels[: len(labels)]) != labels:
        raise UserError(
            f"the data have the labels {', '.join(labels)}, but the model was trained with "
            f"{', '.join(trained.labels)}, so labels would be confused: give data that were binarised with the "
            "label/dict.txt of its training"
        )
    sentences = _sentences_of(task)
    if sentences != trained.sentences and sentences is not None and trained.sentences is not None:
        names = {1: "single sentences", 2: "pairs of sentences"}
        raise UserError(
            f"the data are {names[sentences]}, but the model was trained on {names[trained.sentences]}: give data "
            "like those of its training"
        )


def read_labels(texts: Any, dictionary: Any, split: str, data: str | Path) -> list[str]:
    """Return the label of each sentence, or pair, of a split.

    :param texts: fairseq's dataset of the labels.
    :param dictionary: fairseq's of the labels.
    :param data: the folder of both.
    :raises UserError: if one has no place in the dictionary.
    """
    found, known = [dictionary[int(texts[i][0])] for i in range(len(texts))], labels_of(dictionary)
    all_of_them = set(known)
    for number, label in enumerate(found, 1):
        if label not in all_of_them:
            raise UserError(
                f"the label of sentence {number} of {split} is none of {', '.join(known)}, those in "
                f"{Path(data) / 'label' / 'dict.txt'}: correct it, and run fairseq-preprocess again"
            )
    return found


def check_splits(task: Any) -> None:
    """Check the labels of all splits that a task has loaded; see `read_labels`."""
    if not predicts_labels(task):
        return
    for split in task.datasets:
        file = Path(task.cfg.data) / "label" / split
        texts = data_utils.load_indexed_dataset(str(file), task.label_dictionary)
        if texts is not None:
            read_labels(texts, task.label_dictionary, split, task.cfg.data)


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
