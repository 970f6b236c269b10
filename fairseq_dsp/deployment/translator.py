"""Translating raw sentences, whatever computes the translations."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..errors import UserError
from ..plain import is_blank
from .request import check_options, check_sentences
from .text import Text

BEAM, BATCH_SIZE, LENPEN, MAX_LEN_A, MAX_LEN_B = 5, 64, 1.0, 0.0, 200


class Search(NamedTuple):
    """Options of a beam search; see :meth:`Translator.translate`."""

    beam: int = BEAM
    batch_size: int = BATCH_SIZE
    lenpen: float = LENPEN
    max_len_a: float = MAX_LEN_A
    max_len_b: float = MAX_LEN_B

    def longest(self, source: int) -> int:
        """Return the number of subwords that a translation may have.

        :param source: subwords of the source, its end included.
        """
        return int(self.max_len_a * source + self.max_len_b)


class Translator(ABC):
    """A translation model ready for use.

    :param text: what raw text goes through.
    :param positions: of the source; the end of a sentence takes one.
    """

    def __init__(self, text: Text, positions: int) -> None:
        self.text, self.positions = text, positions

    def translate(
        self,
        sentences: Sequence[str],
        *,
        beam: int = BEAM,
        batch_size: int = BATCH_SIZE,
        lenpen: float = LENPEN,
        max_len_a: float = MAX_LEN_A,
        max_len_b: float = MAX_LEN_B,
    ) -> list[str]:
        """Return the translations of untokenised sentences, in their order; a blank one stays blank.

        A sentence with more subwords than the model has positions is cut there, with a warning.

        :param beam: size of the beam.
        :param batch_size: number of sentences translated at once.
        :param lenpen: above 1 favours longer translations.
        :param max_len_a: a translation has at most max_len_a · (length of the longest source in its batch) + max_len_b
            subwords.
        :param max_len_b: see *max_len_a*.
        :raises UserError: if anything but a list of strings is given, or an option has no sense.
        """

        def warn(number: int, told: str) -> None:
            warnings.warn(f"sentence {number + 1} {told}", stacklevel=4)

        return self.search(check_sentences(sentences), Search(beam, batch_size, lenpen, max_len_a, max_len_b), warn)

    def search(self, sentences: Sequence[str], search: Search, tell: Callable[[int, str], None]) -> list[str]:
        """Do what `translate` does.

        :param tell: is given the index of each sentence that is cut, and what is to be said of it.
        """
        check_options(**search._asdict())
        sources = [self.text.encode(sentence).split() for sentence in sentences]
        most = self.positions - 1
        for i, source in enumerate(sources):
            if len(source) > most:
                tell(i, f"has {len(source)} subwords, but the model takes {most}: the rest of it is not translated")
                del source[most:]
        # blank ones are left blank: the model would invent something
        order = [i for i, source in enumerate(sources) if source and not is_blank(sentences[i])]
        order.sort(key=lambda i: len(sources[i]))  # little padding
        if any(search.longest(len(sources[i]) + 1) < 1 for i in order[:1] + order[-1:]):
            raise UserError(
                f"max_len_a is {search.max_len_a} and max_len_b {search.max_len_b}, which leave a translation no "
                "subword: give more"
            )
        results = [""] * len(sources)
        for start in range(0, len(order), search.batch_size):
            chosen = order[start : start + search.batch_size]
            for i, subwords in zip(chosen, self.best([sources[i] for i in chosen], search), strict=True):
                results[i] = self.text.decode(subwords)
        return results

    @abstractmethod
    def best(self, sources: list[list[str]], search: Search) -> list[str]:
        """Return the best translation of each source, its subwords with spaces between them.

        :param sources: the subwords of some sentences, at least one each, sorted by their number.
        """
