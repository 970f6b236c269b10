"""Checks of what a caller asks a translator for."""

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
    if isinstance(sentences, (str, bytes)) or not isinstance(sentences, Iterable):
        kind = {str: "one string", bytes: "bytes", type(None): "None"}.get(type(sentences), type(sentences).__name__)
        raise UserError(f"translate takes a list of sentences, but {kind} was given: put strings into a list")
    found = list(sentences)
    for number, sentence in enumerate(found, 1):
        if not isinstance(sentence, str):
            kind = "None" if sentence is None else f"of the type {type(sentence).__name__}"
            raise UserError(f"sentence {number} is {kind}, but a string is expected: decode or leave it out")
        try:
            sentence.encode()
        except UnicodeEncodeError as error:
            raise UserError(
                f"sentence {number} holds half a character (U+{ord(sentence[error.start]):04X}, place {error.start}): "
                "decode the text from the right encoding, such as UTF-8"
            ) from error
    return found


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
