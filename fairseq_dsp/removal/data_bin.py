"""What a model needs from the folder that ``fairseq-preprocess`` made: the task with its dictionaries."""

from __future__ import annotations

import shlex
from argparse import Namespace
from pathlib import Path
from typing import Any

from fairseq import tasks
from omegaconf import OmegaConf, open_dict

from ..corpus import CLASSIFICATION, SUMMARY, folder_of
from ..errors import UserError
from ..files import PACKAGE, read_object
from ..languages import flags
from ..model.dictionaries import check, direction, fitting
from ..model.flat_options import USUAL_POSITIONS, config_of, positions_of
from ..model.labels import check_fine_tuned, check_labels, trained_on
from .checkpoint import TrainedModel

POST_PROCESS = {"sentencepiece": "sentencepiece", "subword-nmt": "subword_nmt"}
"""How fairseq undoes a subword method."""


def task_of(model: TrainedModel, data: str | None) -> Any:
    """Return the translation task that a model was trained on.

    :param data: folder with the dictionaries, by default the one of training.
    :raises UserError: if it has no dictionaries, or those of another model, or the task is not one of translation from
        one language into another.
    """
    check_task(model.state, model.path, any_plugin=False)
    config = OmegaConf.create(model.state["cfg"]["task"])
    task, folder = _set_up(model, config, data, "fairseq-preprocess made for the model")
    if getattr(model.options, "merge_src_tgt_embed", False) and task.source_dictionary != task.target_dictionary:
        raise UserError(
            f"{model.path} was trained with --merge-src-tgt-embed on two different dictionaries, so fairseq would "
            "output words of the source language: prepare the corpus with fairseq-preprocess --joined-dictionary"
        )
    with fitting(model.path, folder):
        check(model.state["model"], encoder=task.source_dictionary, decoder=task.target_dictionary)
    return task


def classification_task_of(model: TrainedModel, data: str | None) -> Any:
    """Return the task ``sentence_prediction`` that a model was trained on; see `task_of`.

    :raises UserError: if the folder has no dictionaries, or those of another model, or the model predicts no labels, or
        was never fine-tuned.
    """
    config = model.state["cfg"]["task"]
    config = OmegaConf.create() if isinstance(config, Namespace) else OmegaConf.create(config)
    if getattr(config, "regression_target", False):
        raise UserError(
            f"{model.path} predicts numbers, but a model that predicts labels is expected: use fairseq-dsp compact or "
            "export-fairseq, which take any model"
        )
    if not getattr(config, "num_classes", None):
        raise UserError(
            f"{model.path} predicts no labels of sentences, but a model of --task sentence_prediction is expected: "
            "fine-tune it on such a corpus first"
        )
    check_fine_tuned(model.state, model.path)
    with open_dict(config):
        config._name = CLASSIFICATION
    task, folder = _set_up(model, config, data, "has input0/dict.txt and label/dict.txt")
    check_labels(task, trained_on(model.state["model"]))
    with fitting(model.path, folder):
        check(model.state["model"], encoder=task.source_dictionary)
    return task


def _set_up(model: TrainedModel, config: Any, data: str | None, needed: str) -> tuple[Any, str]:
    """Return a task with the dictionaries of a folder, by default the one of training, and the folder."""
    folder = data or config.data
    with open_dict(config):
        config.data = folder
    try:
        return tasks.setup_task(config), folder
    except Exception as error:
        raise UserError(
            f"the dictionaries of {model.path} cannot be read from {folder}: give --data with the folder that {needed}"
        ) from error


def check_task(state: dict[str, Any], path: str, *, any_plugin: bool = True) -> None:
    """Check that a model translates from one language into another, without language tokens in its input.

    :param state: what fairseq loaded from the checkpoint *path*.
    :param any_plugin: whether it may be of a task of somebody's own, which has no dataclass or is not loaded.
    :raises UserError: if not.
    """
    task = config_of(state, "task")
    name = str(getattr(task, "_name", None) or getattr(task, "task", None))
    if name.startswith(CLASSIFICATION):
        raise UserError(f"{path} classifies sentences, but a translation model is expected: give one")
    many = getattr(task, "lang_pairs", None) or getattr(task, "langs", None)
    if many or (not any_plugin and (isinstance(task, Namespace) or name not in tasks.TASK_REGISTRY)):
        raise UserError(
            f"{path} was trained with --task {name}, but translation or translation_dsp is expected: use "
            "fairseq-generate with the options of that task"
        )


def language_flags(state: dict[str, Any]) -> list[str]:
    """Return the flags of fairseq's tools that say a model's languages, which names of files do not always tell.

    :param state: what fairseq loaded from its checkpoint.
    """
    source, target = direction(state)
    return flags(source, target) if source and target else []


def position_flags(state: dict[str, Any]) -> list[str]:
    """Return the flags with which fairseq's tools cut sources that are longer than a model reads, as `evaluate` does.

    :param state: what fairseq loaded from its checkpoint.
    :return: none if it reads as many subwords as fairseq's models do where nothing is given.
    """
    source, target = positions_of(state)
    if source == target == USUAL_POSITIONS:
        return []
    return ["--truncate-source", "--max-source-positions", str(source), "--max-target-positions", str(target)]


def subwords_of(data: str | Path) -> Any:
    """Return the subword method of a data folder, where its preparation says it; it may be gone, or somebody's own."""
    try:
        return preparation(data).get("bpe")
    except (UserError, OSError):
        return None


def post_process_flags(bpe: Any) -> list[str]:
    """Return the flags of fairseq's tools that join subwords of a method, if it is known."""
    return ["--post-process", POST_PROCESS[bpe]] if bpe in POST_PROCESS else []


def translating(data: str | Path, model: Path, options: list[str], bpe: Any) -> str:
    """Return the command that translates a test set into words.

    :param options: the model's `language_flags` and `position_flags`.
    :param bpe: the subword method of the data, where it is known.
    """
    path, link = str(model), ""
    if ":" in path:  # where fairseq would end one model and begin another
        path = model.name.replace(":", "-")
        link = f"{shlex.join(['ln', '-s', str(model), path])} && "
    words = ["fairseq-generate", str(data), *options, "--user-dir", str(PACKAGE), "--path", path, "--beam", "5"]
    return link + shlex.join(words + post_process_flags(bpe))


def first_folder(data: str | Path) -> Path:
    """Return the first of the folders that fairseq is given with colons between them."""
    return Path(data) if Path(data).exists() else Path(str(data).partition(":")[0])


def preparation(data: str | Path) -> dict[str, Any]:
    """Return what the ``prepare.json`` of a data folder says about its text, or nothing if there is none.

    :param data: the folder, or several as fairseq takes them, with a colon between them.
    :raises UserError: if the file is not one that a preparation wrote.
    """
    folder = folder_of(first_folder(data))
    file = folder / SUMMARY
    if not file.is_file():
        return {}
    content = read_object(file, "prepare the corpus again")
    model = folder / str(content.get("bpe_model"))
    return {**content, "bpe_model": str(model) if model.is_file() else None}
