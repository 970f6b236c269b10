"""Moses tokenisation and back."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache, partial
from typing import TYPE_CHECKING

from ..languages import base
from .lines import in_batches
from .stages import progress
from .workers import in_order

if TYPE_CHECKING:
    from sacremoses import MosesTokenizer

FINAL_STOP = re.compile(r"([^\s.])\.$")


def tokenise(
    lines: Iterable[str], language: str, *, lowercase: bool = False, workers: int = 1, label: str = ""
) -> Iterator[str]:
    """Moses tokenisation, with the escapes that Moses writes (``&apos;`` …), and lower-casing where asked for.

    :param lines: plain sentences.
    :param language: picks the abbreviations, after which a full stop stays with its word.
    :param lowercase: lower-case the result.
    :param workers: processes; small texts use one.
    :param label: in front of the progress bar.
    """
    work = partial(_tokenise_batch, language=language, lowercase=lowercase)
    with progress(desc=label, unit="line", unit_scale=True) as bar:
        for batch in in_order(work, in_batches(lines), workers):
            yield from batch
            bar.update(len(batch))


def _tokenise_batch(lines: list[str], *, language: str, lowercase: bool) -> list[str]:
    tokenizer = _moses(language)
    # Moses' own script splits the full stop off the last word whatever the word; sacremoses leaves it with "U.S.".
    out = [FINAL_STOP.sub(r"\1 .", tokenizer.tokenize(line, return_str=True)) for line in lines]
    return [line.lower() for line in out] if lowercase else out


@cache
def _moses(language: str) -> MosesTokenizer:
    """One Moses tokenizer a language and process: making one reads the language's abbreviations."""
    from sacremoses import MosesTokenizer

    return MosesTokenizer(base(language))


def detokenise(lines: Iterable[str], language: str) -> Iterator[str]:
    """Plain sentences from Moses-tokenised ones; case that is lost stays lost."""
    from sacremoses import MosesDetokenizer

    detokenizer = MosesDetokenizer(base(language))
    for line in lines:
        yield detokenizer.detokenize(line.split())
