"""The folder of an exported model: which files it has, and reading it without trusting it."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from fairseq.data import Dictionary
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from safetensors.torch import load_file

from ..corpus import CLASSIFICATION
from ..errors import UserError
from ..model import PrunableRoberta, PrunableTransformer
from ..model.flat_options import NO_FILES
from .classifier import Classifier
from .fairseq_translator import FairseqTranslator
from .reading import CONFIG
from .text import Text, check_files, own_checksum

WEIGHTS = "model.safetensors"
FORMAT = "fairseq_dsp 1"


def from_pretrained(folder: str | Path) -> FairseqTranslator | Classifier:
    """Read a folder that ``fairseq-dsp export-folder`` wrote: a model that translates, or one that classifies.

    :raises UserError: if the folder is not one, or a file is missing or not as it was written.
    """
    folder = Path(folder)
    again = "export or download the folder again"
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise UserError(f"{folder / CONFIG} is of the format {config['format']}, but {FORMAT} is expected: {again}")
        languages = [] if config.get("task") == CLASSIFICATION else [config["source_lang"], config["target_lang"]]
        named = [*languages, *([config["bpe_model"]] if config["bpe"] else [])]
        check_files(folder, CONFIG, config["sha256"], named, again=again, own=own_checksum(config, CONFIG))
        if not isinstance(json.loads(config["model"]["kept_heads"]), dict):
            raise ValueError("kept_heads is no set of heads")
        # the weights hold the embeddings, whatever file they came from before training
        options = Namespace(**{**config["model"], **NO_FILES})
        if config.get("task") == CLASSIFICATION:
            task = _classification_task(config, folder)
            model = PrunableRoberta.build_model(options, task)
            model.register_classification_head(task.cfg.classification_head_name, num_classes=task.cfg.num_classes)
        else:
            task = _translation_task(config, folder)
            model = PrunableTransformer.build_model(options, task)
        weights = load_file(str(folder / WEIGHTS))
        weights |= {name: weights[other] for name, other in config["shared"].items()}
        model.load_state_dict(weights)
        if config.get("task") == CLASSIFICATION:
            return Classifier(model, task, config, folder)
        return FairseqTranslator(model, task, Text(config, folder))
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read as a model ({error}): give a folder that fairseq-dsp export-folder wrote"
        ) from error
    except Exception as error:  # whatever a value of another kind makes of the model
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{folder / CONFIG} is not a model's configuration ({reason}): {again}") from error


def _translation_task(config: dict[str, Any], folder: Path) -> TranslationTask:
    languages = (config["source_lang"], config["target_lang"])
    dictionaries = [Dictionary.load(str(folder / f"dict.{language}.txt")) for language in languages]
    settings = TranslationConfig(
        data=str(folder),
        source_lang=languages[0],
        target_lang=languages[1],
        left_pad_source=config["left_pad_source"],
    )
    return TranslationTask(settings, *dictionaries)


def _classification_task(config: dict[str, Any], folder: Path) -> SentencePredictionTask:
    settings = SentencePredictionConfig(
        data=str(folder),
        num_classes=config["num_classes"],
        init_token=config["init_token"],
        separator_token=config["separator_token"],
        max_positions=config["max_positions"],
        regression_target=False,
        classification_head_name=config["classification_head_name"],
    )
    labels = Dictionary()
    for label in config["labels"]:
        labels.add_symbol(label)
    return SentencePredictionTask(settings, SentencePredictionTask.load_dictionary(str(folder / "dict.txt")), labels)
