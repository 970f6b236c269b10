"""The Transformer with a gate on every attention head."""

from .attention import PrunableAttention
from .config import PruningConfig, with_heads
from .plan import PruningPlan
from .pruner import HeadPruner
from .sets import HeadSet
from .transformer import PrunableTransformer
from .units import HEADS, TYPES, UnitModule, modules_of

__all__ = [
    "HEADS",
    "TYPES",
    "HeadPruner",
    "HeadSet",
    "PrunableAttention",
    "PrunableTransformer",
    "PruningConfig",
    "PruningPlan",
    "UnitModule",
    "modules_of",
    "with_heads",
]
