"""Classifying sentences, or pairs of them, with a model in memory."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from fairseq.data import data_utils
from torch import Tensor

from ..errors import UserError
from ..model import PrunableRoberta
from ..plain import is_blank, plain
from ..wordpiece import WordPiece, cut
from .request import check_options, check_pairs
from .text import Subwords, read_bpe


class Prediction(NamedTuple):
    """What a model says of a sentence, or a pair of them.

    :param label: the most probable one.
    :param probabilities: of each label.
    """

    label: str
    probabilities: dict[str, float]


class Classifier:
    """A classification model ready for use.

    :param model: the model.
    :param task: fairseq's task ``sentence_prediction``, which has the dictionary.
    :param config: what the folder's configuration says.
    :param folder: where the subword model is.
    """

    def __init__(self, model: PrunableRoberta, task: Any, config: dict[str, Any], folder: Path) -> None:
        self.model, self.task = model.eval(), task
        self.labels: list[str] = config["labels"]
        self._sentences: int | None = config.get("sentences")  # earlier folders do not say
        self._head = task.cfg.classification_head_name
        self._pieces: WordPiece | None = None
        self._bpe: Subwords | None = None
        if config["bpe"] == "wordpiece":
            self._pieces = WordPiece.read(folder / config["bpe_model"])
        else:
            self._bpe = read_bpe(config["bpe"], folder / str(config["bpe_model"]))
        self.model.make_generation_fast_()

    def to(self, *args: Any) -> Classifier:
        """Move the model to a device or convert it to a floating-point type; return self."""
        self.model.to(*args)
        return self

    @torch.no_grad()
    def predict(self, inputs: Sequence[str] | Sequence[tuple[str, str]], *, batch_size: int = 64) -> list[Prediction]:
        """Return the label of each sentence, or pair of sentences, and the probabilities of all labels, in order.

        An input with more tokens than the model has positions loses the end of its longer sentence, with a warning.

        :param inputs: untokenised: pairs such as ``(premise, hypothesis)``, or sentences.
        :param batch_size: number of inputs classified at once.
        :raises UserError: if anything else is given, or a sentence is blank.
        """
        check_options(beam=1, batch_size=batch_size)
        rows = check_pairs(inputs, self._sentences)
        for number, row in enumerate(rows, 1):
            if any(is_blank(sentence) for sentence in row):
                raise UserError(f"input {number} has an empty sentence, of which nothing can be said: leave it out")
        tokens = [self._tokens(number, row) for number, row in enumerate(rows, 1)]
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))  # little padding
        found: list[Any] = [None] * len(tokens)
        device = next(self.model.parameters()).device
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            batch = data_utils.collate_tokens([tokens[i] for i in chosen], self.task.source_dictionary.pad())
            logits, _ = self.model(batch.to(device), features_only=True, classification_head_name=self._head)
            for i, row in zip(chosen, logits.float().softmax(-1).tolist(), strict=True):
                chances = dict(zip(self.labels, row, strict=False))  # a model may have classes without a label
                found[i] = Prediction(max(chances, key=chances.__getitem__), chances)
        return found

    def _tokens(self, number: int, sentences: tuple[str, ...]) -> Tensor:
        """Return an input as the model is given it in training. *Shape:* (T)"""
        cfg, dictionary = self.task.cfg, self.task.source_dictionary
        words = [self._words(sentence).split() for sentence in sentences]
        if not all(words):
            raise UserError(
                f"input {number} has a sentence without any subword, of which nothing can be said: leave it out"
            )
        separator = [] if cfg.separator_token is None or len(words) == 1 else [cfg.separator_token]
        start = [] if cfg.init_token is None else [cfg.init_token]
        if cut(words, cfg.max_positions - len(start) - len(separator) - len(words)):
            warnings.warn(
                f"input {number} has more tokens than the {cfg.max_positions} that the model takes: the end of its "
                "longer sentence is not read",
                stacklevel=3,
            )
        parts = [[*map(dictionary.index, part), dictionary.eos()] for part in words]
        return torch.tensor([*start, *parts[0], *(token for part in parts[1:] for token in (*separator, *part))])

    def _words(self, sentence: str) -> str:
        text = plain(sentence)  # as the preparation reads text
        if self._pieces is not None:
            (text,) = self._pieces.encode([text])
        elif self._bpe is not None:
            text = self._bpe.encode(text)
        return str(text)
