"""Models with a gate on every attention head or feed-forward unit: the Transformer, RoBERTa."""

from .attention import PrunableAttention
from .attention_heads import HEADS, TYPES
from .feed_forward import FFN
from .kinds import KINDS, Kind, UnitModule
from .plan import PruningPlan
from .prunable import PrunableModel
from .pruner import UnitPruner
from .pruning_options import PruningConfig, with_heads
from .roberta import PrunableRoberta
from .sets import HeadSet, UnitSet
from .transformer import PrunableTransformer
from .units import modules_of

__all__ = [
    "FFN",
    "HEADS",
    "KINDS",
    "TYPES",
    "HeadSet",
    "Kind",
    "PrunableAttention",
    "PrunableModel",
    "PrunableRoberta",
    "PrunableTransformer",
    "PruningConfig",
    "PruningPlan",
    "UnitModule",
    "UnitPruner",
    "UnitSet",
    "modules_of",
    "with_heads",
]
