"""The interface behind which every way of choosing heads stands, and the registry of their names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any, TypeVar

import torch
from torch import Tensor

from .budget import Budget
from .schedule import anneal, check_annealing
from .topk import hard_gates


@dataclass(frozen=True)
class Annealing:
    """The temperature as a function of the update number; see :func:`anneal`.

    :raises ValueError: if 0 < final ≤ initial < ∞ or cooldown ≥ 0 does not hold.
    """

    initial: float
    final: float
    cooldown: int

    def __post_init__(self) -> None:
        check_annealing(self.initial, self.final, self.cooldown)

    def __call__(self, update: int) -> float:
        return anneal(update, self.initial, self.final, self.cooldown)


class Selection(ABC):
    """Turns one importance number per head into gates.

    A selection holds no trainable state: the importance belongs to the model, the temperature follows from the update
    number, and the noise comes from the generator it is handed.
    """

    learns = True
    """Whether gradients reach the importance."""

    floors = False
    """Whether the model's least numbers of heads hold by default, and not only where they are asked for."""

    takes_penalty = False
    """Whether a penalty may take the place of the budget; then ``penalised=True`` says that it does, and
    ``expected_open(importance)`` is what it weighs; see :class:`~.hard_concrete.HardConcrete`."""

    anywhere = False
    """Whether :meth:`sample` and :meth:`keep` of this very class work on any device. Those of a class that does not say
    so, even if the class above it does, are given the importance on the CPU: a GPU waits for the copies."""

    annealed = True
    """Whether the temperature changes anything."""

    when_vanished = "a higher final temperature or a slower cooldown keeps them learning"
    """What to say to a user whose importance variables get no gradient any more."""

    def __init_subclass__(cls) -> None:
        for name in ("sample", "keep"):
            if name in vars(cls) and not vars(cls).get("anywhere", False):
                setattr(cls, name, _on_the_cpu(vars(cls)[name]))

    def __init__(self, annealing: Annealing, *_: Any, **__: Any) -> None:
        """
        :param annealing: the temperature. What else is given is for the classes that take it.
        """
        self.annealing = annealing

    def decides(self, update: int) -> bool:
        """Whether the importance still learns at an update, counted from 0; once it does not, the heads are fixed."""
        return self.learns

    @abstractmethod
    def sample(self, importance: Tensor, budget: Budget, update: int, generator: torch.Generator) -> Tensor:
        """Return the gates of one training update.

        :param importance: one number a head. *Shape:* (N).
        :param budget: how many heads to keep.
        :param update: number of updates already made.
        :param generator: where noise is drawn from; the same on every process.
        :return: *Shape:* (N), differentiable with respect to *importance* if :attr:`learns`.
        """

    def temperature(self, update: int) -> float:
        """Return the temperature of the gates at an update."""
        return self.annealing(update)

    def keep(self, importance: Tensor, budget: Budget) -> Tensor:
        """Return the gates of validation, generation and compaction: 0/1 with exactly ``budget.total`` ones."""
        return hard_gates(importance, budget)


def _on_the_cpu(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @wraps(method)
    def wrapped(self: Selection, importance: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return method(self, importance.cpu(), *args, **kwargs).to(importance.device)

    return wrapped


SELECTIONS: dict[str, type[Selection]] = {}
"""The selections by name."""

_S = TypeVar("_S", bound=type[Selection])


def register_selection(name: str) -> Callable[[_S], _S]:
    """Class decorator: make a :class:`Selection` available under a name."""

    def register(cls: _S) -> _S:
        if name in SELECTIONS:
            raise ValueError(
                f"a head selection named {name} exists already, {SELECTIONS[name].__qualname__}: choose another name"
            )
        SELECTIONS[name] = cls
        return cls

    return register
