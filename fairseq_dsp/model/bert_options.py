"""The options that make a RoBERTa a BERT.

fairseq reads the fields' types at run time, hence no postponed annotations here.
"""

import math
from dataclasses import dataclass, field

from fairseq.dataclass import FairseqDataclass


@dataclass
class EncoderConfig(FairseqDataclass):
    """What a BERT has otherwise than fairseq's RoBERTa."""

    layer_norm_epsilon: float = field(default=1e-5, metadata={"help": "epsilon of all layer norms (BERT: 1e-12)"})
    segment_embedding: bool = field(
        default=False, metadata={"help": "add a learned vector to all tokens of the second sentence, as BERT does"}
    )

    def check(self) -> None:
        """Raise a ``ValueError`` if epsilon is no positive number."""
        if not (math.isfinite(self.layer_norm_epsilon) and self.layer_norm_epsilon > 0):
            raise ValueError(
                f"--layer-norm-epsilon is {self.layer_norm_epsilon}, but a positive number is expected, such as 1e-5"
            )
