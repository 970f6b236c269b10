"""Checks of what a study file gives: mappings, their keys, numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..errors import closest


def mapping(value: Any, where: str) -> Mapping[str, Any]:
    """Return *value*, keys with values.

    :raises ValueError: if it is anything else.
    """
    if not isinstance(value, dict):
        raise ValueError(f"{where} is {value!r}, but keys with values are expected")
    return value


def check_keys(content: Mapping[str, Any], known: Iterable[str], where: str, required: Iterable[str] = ()) -> None:
    """Raise a ``ValueError`` for a key that is not *known*, or a *required* one that is missing."""
    for key in content:
        if key not in known:
            advice = closest(str(key), known) or f": give some of {', '.join(sorted(known))}"
            raise ValueError(f"{where} has an unknown key {key}{advice}")
    for key in required:
        if key not in content:
            raise ValueError(f"{where} lacks the key {key}: add it")


def numbers(value: Any, where: str, kind: type, low: float, high: float, *, least: int = 0) -> tuple[Any, ...]:
    """Return a list of numbers, all different and within *low* and *high*.

    :param kind: ``int`` or ``float``.
    :param least: how many there must be at least, 0 or 1.
    :raises ValueError: if it is no such list. YAML reads 1e-3, without a point, as text.
    """
    if not isinstance(value, list):
        example = "[0.25, 0.5]" if kind is float and high == 1 else "[1, 2]"
        raise ValueError(f"{where} is {value!r}, but a list of numbers is expected, such as {example}")
    whole = "whole " if kind is int else ""
    if len(value) < least:
        raise ValueError(f"{where} is an empty list, but one number at least is expected, such as [1]")
    if kind is float:
        value = [_float(number) for number in value]
    for number in value:
        right = isinstance(number, (int, float) if kind is float else int) and not isinstance(number, bool)
        if not right or not low <= number <= high:
            raise ValueError(f"{where} holds {number!r}, but {whole}numbers from {low} to {high} are expected")
    if len({f"{number:.12g}" for number in value}) != len(value):
        raise ValueError(f"{where} holds a number twice ({value}): give each once")
    return tuple(kind(number) for number in value)


def _float(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


NAME = "a text of letters, digits, - and _ is expected, in quotes where YAML reads it as something else"
"""What :func:`is_name` allows, for messages."""


def is_name(value: Any) -> bool:
    """Whether *value* can name a study or a method, and so a file: letters, digits, - and _."""
    return isinstance(value, str) and value.replace("-", "").replace("_", "").isalnum()


def boolean(value: Any, where: str) -> bool:
    """Return *value*, true or false.

    :raises ValueError: if it is anything else.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{where} is {value!r}, but true or false is expected")
    return value
