"""What tables and pictures call the methods of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from .options import Options

if TYPE_CHECKING:
    from .study_file import Method

BASE = "base"
"""What a study calls its unpruned model, with which all is compared."""
BASE_TITLE = "unpruned"
"""What people read there."""

METHODS = {
    "joint": "exact subsets",
    "ste": "straight-through",
    "pipelined": "pipelined, exact subsets",
    "voita": "L0 (Voita et al. 2019)",
    "michel": "gradient score (Michel et al. 2019)",
    "random": "random heads",
    "structure": "new weights, heads of OTHER",
    "range": "one training for all K",
    "unpruned": "another model, not pruned",
}
"""The ways to get a model with fewer heads, by the name that a study gives them, with their titles."""

_SELECTIONS = {
    "simple": "exact subsets",
    "gumbel": "relaxed Gumbel top-K (Li et al. 2021)",
    "ste": "straight-through",
    "hard_concrete": "L0 (Voita et al. 2019)",
}
"""Titles of selections; one of a user's own is called by its name."""


def read_title(content: Mapping[str, Any], name: str) -> str:
    """Return the title that an entry gives its method, "" if it gives none.

    :raises ValueError: if it is not a line of text.
    """
    if "title" not in content:
        return ""
    title = content["title"]
    if not isinstance(title, str) or not title.isprintable() or not title[:1].isalnum():
        raise ValueError(
            f"title of {name} is {title!r}, but a line of text is expected that begins with a letter or a digit"
        )
    return title


def with_titles(methods: Sequence[Method], recipe: Options) -> tuple[Method, ...]:
    """Return the methods, each with its title: the one given, else that of its kind, or its name if it has its own.

    :raises ValueError: if a method has two titles, or two methods have one.
    """
    titles: dict[str, str] = {}
    for method in methods:
        if method.title and titles.setdefault(method.name, method.title) != method.title:
            raise ValueError(f"{method.name} has the titles {titles[method.name]} and {method.title}: give it one")
    for method in methods:
        titles.setdefault(method.name, _default(method, recipe) if method.name == method.method else method.name)
    for method in methods:
        if method.of in titles:
            titles[method.name] = titles[method.name].replace("OTHER", titles[method.of])
    names: dict[str, str] = {}
    for name in dict.fromkeys(method.name for method in methods):
        title = titles[name]
        if title == BASE_TITLE:
            raise ValueError(f"the title of {name} is {title}, as tables call the base: give it another title")
        if names.setdefault(title, name) != name:
            raise ValueError(f"{names[title]} and {name} have the same title, {title}: give one of them another title")
    return tuple(replace(method, title=titles[method.name]) for method in methods)


def _default(method: Method, recipe: Options) -> str:
    title = METHODS[method.method]
    selection = {**recipe, **method.options}.get("head-selection", "simple")
    if selection != "simple" and _SELECTIONS["simple"] in title:
        title = title.replace(_SELECTIONS["simple"], _SELECTIONS.get(str(selection), str(selection)))
    title += ", output projections fitted" if method.compensate else ""
    return title + (", distilled" if method.distill else "") + (", recovered" if method.recovery is not None else "")
