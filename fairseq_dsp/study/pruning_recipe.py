"""Pruning a trained model: the recipes by which it loses heads and units and trains on.

Where half of the heads or more stay, they are scored once, before the first update. The output projections are fitted
to them, and all updates train the model that is left, while the learning rate falls to 0.

Otherwise the training chooses. All heads are there at first, and the budget shrinks to K over a share of the updates. A
little later the heads are fixed, and the weights train on with just these to the end, while the learning rate falls to
0. The choice is slow: the importance has a tenth of the usual learning rate. Feed-forward units, where some are pruned,
have the same schedule.

A quarter of the heads, at least, is the encoder's, and one the decoder's; see `default_floor` of the kind.

Shares become update numbers here, once: a training that is extended keeps its schedule.
"""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Mapping, Sequence
from dataclasses import fields

from ..evaluation.prepared import PreparedData
from ..model import HEADS, PruningConfig
from ..model.retired import RETIRED
from ..model.units import shape_by
from .options import BUDGETS, DEFAULTS, SHARES, Options, parse_options

LEAST_UPDATES = 500
SCORED_ONCE: Options = {"split": "train", "sentences": 2000, "steps": 6}
"""Options of score-heads, where the heads are scored once."""
PRUNING_LR = 0.02
_WARM_UP = 0.05
_SHRINKING, _CHOOSING = 0.25, 0.3
"""The shares of a training until the budget is K, and until the heads are fixed."""
_OF_OTHERS = {"lr", "max_update", "maximize_best_checkpoint_metric", "sentence_avg", "tpu"}
"""What these read of others' options."""
_IN_UPDATES = ("max-update", "warmup-updates", "total-num-update", "save-interval-updates")
"""What a training that is shorter has less of."""
_LINEAR = "polynomial_decay"
_SAVES = 5
_OF_A_RANGE = "heads-to-keep-high"
_BUDGETS = {"heads-to-keep-updates", "heads-to-keep-low", _OF_A_RANGE}


def updates_after(updates: int, *, a_range: bool = False, few: bool = False) -> int:
    """How many updates a model that had so many is trained on for: a third of them, :data:`LEAST_UPDATES` at least.

    :param a_range: whether for a range of numbers, which takes twice as long as one.
    :param few: whether less than a third of the heads stays, which takes as long as the model's own training.
    """
    return max(LEAST_UPDATES, updates if few and not a_range else round(updates / 3)) * (2 if a_range else 1)


def training(base: Options, given: Options, updates: int, *, few: bool = False) -> Options:
    """Options of a training that goes on from a trained model, with a learning rate that falls linearly to 0.

    :param base: options of the model's own training; the learning rate is its.
    :param given: further options, which win; those of the budget among them.
    :param updates: how many updates the model had.
    :param few: whether less than a third of the heads stays.
    :raises ValueError: if a number of updates is given that is none.
    """
    updates = _number(given, "max-update", updates_after(updates, a_range=_OF_A_RANGE in given, few=few))
    own = _options_of("lr_scheduler", str(base.get("lr-scheduler", "fixed")))
    options = base | {"max-update": updates}
    if "lr-scheduler" not in given and not given.keys() & (own - _options_of("lr_scheduler", _LINEAR)):
        options = {name: value for name, value in options.items() if name not in own}
        options |= {"lr-scheduler": _LINEAR} | _linear(updates)
    for choice in {"criterion", "optimizer"} & given.keys():  # not all take the options of the model's own
        lost = _options_of(choice, str((DEFAULTS | base).get(choice))) - _options_of(choice, str(given[choice]))
        options = {name: value for name, value in options.items() if name not in lost}
    return options | given


def saving(options: Options) -> Options:
    """How often a training saves and logs, beside the ends of epochs, where no option says it."""
    every = max(1, round(int(options["max-update"]) / _SAVES))
    return {"save-interval-updates": every, "keep-interval-updates": 1, "log-interval": 20}


def scores_once(options: Options, total: int) -> bool:
    """Whether the heads are scored once, before the first update: where half of them or more stay, but not all, and
    no option says how heads are chosen, or that other units are.

    :param options: what is given, ``heads-to-keep`` among it if a number is.
    :param total: N, the number of heads of the model.
    """
    names = {field.name for field in fields(PruningConfig)} - {*RETIRED}
    own = {name.replace("_", "-") for name in names} & options.keys()
    return own == {"heads-to-keep"} and total <= 2 * int(options["heads-to-keep"]) < 2 * total


def touch_up(options: Options, updates: int) -> Options:
    """Options of so many updates more for one number of heads of a range.

    :param options: of the training for the range, as `training` leaves them, and as fairseq takes them; its warm-up and
        what else it counts in updates change as its length does.
    """
    given = {name: float(options[name]) for name in _IN_UPDATES if name in options}
    share = {name: value / given["max-update"] for name, value in given.items()}
    return options | {name: _share(part, updates) if part > 0 else int(given[name]) for name, part in share.items()}


def schedule(options: Options, shape: Mapping[str, Sequence[int]]) -> Options:
    """What options leave open of how the heads, and the units of other kinds, are chosen.

    :param options: of the training, ``max-update`` among them, and ``heads-to-keep`` or a share of the cost.
    :param shape: for each attention type, the number of heads of each layer of the model.
    :return: only options that are not given; none for a selection other than ``simple``, or for frozen weights, which
        have schedules of their own.
    :raises ValueError: as `training`.
    """
    options = {name: value for name, value in options.items() if value is not False}
    if options.get("head-selection", PruningConfig.head_selection) != "simple" or options.get("freeze-weights"):
        return {}
    updates, total = _number(options, "max-update", 0), sum(map(sum, shape.values()))
    kept = _heads_kept(options, total)
    found: Options = {"cooldown-updates": _share(_CHOOSING, updates), "pruning-lr": PRUNING_LR}
    of_units = _OF_A_RANGE in options and BUDGETS.keys() & options.keys()  # the budget of heads is drawn there
    if of_units or not _BUDGETS & options.keys():
        shrinking = _share(_SHRINKING, updates)
        shrinking = max(1, min(shrinking, _number(options, "cooldown-updates", shrinking)))
        found |= {"heads-to-keep-updates": shrinking}
    if _OF_A_RANGE in options or kept < total:
        found |= _floors(options, kept, shape)
    return {name: value for name, value in found.items() if name not in options}


def _floors(options: Options, kept: int, shape: Mapping[str, Sequence[int]]) -> Options:
    """Return the least numbers of heads of the types that have others in a trained model than in one from scratch.

    Nothing where options share the heads out between the types.
    """
    sharing = {"uniform_heads", "min_heads_per_module", *HEADS.budgets.values(), *HEADS.floors.values()}
    if any(name.replace("_", "-") in options for name in sharing):
        return {}
    own = {name: sum(layers) for name, layers in shape.items() if sum(layers)}
    # a share of the cost may be that of few heads; a floor without a share of a range holds for its least number too
    few = any(name in options for name in SHARES) or int(options.get("heads-to-keep-low", kept)) < 2
    counted = 0 if few else kept
    found: Options = {}
    for name, floor in HEADS.floors.items() if len(own) > 1 else ():
        total = kept if name == HEADS.in_proportion else counted
        least = HEADS.default_floor(name, total, trained=True)
        if least != HEADS.default_floor(name, total):
            # of a single head, cross-attention has the floor
            found[floor.replace("_", "-")] = min(least, own.get(name, 0), max(0, kept - 1))
    return found


def _heads_kept(options: Options, total: int) -> int:
    """Of a share about that of the heads; of a range the largest number, which a smaller one has its share of."""
    for name in SHARES:
        if name in options:
            return round(float(options[name]) * total)
    return int(options[_OF_A_RANGE if _OF_A_RANGE in options else "heads-to-keep"])


def keeps_many(data: PreparedData, options: Options, shape: Mapping[str, Sequence[int]]) -> bool:
    """Whether a third of the heads, and of the units of each kind that is pruned, stays.

    :param data: the corpus.
    :param options: as for `schedule`.
    :param shape: likewise.
    """
    total = sum(map(sum, shape.values()))
    if shares := [float(options[name]) for name in SHARES if name in options]:
        return 3 * shares[0] >= 1
    if 3 * _heads_kept(options, total) < total:
        return False
    others = {name: kind for name, kind in BUDGETS.items() if name in options}
    args = parse_options(data, options, "the training") if others else None
    return all(3 * int(options[name]) >= sum(map(sum, shape_by(args, kind).values())) for name, kind in others.items())


def _linear(updates: int) -> Options:
    """The lengths of a learning rate that rises a little, and falls linearly to 0."""
    return {"warmup-updates": _share(_WARM_UP, updates), "total-num-update": updates}


def _share(share: float, updates: int) -> int:
    return max(1, round(share * updates))


def _number(options: Options, name: str, default: int) -> int:
    value = options.get(name, default)
    try:
        return int(value)
    except ValueError as error:
        raise ValueError(f"--{name} is {value}, but a number of updates is expected") from error


def _options_of(choice: str, name: str) -> set[str]:
    """The options that a criterion, an optimiser or a scheduler of the learning rate alone reads; none if unknown."""
    from fairseq.registry import REGISTRIES

    made = REGISTRIES[choice]["registry"].get(name)
    if made is None:
        return set()
    parser = ArgumentParser(add_help=False)
    made.add_args(parser)
    return {action.dest.replace("_", "-") for action in parser._actions if action.dest not in _OF_OTHERS}
