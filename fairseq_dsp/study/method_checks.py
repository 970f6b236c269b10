"""What a method of a study needs of the others, and which methods choose units of other kinds than heads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..evaluation.prepared import PreparedData
from .options import BUDGETS, Options, parse_options
from .unpruned_model import MODEL, STOCK, UnprunedModel

if TYPE_CHECKING:
    from .study_file import Method

_CHOOSING = ("joint", "ste", "pipelined", "voita", "range")
"""The methods that choose units by training."""


def chooses_units(options: Options) -> bool:
    """Whether a training with these options chooses units of other kinds than heads."""
    return bool(BUDGETS.keys() & options.keys())


def check_units(recipe: Options, base: Options, methods: Sequence[Method]) -> None:
    """Raise a ``ValueError`` for a budget of units where nothing chooses any."""
    places = [(recipe, "recipe"), (base, "base")]
    places += [(m.options, f"options of {m.name}") for m in methods if m.method not in _CHOOSING]
    places += [(m.recovery or {}, f"recovery of {m.name}") for m in methods]
    for options, where in places:
        for name in BUDGETS.keys() & options.keys():
            raise ValueError(
                f"{where} has the option {name}, but units are chosen in the training of a method: give it to the "
                f"options of {', '.join(_CHOOSING[:-1])} or {_CHOOSING[-1]}"
            )


def check_range(method: Method) -> None:
    """Raise a ``ValueError`` for a number of heads that the training of a ``range`` is not for."""
    assert method.low is not None
    assert method.high is not None
    for k in method.heads:
        if not method.low <= k <= method.high:
            raise ValueError(
                f"{method.name} trains for {method.low} to {method.high} heads, but heads holds {k}: leave it out, or "
                "change low or high"
            )


def check_structure(method: Method, methods: Sequence[Method], *, compact: bool) -> None:
    """Raise a ``ValueError`` if there is no run whose heads a ``structure`` could take."""
    others = [m.name for m in methods if m.heads and m.method not in ("unpruned", "structure")]
    if method.of not in others:
        given = "lacks the key of" if method.of is None else f"takes the heads of {method.of}"
        raise ValueError(f"{method.name} {given}, but the name of a method that chooses heads is expected: {others}")
    if not compact:
        raise ValueError(f"{method.name} reads its heads from compact models: leave compact: false out")
    there = {(k, seed) for m in methods if m.name == method.of for k in m.heads for seed in m.seeds}
    for k, seed in itertools.product(method.heads, method.seeds):
        if (k, seed) not in there:
            raise ValueError(
                f"{method.name} takes the heads of {method.of} at K = {k} with seed {seed}, but no such run is in the "
                f"study: give {method.of} this number of heads and seed, or leave them out here"
            )


def check_given_base(model: UnprunedModel, data: PreparedData, recipe: Options, methods: Sequence[Method]) -> None:
    """Check that a study can start from a given model.

    :raises UserError: if the data or the recipe does not fit it.
    :raises ValueError: if a method removes heads of the model as it is, and it is stock fairseq's.
    """
    model.check_data(data)
    model.check_fits(parse_options(data, recipe, "recipe"))
    for method in methods if model.is_stock else ():
        if method.method == "michel" or (method.method == "pipelined" and model.heads in method.heads):
            raise ValueError(
                f"{method.name} removes heads of the model as it is, but {model.path} is of fairseq's {STOCK}: leave "
                f"that out, or give a model that was trained on with --arch {MODEL} --finetune-from-model"
            )
