"""Models with a gate on every attention head: the Transformer, RoBERTa."""

from .attention import PrunableAttention
from .config import PruningConfig, with_heads
from .plan import PruningPlan
from .prunable import PrunableModel
from .pruner import HeadPruner
from .roberta import PrunableRoberta
from .sets import HeadSet
from .transformer import PrunableTransformer
from .units import HEADS, TYPES, UnitModule, modules_of

__all__ = [
    "HEADS",
    "TYPES",
    "HeadPruner",
    "HeadSet",
    "PrunableAttention",
    "PrunableModel",
    "PrunableRoberta",
    "PrunableTransformer",
    "PruningConfig",
    "PruningPlan",
    "UnitModule",
    "modules_of",
    "with_heads",
]
