"""Choosing K of N: the mathematics of subset selection in pure torch, without fairseq."""

from .budget import Budget, Draw
from .fixed import Fixed
from .gumbel import Gumbel
from .hard_concrete import HardConcrete
from .schedule import anneal, shrink
from .selection import SELECTIONS, Annealing, Selection, register_selection
from .simple import Simple
from .ste import StraightThrough
from .topk import GRADIENT_BOUND, hard_gates, hard_top_k, relaxed_gates, relaxed_top_k

__all__ = [
    "GRADIENT_BOUND",
    "SELECTIONS",
    "Annealing",
    "Budget",
    "Draw",
    "Fixed",
    "Gumbel",
    "HardConcrete",
    "Selection",
    "Simple",
    "StraightThrough",
    "anneal",
    "hard_gates",
    "hard_top_k",
    "register_selection",
    "relaxed_gates",
    "relaxed_top_k",
    "shrink",
]
