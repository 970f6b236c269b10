"""Checks of what a caller asks a translator or a classifier for."""

from __future__ import annotations

import math
import numbers
from collections.abc import Iterable
from typing import Any

from ..errors import UserError


def check_sentences(sentences: Iterable[Any]) -> list[str]:
    """Return the sentences as a list.

    :raises UserError: unless it is an iterable of strings, each of characters that can be encoded.
    """
    found = _list(sentences, "translate takes a list of sentences", "put strings into a list")
    for number, sentence in enumerate(found, 1):
        _check_text(sentence, f"sentence {number}")
    return found


def check_pairs(inputs: Iterable[Any], sentences: int | None = None) -> list[tuple[str, ...]]:
    """Return pairs of sentences, or sentences, as a list of tuples of one length.

    :param sentences: of each input, as the model was trained; None where that is not known.
    :raises UserError: unless it is an iterable of strings or of pairs of them, each of characters that can be encoded.
    """
    found: list[tuple[str, ...]] = []
    for number, row in enumerate(_list(inputs, "predict takes a list of pairs", "put pairs of strings into a list"), 1):
        pair = (row,) if isinstance(row, str) else tuple(row) if isinstance(row, (tuple, list)) else (row,)
        if isinstance(row, (tuple, list)) and len(pair) != 2:
            raise UserError(f"input {number} has {len(pair)} sentences, but a pair, or a string, is expected")
        for sentence in pair:
            _check_text(sentence, f"a sentence of input {number}")
        if found and len(pair) != len(found[0]):
            raise UserError(f"input {number} is {'no pair' if len(pair) == 1 else 'a pair'}, unlike those before it")
        if sentences == 2 > len(pair):
            raise UserError(
                f"input {number} is one sentence, but the model was trained on pairs: give a list of pairs, such as "
                "[(premise, hypothesis)]"
            )
        if sentences == 1 < len(pair):
            raise UserError(
                f"input {number} is a pair, but the model was trained on single sentences: give a list of these"
            )
        found.append(pair)
    return found


def _list(values: Any, taken: str, advice: str) -> list[Any]:
    if isinstance(values, (str, bytes)) or not isinstance(values, Iterable):
        kind = {str: "one string", bytes: "bytes", type(None): "None"}.get(type(values), type(values).__name__)
        raise UserError(f"{taken}, but {kind} was given: {advice}")
    return list(values)


def _check_text(sentence: Any, name: str) -> None:
    if not isinstance(sentence, str):
        kind = "None" if sentence is None else f"of the type {type(sentence).__name__}"
        raise UserError(f"{name} is {kind}, but a string is expected: decode or leave it out")
    try:
        sentence.encode()
    except UnicodeEncodeError as error:
        raise UserError(
            f"{name} holds half a character (U+{ord(sentence[error.start]):04X}, place {error.start}): "
            "decode the text from the right encoding, such as UTF-8"
        ) from error


def check_options(*, beam: Any, batch_size: Any, **lengths: Any) -> None:
    """Check the options of a search.

    :raises UserError: unless *beam* and *batch_size* are whole numbers from 1, and all others are finite numbers.
    """
    for name, value in {"beam": beam, "batch_size": batch_size}.items():
        if type(value) is bool or not isinstance(value, numbers.Integral) or value < 1:
            raise UserError(f"{name} is {value!r}, but a whole number from 1 is expected")
    for name, value in lengths.items():
        if type(value) is bool or not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise UserError(f"{name} is {value!r}, but a finite number is expected")
