"""What a benchmark runs: a checkpoint, which translates with beam search or classifies; a folder of CTranslate2."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from fairseq import checkpoint_utils, models
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import OmegaConf

from ..deployment import engine
from ..errors import UserError
from ..model import modules_of
from ..model.flat_options import NO_FILES

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Runner(Protocol):
    """Something that translates; see :class:`FairseqRunner` and :class:`EngineRunner`."""

    parameters: int | None
    bytes: int  # of the weights
    type: str | None

    def batch(self, size: int, length: int) -> Any:
        """Return random sentences, always the same ones."""

    def __call__(self, batch: Any) -> None:
        """Translate them."""


class FairseqRunner:
    """Beam search over one model with fairseq's generator.

    :param model: a model in evaluation mode.
    :param source_words: size of the source dictionary.
    :param words: size of the target dictionary.
    :param prepare: whether to prepare the model as ``fairseq-generate`` does.
    """

    type: str | None = None

    def __init__(
        self, model: Any, source_words: int, words: int, beam: int, length: int, *, prepare: bool = True
    ) -> None:
        self.model, self.source_words = model, source_words
        tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        tied -= {name for name, _ in model.named_parameters()}
        if prepare:
            model.prepare_for_inference_(OmegaConf.create({"generation": {"beam": beam}}))
        model.requires_grad_(False)
        # a copy made for speed of what was one parameter is none
        self._count(p for name, p in model.named_parameters() if name not in tied)
        self._generator = SequenceGenerator(
            [model], dictionary(words), beam_size=beam, max_len_a=0, max_len_b=length, min_len=length
        )

    def _count(self, parameters: Iterable[torch.Tensor]) -> None:
        numbers = [(p.numel(), p.element_size()) for p in parameters]
        self.parameters: int | None = sum(number for number, _ in numbers)
        self.bytes = sum(number * size for number, size in numbers)

    def batch(self, size: int, length: int) -> dict[str, Any]:
        """Return random sentences. *Shape of ``src_tokens``:* (size, length)"""
        draw = torch.Generator().manual_seed(1)
        tokens = torch.randint(4, self.source_words, (size, length), generator=draw)
        tokens[:, -1] = 2  # the end of a sentence
        device = next(self.model.parameters()).device
        return {"net_input": {"src_tokens": tokens.to(device), "src_lengths": torch.full((size,), length).to(device)}}

    def __call__(self, batch: dict[str, Any]) -> None:
        """Translate."""
        self._generator.generate([self.model], batch)
        _wait(batch["net_input"]["src_tokens"])


class ClassifierRunner(FairseqRunner):
    """A forward pass of a model that classifies pairs of sentences.

    :param model: a model in evaluation mode.
    :param words: size of the dictionary.
    """

    def __init__(self, model: Any, words: int) -> None:
        self.model, self.source_words = model, words
        self._head = next(iter(model.classification_heads))
        model.make_generation_fast_()
        model.requires_grad_(False)
        # the head of the language model reads nothing here
        self._count(p for name, p in model.named_parameters() if ".lm_head." not in name)

    def batch(self, size: int, length: int) -> dict[str, Any]:
        """Return random pairs. *Shape of ``src_tokens``:* (size, length)"""
        batch = super().batch(size, length)
        batch["net_input"]["src_tokens"][:, length // 2] = 2  # the end of the first sentence
        return batch

    @torch.no_grad()
    def __call__(self, batch: dict[str, Any]) -> None:
        """Classify."""
        self.model(**batch["net_input"], features_only=True, classification_head_name=self._head)
        _wait(batch["net_input"]["src_tokens"])


class EngineRunner:
    """CTranslate2 over one of its folders.

    :raises UserError: if the folder cannot be loaded.
    """

    def __init__(self, folder: Path, beam: int, length: int, device: str) -> None:
        self._engine = engine.load(folder, device, torch.get_num_threads())
        self.type: str | None = self._engine.compute_type
        # as many steps as fairseq takes: it counts the end as one more
        self._options = {"beam_size": beam, "min_decoding_length": length + 1, "max_decoding_length": length + 1}
        self.parameters: int | None = None
        self.bytes = (folder / engine.WEIGHTS).stat().st_size
        files = [folder / "source_vocabulary.json", folder / "shared_vocabulary.json"]
        vocabulary = next((file for file in files if file.is_file()), None)
        if vocabulary is None:
            raise UserError(f"{folder} has neither {files[0].name} nor {files[1].name}: {engine.AGAIN}")
        try:
            self._words = json.loads(vocabulary.read_text(encoding="utf-8"))[4:]
        except ValueError as error:
            raise UserError(f"the vocabulary {vocabulary} is not JSON: {engine.AGAIN}") from error

    def batch(self, size: int, length: int) -> list[list[str]]:
        """Return random sentences."""
        draw = random.Random(1)
        return [draw.choices(self._words, k=length - 1) for _ in range(size)]  # the engine adds the end

    def __call__(self, batch: list[list[str]]) -> None:
        """Translate."""
        self._engine.translate_batch(batch, **self._options)


def _wait(tokens: torch.Tensor) -> None:
    """Wait until the GPU that has the tokens, if one has, is done."""
    if tokens.is_cuda:
        torch.cuda.synchronize(tokens.device)


def dictionary(words: int) -> Dictionary:
    """Return a dictionary of so many invented words."""
    result = Dictionary()
    for i in range(words - len(result)):
        result.add_symbol(f"w{i}")
    return result


def load(path: str, beam: int, length: int, device: str, precision: str) -> Runner:
    """Return a runner for a checkpoint or a CTranslate2 folder.

    :raises UserError: if it is neither, or does not take sentences of so many subwords.
    """
    if Path(path).is_dir():
        if not (Path(path) / engine.WEIGHTS).is_file():
            raise UserError(
                f"the folder {path} is not a CTranslate2 model: give a checkpoint, or a folder of fairseq-dsp "
                "export-ctranslate2"
            )
        runner = EngineRunner(Path(path), beam, length, device)
        _try(runner, path, length)
        return runner
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: give a checkpoint, or a folder of fairseq-dsp export-ctranslate2")
    state = checkpoint_utils.load_checkpoint_to_cpu(path, NO_FILES)
    try:
        parameters = dict(state["model"])  # without what it knows of its dictionaries: these are invented
        if any(".sentence_encoder." in name for name in parameters):
            classifier, words_read = _classifier(state, parameters)
            _check_length(path, length, classifier.max_positions())
            classifier.eval().to(device, PRECISIONS[precision])
            return ClassifierRunner(classifier, words_read)
        words = [len(parameters[f"{stack}.embed_tokens.weight"]) for stack in ("encoder", "decoder")]
        task = TranslationTask(TranslationConfig(), *map(dictionary, words))
        config = state["cfg"]["model"]
        model = models.build_model(config, task)
        model.load_state_dict(parameters, strict=True, model_cfg=config)
        list(modules_of(model))
        source, target = model.max_positions()
        _check_length(path, length, min(source, target - 1))  # one is for the end of the translation
    except UserError:
        raise
    except Exception as error:  # whatever another architecture lacks
        raise UserError(
            f"the model in {path} cannot be built, or its parameters do not fit it: give a checkpoint of an "
            "encoder–decoder Transformer, or of a RoBERTa that classifies, that fairseq-train or fairseq-dsp wrote"
        ) from error
    model.eval().to(device, PRECISIONS[precision])
    return FairseqRunner(model, words[0], words[1], beam, length)


def _check_length(path: str, length: int, longest: int) -> None:
    if length > longest:
        raise _too_long(path, length, longest)


def _too_long(path: str, length: int, longest: int) -> UserError:
    return UserError(
        f"--length is {length}, but the model in {path} takes {longest} subwords at most: "
        f"give --length {longest} or less"
    )


def _try(runner: EngineRunner, path: str, length: int) -> None:
    """Translate one sentence, since only that tells how many positions an engine has.

    :raises UserError: if it cannot.
    """
    try:
        runner(runner.batch(1, length))
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        positions = re.search(r"positions >= (\d+)", reason)
        if positions is None:
            raise UserError(
                f"the engine in {path} cannot translate sentences of {length} subwords ({reason}): {engine.AGAIN}"
            ) from error
        raise _too_long(path, length, int(positions[1]) - 1) from error


def _classifier(state: dict[str, Any], parameters: dict[str, Any]) -> tuple[Any, int]:
    """Return a model that classifies, and the size of its dictionary."""
    words = next(len(weight) for name, weight in parameters.items() if name.endswith("embed_tokens.weight"))
    heads = {name: value for name, value in parameters.items() if name.startswith("classification_heads.")}
    name, weight = next((name, value) for name, value in heads.items() if name.endswith(".out_proj.weight"))
    settings = SentencePredictionConfig(num_classes=len(weight), regression_target=False)
    settings.classification_head_name = name.split(".")[1]
    task = SentencePredictionTask(settings, dictionary(words), dictionary(4))
    config = state["cfg"]["model"]
    model = models.build_model(config, task)
    model.register_classification_head(settings.classification_head_name, num_classes=len(weight))
    model.load_state_dict(parameters, strict=True, model_cfg=config)
    return model, words
