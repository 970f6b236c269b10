"""The Transformer with a gate on every attention head."""

from .config import PruningConfig, with_heads
from .gate import GatedProjection
from .heads import TYPES, AttentionModule, HeadSet, attention_modules
from .plan import PruningPlan
from .pruner import HeadPruner
from .transformer import PrunableTransformer

__all__ = [
    "TYPES",
    "AttentionModule",
    "GatedProjection",
    "HeadPruner",
    "HeadSet",
    "PrunableTransformer",
    "PruningConfig",
    "PruningPlan",
    "attention_modules",
    "with_heads",
]
