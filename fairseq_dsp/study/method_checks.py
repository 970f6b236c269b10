"""What a method of a study needs of the others and of the study, and which choose units of other kinds than heads."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..evaluation.prepared import PreparedData
from .options import BUDGETS, SHARES, Options, parse_options, refuse_false
from .titles import BASE, BASE_TITLE
from .unpruned_model import MODEL, STOCK, UnprunedModel
from .values import numbers

if TYPE_CHECKING:
    from .study_file import Method, Study

_CHOOSING = ("joint", "ste", "pipelined", "voita", "range")
"""The methods that choose units by training."""

_SHARED = ("joint", "ste", "pipelined")
"""Those whose heads and units may have a budget of cost together."""

_SIZES = ("layers", "embed_dim", "ffn_embed_dim", "attention_heads")


def read_shares(content: Mapping[str, Any], where: str) -> tuple[tuple[str, float], ...]:
    """Return the shares of the cost that a study or a method gives, each with its option."""
    given = [name for name in ("heads", *SHARES) if content.get(name)]
    if len(given) > 1:
        raise ValueError(f"{where} gives {' and '.join(given)}, but only one of them can say how much stays: give one")
    return tuple((n, s) for n in SHARES for s in numbers(content.get(n) or [], f"{n} of {where}", float, 0, 1))


def shares_of(
    content: Mapping[str, Any], method: str, name: str, of_study: tuple[tuple[str, float], ...]
) -> tuple[tuple[str, float], ...]:
    """Return the shares of the cost that heads and units of a method have together.

    :param of_study: those of the study, for methods that give neither heads nor shares.
    :raises ValueError: for a method that cannot choose so.
    """
    own = read_shares(content, name)
    if own and method not in _SHARED:
        raise ValueError(f"{name} has the key {own[0][0]}, which is for {', '.join(_SHARED)}: give it heads")
    return own if own or "heads" in content or method not in _SHARED else of_study


def chooses_units(options: Options) -> bool:
    """Whether a training with these options chooses units of other kinds than heads."""
    return bool((BUDGETS.keys() | SHARES.keys()) & options.keys())


def check_units(recipe: Options, base: Options, methods: Sequence[Method]) -> None:
    """Raise a ``ValueError`` for a budget of units where nothing chooses any."""
    places = [(recipe, "recipe"), (base, "base")]
    places += [(m.options, f"options of {m.name}") for m in methods if m.method not in (*_CHOOSING, "random")]
    places += [(m.recovery or {}, f"recovery of {m.name}") for m in methods]
    for options, where in places:
        for name in BUDGETS.keys() & options.keys():
            raise ValueError(
                f"{where} has the option {name}, but units are chosen in the training of a method, or drawn: give it "
                f"to the options of {', '.join(_CHOOSING)} or random"
            )


def check_range(method: Method) -> None:
    """Raise a ``ValueError`` for a number of heads that the training of a ``range`` is not for."""
    for k in method.heads:
        if not method.low <= k <= method.high:
            raise ValueError(
                f"{method.name} trains for {method.low} to {method.high} heads, but heads holds {k}: leave it out, or "
                "change low or high"
            )


def check_structure(method: Method, methods: Sequence[Method], *, compact: bool) -> None:
    """Raise a ``ValueError`` if there is no run whose heads a ``structure`` could take."""
    others = [m.name for m in methods if m.heads and m.method not in ("unpruned", "structure")]
    if method.of not in others and any(m.name == method.of and m.shares for m in methods):
        raise ValueError(
            f"{method.name} takes the heads of {method.of} at given numbers, but {method.of} has shares of the cost: "
            "give the name of a method with heads"
        )
    if method.of not in others:
        given = "lacks the key of" if method.of is None else f"takes the heads of {method.of}"
        raise ValueError(
            f"{method.name} {given}, but the name of a method that chooses heads is expected: "
            f"{' or '.join(others) or 'joint, for example'}"
        )
    if not compact:
        raise ValueError(f"{method.name} reads its heads from compact models: leave compact: false out")
    there = {(k, seed) for m in methods if m.name == method.of for k in m.heads for seed in m.seeds}
    for k, seed in itertools.product(method.heads, method.seeds):
        if (k, seed) not in there:
            raise ValueError(
                f"{method.name} takes the heads of {method.of} at K = {k} with seed {seed}, but no such run is in the "
                f"study: give {method.of} this number of heads and seed, or leave them out here"
            )


def check_starts(
    data: PreparedData, recipe: Options, base: Options, methods: Sequence[Method], sizes: Options | None
) -> None:
    """Raise a ``ValueError`` if a training gives its model another size than the one has that it starts from.

    That is the unpruned model or, for a recovery, the one that the method has trained.

    :param sizes: the architecture and the sizes of a pretrained model, from which the others start; None without.
    """
    scoring = [m for m in methods if m.method == "michel"]
    training = [m for m in methods if m.method != "michel"]
    if sizes is not None:
        own = {"base": base} | {m.name: m.options for m in training if m.method != "structure"}
        _check_sizes(data, sizes, {name: {**recipe, **one} for name, one in own.items()}, "pretrained model")
    from_base = {m.name: {**recipe, **m.options} for m in training if m.from_base}
    from_base |= {f"recovery of {m.name}": {**recipe, **m.recovery} for m in scoring if m.recovery}
    _check_sizes(data, {**recipe, **base}, from_base, "unpruned model")
    for m in training:
        recovery = {f"recovery of {m.name}": {**recipe, **m.recovery}} if m.recovery else {}
        _check_sizes(data, {**recipe, **m.options}, recovery, "model of its pruning")


def check_given_base(model: UnprunedModel, data: PreparedData, recipe: Options, methods: Sequence[Method]) -> None:
    """Check that a study can start from a given model.

    :raises UserError: if the data or the recipe does not fit it.
    :raises ValueError: if a method removes heads of the model as it is, and it is stock fairseq's.
    """
    model.check_data(data)
    model.check_fits(parse_options(data, recipe, "recipe"))
    for method in methods if model.is_stock else ():
        as_it_is = {"michel": method.recovery is None, "pipelined": model.heads in method.heads}
        if as_it_is.get(method.method):
            raise ValueError(
                f"{method.name} removes heads of the model as it is, but {model.path} is of fairseq's {STOCK}: leave "
                f"that out, or give a model that was trained on with --arch {MODEL} --finetune-from-model"
            )


def _check_sizes(data: PreparedData, sizes: Options, trainings: Mapping[str, Options], model: str) -> None:
    """Raise a ``ValueError`` if a training gives its model another size than the one has that it starts from.

    :param sizes: the architecture and the sizes of the latter.
    :param trainings: all options of each, by what names it.
    :param model: what the latter is called.
    """
    if not trainings:
        return
    theirs = vars(parse_options(data, sizes, f"the {model}"))
    for where, options in trainings.items():
        ours = vars(parse_options(data, options, where))
        for name in (f"{stack}_{size}" for stack in ("encoder", "decoder") for size in _SIZES):
            if name in theirs and ours.get(name) != theirs[name]:
                raise ValueError(
                    f"{name.replace('_', '-')} of {where} is {ours.get(name)}, but the {model}, from which it starts, "
                    f"has {theirs[name]}: give both the same"
                )


def check_names(methods: Sequence[Method]) -> None:
    """Raise a ``ValueError`` if a method has the name of the unpruned model."""
    for name_of_base in {BASE, BASE_TITLE}.intersection(method.name for method in methods):
        raise ValueError(
            f"a method is called {name_of_base}, as the unpruned model is: give it another name with the key name"
        )


def check_twice(methods: Sequence[Method]) -> None:
    """Raise a ``ValueError`` if two methods have one name and are not one method with other heads or seeds.

    :param methods: with their titles.
    """
    for one, other in itertools.combinations(methods, 2):
        if one.name == other.name and not _complete_each_other(one, other):
            raise ValueError(
                f"two methods are called {one.name}: give one of them another name with the key name, or the same "
                "options and other heads or seeds"
            )


def check_lengths(study: Study) -> None:
    """Raise a ``ValueError`` if fairseq does not take the options of a training, or they do not say how long it is."""
    # how long others go on follows from it
    of_base = {name: study.base[name] for name in ("max-update",) if name in study.base}
    trainings = [(study.base, "base")]
    trainings += [((of_base if m.goes_on else {}) | m.options, m.name) for m in study.methods if m.method != "michel"]
    trainings += [(m.recovery, f"the recovery of {m.name}") for m in study.methods if m.recovery is not None]
    for options, where in trainings:
        if "max-update" not in {**study.recipe, **options}:
            raise ValueError(f"neither recipe nor {where} has max-update: give the number of updates")
        updates = parse_options(study.data, {**study.recipe, **options}, where).max_update
        refuse_false(study.data, study.recipe, options, where)
        if updates < 1:
            raise ValueError(f"max-update of {where} is {updates}, but a number from 1 is expected")


def _complete_each_other(one: Method, other: Method) -> bool:
    """Whether two entries are one method at different numbers of heads, or with different seeds."""
    same = set(one.heads) & set(other.heads) or set(one.shares) & set(other.shares)
    parts = [replace(method, heads=(), shares=(), seeds=()) for method in (one, other)]
    return parts[0] == parts[1] and not (same and set(one.seeds) & set(other.seeds))
