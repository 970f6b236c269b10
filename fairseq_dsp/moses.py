"""Moses tokenisation of a sentence, and back: sacremoses, with the full stop at the end as Moses' own script has it."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from .languages import base

if TYPE_CHECKING:
    from sacremoses import MosesDetokenizer, MosesTokenizer

_FINAL_STOP = re.compile(r"([^\s.])\.$")


def tokenised(sentence: str, language: str, *, lowercase: bool = False) -> str:
    """Return the tokens with spaces between them, with the escapes that Moses writes (``&apos;`` …).

    :param language: picks the abbreviations, after which a full stop stays with its word; at the end of a sentence it
        is split off any word, which sacremoses does not do.
    :param lowercase: lower-case the result.
    """
    tokens = _FINAL_STOP.sub(r"\1 .", _tokenizer(language).tokenize(sentence, return_str=True))
    return tokens.lower() if lowercase else tokens


def detokenised(tokens: str, language: str) -> str:
    """Return a plain sentence; case that is lost stays lost."""
    return str(_detokenizer(language).detokenize(tokens.split()))


@cache
def _tokenizer(language: str) -> MosesTokenizer:
    """One a language and process: making one reads the language's abbreviations."""
    from sacremoses import MosesTokenizer

    return MosesTokenizer(base(language))


@cache
def _detokenizer(language: str) -> MosesDetokenizer:
    from sacremoses import MosesDetokenizer

    return MosesDetokenizer(base(language))
