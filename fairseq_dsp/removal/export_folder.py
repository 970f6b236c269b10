"""A compact model as a folder without pickled objects: safetensors weights, JSON configuration, the dictionaries and
the subword model. One call in Python reads it, `fairseq_dsp.from_pretrained(FOLDER).translate([...])`, or, for a
classifier, `.predict([(premise, hypothesis), ...])`, and it can be uploaded to a model hub as it is. The
configuration has a checksum of each file that the model is read from. README.md, the model card, is yours to complete:
its licence is left open.

example:
  fairseq-dsp export-folder checkpoints/checkpoint_best.pt my-model --data data-bin
"""

from __future__ import annotations

import argparse
import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from ..corpus import CLASSIFICATION, data_bin_of
from ..deployment.folder import CONFIG, FORMAT, WEIGHTS, from_pretrained
from ..deployment.text import GPT2, GPT2_IDS, is_plain, own_checksum
from ..errors import UserError
from ..files import check_target, new_folder, sha256
from ..model.flat_options import NO_FILES
from ..model.labels import labels_of, trained_on
from ..model.units import count_parameters
from . import text_options
from .checkpoint import TrainedModel, add_budgets, budgets
from .data_bin import classification_task_of, first_folder, preparation, task_of
from .export_check import check_read

_CARD = """---
{language}library_name: fairseq_dsp
pipeline_tag: {pipeline}
tags: [fairseq, safetensors, pruning]
# license: yours to choose, it depends on the text that the model was trained on; a model hub shows it when it is here
---
# {title}, with {counts}

{network}, trained with fairseq.{pruned} This folder{is_}all that it needs:

```python
import fairseq_dsp

model = fairseq_dsp.from_pretrained("path/to/this/folder")
print(model.{call})
```

| file | what it is |
|---|---|
| `model.safetensors` | the weights |
| `config.json` | sizes, heads and units kept, {text}, checksums of the other files |
| {dictionaries} |
{subwords}
What it was trained on, how good it is and what it must not be used for is for its publisher to say here.
"""
_OF_TRANSLATION = {
    "language": 'language: ["{source_lang}", "{target_lang}"]\n',
    "pipeline": "translation",
    "title": "Translation, {source_lang} to {target_lang}",
    "network": "An encoder–decoder Transformer with {parameters} parameters",
    "is_": " is\n",
    "call": 'translate(["a sentence as people write it"])',
    "text": "how text is cut into subwords",
    "dictionaries": "`dict.{source_lang}.txt`, `dict.{target_lang}.txt` | fairseq's dictionaries",
}
_OF_CLASSIFICATION = {
    "language": "",
    "pipeline": "text-classification",
    "title": "Classification of sentences, or pairs of them",
    "network": "A Transformer encoder with {parameters} parameters and the labels {labels}",
    "is_": "\nis ",
    "call": 'predict([("a first sentence", "a second one")])',
    "text": "labels",
    "dictionaries": "`dict.txt` | fairseq's dictionary",
}
"""What the model card says of one kind of model and not of the other."""

FOR_CLASSIFIERS = ("wordpiece", GPT2)
"""The subwords of published encoders, BERT's and RoBERTa's."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a pruned model, compact or not")
    parser.add_argument("folder", metavar="FOLDER", help="folder to write; must not exist")
    about = "the model's corpus, for its dictionaries (default: training's)"
    parser.add_argument("--data", metavar="DATA", type=data_bin_of, help=about)
    text_options.add_arguments(parser, FOR_CLASSIFIERS)
    add_budgets(parser)


def run(args: argparse.Namespace) -> None:
    """Write the folder."""
    target = check_target(args.folder)
    model = TrainedModel.read(args.checkpoint, **budgets(args))
    task = (classification_task_of if model.classifies else task_of)(model, args.data)
    prepared = preparation(task.cfg.data)
    bpe, subwords = text_options.subwords(args, prepared, FOR_CLASSIFIERS)
    if bpe in FOR_CLASSIFIERS and not model.classifies:
        raise UserError(f"--bpe {bpe} is for classifiers, but {model.path} translates: give another --bpe")
    own: dict[str, Any] = {"bpe": bpe, "bpe_model": subwords.name if subwords else None}
    if model.classifies:
        if args.tokenizer or args.lowercase:
            raise UserError(
                f"{model.path} is a classifier, whose subword model has its own tokenisation and case: leave out "
                "--tokenizer and --lowercase"
            )
        own |= _classification(model, task, prepared)
        dictionaries = {"dict.txt": _plain_dictionary(task)}
    else:
        own |= text_options.text_settings(args, prepared, task)
        for language in (own["source_lang"], own["target_lang"]):
            if not is_plain(language):
                raise UserError(
                    f"the checkpoint {model.path} has the language {language}, which cannot be part of a name"
                )
        own["left_pad_source"] = bool(task.cfg.left_pad_source)
        dictionaries = {
            f"dict.{own['source_lang']}.txt": task.source_dictionary,
            f"dict.{own['target_lang']}.txt": task.target_dictionary,
        }
    with new_folder(target) as temporary:
        temporary.mkdir()
        files = [subwords] if subwords else []
        if bpe == GPT2:
            files += [file.with_name(GPT2_IDS) for file in files]
        _write(temporary, model, own, dictionaries, files)
        _check(temporary, model, task)
    print(f"{target}: {model.heads.counts()}; fairseq_dsp.from_pretrained({str(target)!r})")


def _classification(model: TrainedModel, task: Any, prepared: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the configuration says of a classification, whose texts may have been cut when they were prepared."""
    names = ("num_classes", "init_token", "separator_token", "classification_head_name")
    labels = labels_of(task.label_dictionary)
    own = {"task": CLASSIFICATION, "labels": labels, **{name: getattr(task.cfg, name) for name in names}}
    own["max_positions"] = min(task.cfg.max_positions, prepared.get("max_positions", task.cfg.max_positions))
    sentences = trained_on(model.state["model"]).sentences  # earlier checkpoints do not know
    # without the folder of the second sentences, these may have been left out of what is at hand
    if sentences is None and (first_folder(task.cfg.data) / "input1").is_dir():
        sentences = 2
    return own if sentences is None else {**own, "sentences": sentences}


def _plain_dictionary(task: Any) -> Any:
    """Return the dictionary without the symbol that the task adds whenever it reads one."""
    dictionary = copy.deepcopy(task.source_dictionary)
    if dictionary.symbols[-1] == "<mask>":
        dictionary.symbols.pop()
        dictionary.count.pop()
    return dictionary


def _write(
    folder: Path, model: TrainedModel, own: dict[str, Any], dictionaries: dict[str, Any], subwords: Sequence[Path]
) -> None:
    """Write the files of the folder.

    :param own: what the configuration says of the model's kind.
    :param dictionaries: by the names of their files.
    :param subwords: the files of the subword model.
    """
    weights, shared = _separate(model.compact_parameters())
    (folder / WEIGHTS).write_bytes(save(weights))  # its save_file would make a file that only its owner reads
    for name, dictionary in dictionaries.items():
        dictionary.save(str(folder / name))
    for file in subwords:
        text_options.copy_subwords(file, folder)
    known = model.model_class.known_options()
    options = {name: value for name, value in vars(model.compact_options()).items() if name in known}
    config: dict[str, Any] = {
        "format": FORMAT,
        **own,
        "shared": shared,
        "model": {**options, **NO_FILES, "_name": model.model_class.architecture.model},
        "sha256": {file.name: sha256(file) for file in sorted(folder.iterdir())},
    }
    config["sha256"][CONFIG] = own_checksum(config, CONFIG)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    values = own | {
        "parameters": f"{count_parameters(weights):,}",
        "labels": ", ".join(own.get("labels", ())),
    }
    parts = _OF_CLASSIFICATION if model.classifies else _OF_TRANSLATION
    card = _CARD.format(
        **{name: part.format(**values) for name, part in parts.items()},
        counts=model.heads.counts().replace(" heads", " attention heads"),
        pruned=" The other heads were pruned and are gone." if model.heads.kept < model.heads.total else "",
        subwords="".join(f"| `{file.name}` | the subword model |\n" for file in subwords),
    )
    (folder / "README.md").write_text(card, encoding="utf-8")  # without a checksum: it is meant to be edited


def _check(folder: Path, model: TrainedModel, task: Any) -> None:
    """Read the folder as its users will, and compare it with the trained model.

    :raises UserError: if it cannot be read, or differs.
    """
    read = from_pretrained(folder)
    check_read(read.model.float(), read.task, model, task)


def _separate(parameters: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors, each once, and, for names of a tensor that has another name too, that name."""
    first: dict[tuple[int, torch.Size], str] = {}
    shared = {}
    for name, tensor in parameters.items():
        other = first.setdefault((tensor.data_ptr(), tensor.shape), name)
        if other != name and tensor.numel():
            shared[name] = other
    return {name: t.contiguous().clone() for name, t in parameters.items() if name not in shared}, shared
