"""Translating untokenised sentences with a model in memory."""

from __future__ import annotations

import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq.data import encoders
from fairseq.tasks.translation import TranslationTask
from torch import Tensor

from .. import moses
from ..errors import UserError
from ..model import PrunableTransformer
from ..plain import is_blank, normalised, plain
from .request import check_options, check_sentences

BPE_OPTIONS = {"sentencepiece": "sentencepiece_model", "subword_nmt": "bpe_codes"}
"""Kinds of subwords → fairseq's option for their model."""


def read_bpe(config: dict[str, Any], folder: Path) -> Any:
    """Return fairseq's encoder of a folder's subword model, None for a folder without one."""
    if not config["bpe"]:
        return None
    option = {BPE_OPTIONS[config["bpe"]]: str(folder / config["bpe_model"])}
    return encoders.build_bpe(Namespace(bpe=config["bpe"], **option))


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
        self._moses = config["tokenizer"] == "moses"
        self._languages = config["source_lang"], config["target_lang"]
        self._bpe = read_bpe(config, folder)
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
        if self._moses:
            sentence = moses.tokenised(sentence, self._languages[0])
        return sentence.lower() if self._lowercase else sentence

    def _decode(self, tokens: Tensor) -> str:
        text = self.task.target_dictionary.string(tokens.int().cpu())
        text = self._bpe.decode(text) if self._bpe else text
        return moses.detokenised(text, self._languages[1]) if self._moses else text
