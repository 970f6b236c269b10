"""The options of a study's trainings: its recipe, a method's own, and schedules that are shares of the training."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from ..model import HEADS, KINDS, HeadSet, PruningConfig, UnitSet, with_heads
from ..model.units import shape_by
from . import pruning_recipe
from .options import BUDGETS, Options, defaults, parse_options
from .study_file import Method, Study


def options_of(study: Study, *more: Options, anneal: bool = False) -> Options:
    """The recipe with further options, which win; pruning's schedule is by default a share of the training.

    What starts from a pretrained model has the schedule of a trained one: if its heads went at once, it would lose what
    it knows.

    :param anneal: whether the training chooses heads by a schedule.
    """
    options = dict(defaults(study.data))
    for one in (study.recipe, *more):
        options |= one
    if not anneal:
        return options
    if study.pretrained:
        options |= pruning_recipe.schedule(options, study.shape)
    return annealed(options)


def trained_on(study: Study, given: Options, kept: Options) -> Options:
    """The options of a training that starts from the unpruned model; see `pruning_recipe`.

    :param kept: what says how many heads stay, on which the length depends.
    """
    base = defaults(study.data) | study.recipe
    few = not pruning_recipe.keeps_many(study.data, base | given | kept, study.shape)
    return pruning_recipe.training(base, given, int((study.recipe | study.base).get("max-update", 0)), few=few)


def continued(study: Study, given: Options, own: Options) -> Options:
    """The same of one that chooses its heads; its own options say how many."""
    options = trained_on(study, given | own, own)
    return annealed(options | pruning_recipe.schedule(options, study.shape))


def of_range(study: Study, method: Method) -> Options:
    """The options of the training that all numbers of heads of a ``range`` share.

    Its best checkpoint is the one that is best with the least number: it has the most to learn. The order is chosen in
    as short a share as that of many heads: all sizes need the updates that come after.
    """
    own: Options = {"heads-to-keep": method.low, "heads-to-keep-low": method.low, "heads-to-keep-high": method.high}
    if method.from_base:
        return continued(study, method.options, own)
    return options_of(study, method.options, own, anneal=True)


def of_random(study: Study, method: Method, heads: int, seed: int) -> Options:
    """The options of a training with random heads and, where the method's options give numbers of them, random units.

    :raises ValueError: if there are fewer units.
    """
    kept: Options = {"heads-to-keep": heads}
    options = trained_on(study, method.options, kept) if method.from_base else options_of(study, method.options)
    drawn = random_heads(study.shape, heads, seed)
    numbers = {kind.name: int(options.pop(name)) for name, kind in BUDGETS.items() if name in options}
    if numbers:
        drawn = with_random_units(drawn, numbers, parse_options(study.data, options, method.name), seed)
    widths = {KINDS[kind].options["width"].replace("_", "-") for kind in numbers}  # the set says them
    return with_fixed({name: value for name, value in options.items() if name not in widths}, drawn.to_json())


def with_fixed(options: Options, heads: str) -> Options:
    """Options of a training that has the heads of a file, or of a JSON object, from its first update on.

    What the recipe says of choosing heads is none of this training's.
    """
    fixed = {name.replace("_", "-"): value for name, value in with_heads(heads).items()}
    return {name: value for name, value in (options | fixed).items() if fixed.get(name, True)}


def annealed(options: Options) -> Options:
    """Add the length of the cooldown where it is not given."""
    if options.get("cooldown-updates", False) is not False:  # which leaves it out
        return options
    selection = options.get("head-selection", PruningConfig.head_selection)
    # simple fixes the heads then, and the weights have the rest of the run to get used to them
    share = 0.3 if selection == "simple" and "freeze-weights" not in options else 0.9
    return options | {"cooldown-updates": round(share * int(options["max-update"]))}


def random_heads(shape: Mapping[str, Sequence[int]], heads: int, seed: int) -> HeadSet:
    """Draw a set of heads, each set with a head in cross-attention as probable as any other; any set if there is none.

    It is the baseline that says what choosing is worth.

    :param shape: for each attention type, the number of heads of each layer.
    :param heads: K.
    """
    total, cross = (sum(sum(layers) for layers in part) for part in (shape.values(), [shape[HEADS.crossing]]))
    draw = torch.Generator().manual_seed(seed)
    while True:
        kept = HeadSet.from_gates(_gates(total, heads, draw), shape)
        if not (heads and cross) or any(kept.of(HEADS.crossing)):
            return kept


def with_random_units(heads: HeadSet, numbers: Mapping[str, int], options: Namespace, seed: int) -> HeadSet:
    """Return a set of heads with units of other kinds, drawn evenly from all.

    :param numbers: how many units of each kind, by its name.
    :param options: of the model.
    :raises ValueError: if it has fewer.
    """
    others = []
    for i, (name, number) in enumerate(numbers.items()):
        kind = KINDS[name]
        shape = shape_by(options, kind)
        total = sum(map(sum, shape.values()))
        if not 0 <= number <= total:
            raise ValueError(f"{number} {kind.units} are to be drawn, but there are {total}: give a number up to that")
        draw = torch.Generator().manual_seed(1_000_003 * (i + 1) + seed)
        others.append(UnitSet.from_gates(_gates(total, number, draw), shape, kind, kind.unit_width(options)))
    return replace(heads, others=tuple(others))


def _gates(total: int, ones: int, draw: torch.Generator) -> torch.Tensor:
    gates = torch.zeros(total)
    gates[torch.randperm(total, generator=draw)[:ones]] = 1
    return gates
