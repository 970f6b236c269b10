"""Choosing K of N: the mathematics of subset selection in pure torch, without fairseq."""

from .budget import Budget, Draw
from .distribution import KSubset
from .fixed import Fixed
from .gumbel import Gumbel
from .hard_concrete import HardConcrete
from .own import HINT, OWN, load_own
from .relaxed import GRADIENT_BOUND
from .schedule import anneal, between, shrink
from .selection import SELECTIONS, Annealing, Selection, register_selection
from .simple import Simple
from .ste import StraightThrough
from .topk import gumbel_noise, hard_gates, hard_top_k, relaxed_gates, relaxed_top_k

__all__ = [
    "GRADIENT_BOUND",
    "HINT",
    "OWN",
    "SELECTIONS",
    "Annealing",
    "Budget",
    "Draw",
    "Fixed",
    "Gumbel",
    "HardConcrete",
    "KSubset",
    "Selection",
    "Simple",
    "StraightThrough",
    "anneal",
    "between",
    "gumbel_noise",
    "hard_gates",
    "hard_top_k",
    "register_selection",
    "relaxed_gates",
    "relaxed_top_k",
    "shrink",
]

load_own()
