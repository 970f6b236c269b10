"""A compact model as a folder without pickled objects: safetensors weights, JSON configuration, the dictionaries and
the subword model. One call in Python reads it, `fairseq_dsp.from_pretrained(FOLDER).translate([...])`, and it can be
uploaded to a model hub as it is. The configuration has a checksum of each file that the model is read from. README.md,
the model card, is yours to complete: its licence is left open.

example:
  fairseq-dsp export-folder checkpoints/checkpoint_best.pt my-model --data data-bin
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import warnings
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from fairseq.data import Dictionary, encoders
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..deployment.request import check_options, check_sentences
from ..errors import UserError
from ..files import check_target, new_folder
from ..languages import base
from ..model import PrunableTransformer, PruningConfig
from ..model.config import flat_names
from ..plain import is_blank, normalised, plain
from .checkpoint import TrainedModel
from .data_bin import preparation, task_of
from .sameness import check_read

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = "fairseq_dsp 1"
_FINAL_STOP = re.compile(r"([^\s.])\.$")  # sacremoses leaves it with an abbreviation, the preparation does not
BPE_OPTIONS = {"sentencepiece": "sentencepiece_model", "subword_nmt": "bpe_codes"}
_NO_FILES = dict.fromkeys(("encoder_embed_path", "decoder_embed_path"))
_CARD = """---
language: ["{source}", "{target}"]
library_name: fairseq_dsp
pipeline_tag: translation
tags: [fairseq, safetensors, pruning]
# license: yours to choose, it depends on the text that the model was trained on; a model hub shows it when it is here
---
# Translation, {source} to {target}, with {kept} of {total} attention heads

An encoder–decoder Transformer with {parameters} parameters, trained with fairseq; the other heads were pruned and are
gone. This folder is all that it needs:

```python
import fairseq_dsp

model = fairseq_dsp.from_pretrained("path/to/this/folder")
print(model.translate(["a sentence as people write it"]))
```

| file | what it is |
|---|---|
| `model.safetensors` | the weights |
| `config.json` | sizes, heads kept, how text is cut into subwords, checksums of the other files |
| `dict.{source}.txt`, `dict.{target}.txt` | fairseq's dictionaries |
{subwords}
What it was trained on, how good it is and what it must not be used for is for its publisher to say here.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a pruned model, compact or not")
    parser.add_argument("folder", metavar="FOLDER", help="folder to write; must not exist")
    parser.add_argument("--data", metavar="DIR", help="data-bin folder with the dictionaries (default: training's)")
    parser.add_argument("--bpe", choices=[*BPE_OPTIONS, "none"], help="kind of subwords (default: as prepared)")
    parser.add_argument("--bpe-model", metavar="FILE", help="the subword model (default: as prepared)")
    parser.add_argument("--tokenizer", choices=["moses", "none"], help="before the subwords (default: as prepared)")
    parser.add_argument(
        "--lowercase", action="store_true", help="lower-case before the subwords (default: as prepared)"
    )
    parser.add_argument("--heads-to-keep", type=int, metavar="K", help="keep the best K heads, whatever K was trained")


def run(args: argparse.Namespace) -> None:
    """Write the folder."""
    target = check_target(args.folder)
    model = TrainedModel.read(args.checkpoint, heads_to_keep=args.heads_to_keep)
    task = task_of(model, args.data)
    prepared = preparation(task.cfg.data)
    bpe = args.bpe or str(prepared.get("bpe", "none")).replace("-", "_")
    bpe_model = args.bpe_model or prepared.get("bpe_model")
    if bpe in BPE_OPTIONS and (bpe_model is None or not Path(bpe_model).is_file()):
        raise UserError(f"the {bpe} model {bpe_model} does not exist: give --bpe-model FILE, or --bpe none")
    text = {
        "bpe": bpe if bpe in BPE_OPTIONS else None,
        "bpe_model": Path(bpe_model).name if bpe in BPE_OPTIONS and bpe_model else None,
        "tokenizer": args.tokenizer or str(prepared.get("tokenizer", "none")),
        "lowercase": bool(args.lowercase or prepared.get("lowercase")),
        "normalise": prepared.get("normalise"),
    }
    with new_folder(target) as temporary:
        temporary.mkdir()
        _write(temporary, model, task, text, bpe_model)
        _check(temporary, model, task)
    print(f"{target}: {model.heads.kept} of {model.heads.total} heads; fairseq_dsp.from_pretrained({str(target)!r})")


def _write(folder: Path, model: TrainedModel, task: Any, text: dict[str, Any], bpe_model: str | None) -> None:
    weights, shared = _separate(model.compact_parameters())
    try:
        save_file(weights, str(folder / WEIGHTS))
    except Exception as error:  # safetensors has an error class of its own for a full disk
        raise OSError(None, str(error)) from error
    source, target = task.cfg.source_lang, task.cfg.target_lang
    for language in (source, target):
        if not _is_plain(language):
            raise UserError(f"the checkpoint {model.path} has the language {language}, which cannot be part of a name")
    task.source_dictionary.save(str(folder / f"dict.{source}.txt"))
    task.target_dictionary.save(str(folder / f"dict.{target}.txt"))
    if text["bpe_model"]:
        shutil.copyfile(str(bpe_model), folder / text["bpe_model"])
    names = {f.name for f in fields(PruningConfig) if not f.name.startswith("_")} | flat_names()
    options = {name: value for name, value in vars(model.compact_options()).items() if name in names}
    config: dict[str, Any] = {
        "format": FORMAT,
        "source_lang": source,
        "target_lang": target,
        "left_pad_source": bool(task.cfg.left_pad_source),
        **text,
        "shared": shared,
        "model": {**options, **_NO_FILES, "_name": "transformer_dsp"},
        "sha256": {file.name: _sha256(file) for file in sorted(folder.iterdir())},
    }
    config["sha256"][CONFIG] = _sha256_of(config)
    (folder / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    bpe = text["bpe_model"]
    card = _CARD.format(
        source=source,
        target=target,
        kept=model.heads.kept,
        total=model.heads.total,
        parameters=f"{sum(weight.numel() for weight in weights.values()):,}",
        subwords=f"| `{bpe}` | the subword model |\n" if bpe else "",
    )
    (folder / "README.md").write_text(card, encoding="utf-8")  # without a checksum: it is meant to be edited


def _check(folder: Path, model: TrainedModel, task: Any) -> None:
    """Read the folder as its users will, and compare it with the trained model.

    :raises UserError: if it cannot be read, or differs.
    """
    try:
        read = from_pretrained(folder)
    except RuntimeError as error:  # sentencepiece's
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the folder made of {model.path} cannot be read ({reason}), so nothing was written: give --bpe and "
            "--bpe-model as the corpus was prepared"
        ) from error
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


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sha256_of(config: dict[str, Any]) -> str:
    """Return the checksum of a configuration, whatever it says its own is."""
    others = {name: checksum for name, checksum in config["sha256"].items() if name != CONFIG}
    return hashlib.sha256(json.dumps({**config, "sha256": others}, sort_keys=True).encode()).hexdigest()


class Translator:
    """A translation model ready for use.

    :param model: the model.
    :param task: fairseq's translation task, which has the dictionaries.
    :param config: what the folder's configuration says.
    :param folder: where the subword model is.
    """

    def __init__(self, model: PrunableTransformer, task: TranslationTask, config: dict[str, Any], folder: Path) -> None:
        self.model, self.task = model.eval(), task
        self._lowercase = config["lowercase"]
        self._normalise = config.get("normalise")  # earlier folders have none
        self._tokenizer: Any = None
        self._bpe: Any = None
        if config["tokenizer"] == "moses":
            languages = {name: base(config[name]) for name in ("source_lang", "target_lang")}
            moses = Namespace(tokenizer="moses", moses_no_dash_splits=True, **languages)
            self._tokenizer = encoders.build_tokenizer(moses)
        if config["bpe"]:
            option = {BPE_OPTIONS[config["bpe"]]: str(folder / config["bpe_model"])}
            self._bpe = encoders.build_bpe(Namespace(bpe=config["bpe"], **option))
        self.model.make_generation_fast_()

    def to(self, *args: Any) -> Translator:
        """Move the model to a device or convert it to a floating-point type; return self."""
        self.model.to(*args)
        return self

    def translate(
        self,
        sentences: Sequence[str],
        *,
        beam: int = 5,
        batch_size: int = 64,
        lenpen: float = 1.0,
        max_len_a: float = 0,
        max_len_b: int = 200,
    ) -> list[str]:
        """Return the translations of untokenised sentences, in their order; a blank one stays blank.

        A sentence with more subwords than the model has positions is cut there, with a warning.

        :param beam: size of the beam.
        :param batch_size: number of sentences translated at once.
        :param lenpen: above 1 favours longer translations.
        :param max_len_a: a translation has at most max_len_a · (length of the source) + max_len_b subwords.
        :param max_len_b: see *max_len_a*.
        :raises UserError: if anything but a list of strings is given, or an option has no sense.
        """
        sentences = check_sentences(sentences)
        check_options(beam=beam, batch_size=batch_size, lenpen=lenpen, max_len_a=max_len_a, max_len_b=max_len_b)
        sources = [self._encode(sentence) for sentence in sentences]
        sources = self._cut(sources)
        # blank ones are left blank: the model would invent something
        order = [i for i, source in enumerate(sources) if len(source) > 1 and not is_blank(sentences[i])]
        order.sort(key=lambda i: len(sources[i]))  # little padding
        if any(int(max_len_a * len(sources[i]) + max_len_b) < 1 for i in order[:1] + order[-1:]):
            raise UserError(
                f"max_len_a is {max_len_a} and max_len_b {max_len_b}, which leave a translation no subword: give more"
            )
        options = Namespace(beam=beam, lenpen=lenpen, max_len_a=max_len_a, max_len_b=max_len_b)
        generator = self.task.build_generator([self.model], options)
        results = [""] * len(sources)
        device = next(self.model.parameters()).device
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            dataset = self.task.build_dataset_for_inference(
                [sources[i] for i in chosen], [len(sources[i]) for i in chosen]
            )
            batch = dataset.collater([dataset[i] for i in range(len(chosen))])
            batch["net_input"] = {k: v.to(device) for k, v in batch["net_input"].items() if isinstance(v, Tensor)}
            found = self.task.inference_step(generator, [self.model], batch)
            for i, hypotheses in zip(batch["id"].tolist(), found, strict=True):
                results[chosen[i]] = self._decode(hypotheses[0]["tokens"])
        return results

    def _encode(self, sentence: str) -> Tensor:
        # as the preparation reads text
        text = self._tokenised(normalised(plain(sentence), self._normalise))
        text = self._bpe.encode(text) if self._bpe else text
        return self.task.source_dictionary.encode_line(text, add_if_not_exist=False).long()

    def _cut(self, sources: list[Tensor]) -> list[Tensor]:
        """Return the sentences, those cut that are longer than the model's positions."""
        most = self.model.max_positions()[0]
        for number, source in enumerate(sources, 1):
            if len(source) > most:
                warnings.warn(
                    f"sentence {number} has {len(source) - 1} subwords, but the model takes {most - 1}: the rest of it "
                    "is not translated",
                    stacklevel=3,
                )
        return [torch.cat([source[: most - 1], source[-1:]]) if len(source) > most else source for source in sources]

    def _tokenised(self, sentence: str) -> str:
        """Return a sentence as the preparation of the training text would have tokenised it."""
        if self._tokenizer:
            sentence = _FINAL_STOP.sub(r"\1 .", self._tokenizer.encode(sentence))
        return sentence.lower() if self._lowercase else sentence

    def _decode(self, tokens: Tensor) -> str:
        text = self.task.target_dictionary.string(tokens.int().cpu())
        text = self._bpe.decode(text) if self._bpe else text
        return self._tokenizer.decode(text) if self._tokenizer else text


def from_pretrained(folder: str | Path) -> Translator:
    """Read a folder that ``fairseq-dsp export-folder`` wrote.

    :raises UserError: if the folder is not one, or a file is missing or not as it was written.
    """
    folder = Path(folder)
    again = "export or download the folder again"
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config["format"] != FORMAT:
            raise UserError(f"{folder / CONFIG} is of the format {config['format']}, but {FORMAT} is expected: {again}")
        _check_names(config)
        for name, checksum in config["sha256"].items():
            if not (folder / name).is_file():
                raise UserError(f"the file {name} is missing in {folder}: {again}")
            if (_sha256_of(config) if name == CONFIG else _sha256(folder / name)) != checksum:
                raise UserError(f"the file {name} in {folder} is not as it was written (its checksum differs): {again}")
        languages = (config["source_lang"], config["target_lang"])
        dictionaries = [Dictionary.load(str(folder / f"dict.{language}.txt")) for language in languages]
        settings = TranslationConfig(
            data=str(folder),
            source_lang=languages[0],
            target_lang=languages[1],
            left_pad_source=config["left_pad_source"],
        )
        task = TranslationTask(settings, *dictionaries)
        # the weights hold the embeddings, whatever file they came from before training
        model = PrunableTransformer.build_model(Namespace(**{**config["model"], **_NO_FILES}), task)
        weights = load_file(str(folder / WEIGHTS))
        weights |= {name: weights[other] for name, other in config["shared"].items()}
        model.load_state_dict(weights)
        return Translator(model, task, config, folder)
    except UserError:
        raise
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read as a model ({error}): give a folder that fairseq-dsp export-folder wrote"
        ) from error
    except Exception as error:  # whatever a value of another kind makes of the model
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise UserError(f"{folder / CONFIG} is not a model's configuration ({reason}): {again}") from error


def _is_plain(name: str) -> bool:
    """Whether a name leads to no other folder."""
    return Path(name).name == name


def _check_names(config: dict[str, Any]) -> None:
    """Raise an error unless all the files that a configuration names are the folder's own."""
    languages = [config["source_lang"], config["target_lang"]]
    for name in [*config["sha256"], *languages, *([config["bpe_model"]] if config["bpe"] else [])]:
        if not _is_plain(name):
            raise UserError(
                f"{CONFIG} names {name}, but only files of its own folder are read: do not trust this folder"
            )
    if not isinstance(json.loads(config["model"]["kept_heads"]), dict):
        raise ValueError("kept_heads is no set of heads")
