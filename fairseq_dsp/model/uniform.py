"""Sharing a budget out so that every module of a stack keeps as many units as the others."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from .kinds import Kind, flag


def uniform_counts(
    kind: Kind, shape: Mapping[str, Sequence[int]], total: int, least: int, floor: Callable[[str, int], int]
) -> list[int]:
    """Return for each module how many units stay of *total*, as many in each module of a stack.

    Of several ways, the one in which the stacks keep the most equal shares of their units.

    :param kind: of the units.
    :param shape: for each type, the number of units of each layer.
    :param least: how many units each module keeps at least, as far as it has them.
    :param floor: tells for a type and a budget how many units of the type stay at least.
    :raises ValueError: if there is no way.
    """
    stacks = {name: stack for name, (stack, _) in kind.places.items() if shape[name]}
    modules = {s: [n for name in stacks if stacks[name] == s for n in shape[name]] for s in stacks.values()}
    ways: list[tuple[int, float, dict[str, int]]] = []
    choices = [range(min(least, *sizes), min(sizes) + 1) for sizes in modules.values()]
    for numbers in itertools.product(*choices):
        way = dict(zip(modules, numbers, strict=True))
        shares = [way[stack] / min(sizes) for stack, sizes in modules.items()]
        kept = sum(way[stack] * len(sizes) for stack, sizes in modules.items())
        floors = {name: min(floor(name, kept), kept) for name in kind.floors if name in stacks}
        if all(way[stacks[name]] * len(shape[name]) >= needed for name, needed in floors.items()):
            ways.append((kept, max(shares) - min(shares), way))
    fitting = [(apart, way) for kept, apart, way in ways if kept == total]
    if not fitting:
        others = sorted({kept for kept, _, _ in ways}, key=lambda kept: (abs(kept - total), kept))[:2]
        among = " and ".join(f"{len(sizes)} modules of the {stack}" for stack, sizes in modules.items())
        raise ValueError(
            f"{flag(kind.options['uniform'])} has as many {kind.units} in each of the {among}, which cannot be {total} "
            f"in all: give {flag(kind.options['to_keep'])} {' or '.join(map(str, sorted(others)))}"
        )
    _, best = min(fitting, key=lambda one: one[0])
    return [best[stacks[name]] for name in stacks for _ in shape[name]]
