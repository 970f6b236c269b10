"""Options of earlier versions that no training takes any more, though checkpoints and studies that hold them are read.

fairseq reads the fields' types at run time, hence no postponed annotations here.
"""

from argparse import SUPPRESS
from dataclasses import dataclass, field, fields
from typing import Optional

from fairseq.dataclass import FairseqDataclass

from .kinds import flag


@dataclass
class RetiredOptions(FairseqDataclass):
    """Options without effect, with the values that they had none with; no help shows them."""

    module_penalty: float = field(default=0.0, metadata={"help": SUPPRESS})
    heads_to_keep_start: Optional[int] = field(default=None, metadata={"help": SUPPRESS})


_INSTEAD = {
    "heads_to_keep_start": "a budget shrinks from all heads, so leave it out",
    "module_penalty": "it cost quality in long trainings, and heads in few modules were not faster: leave it out or, "
    "for a faster model, give --uniform-heads",
}


def refuse_retired(options: RetiredOptions, heads: int) -> None:
    """Raise a ``ValueError`` if a training is to have an option that is no more.

    :param heads: number of heads of the model: a budget that is to shrink from so many does.
    """
    for option in fields(RetiredOptions):
        value = getattr(options, option.name)
        as_now = value == option.default or (option.name, value) == ("heads_to_keep_start", heads)
        if not option.name.startswith("_") and not as_now:
            raise ValueError(f"{flag(option.name)} is {value}, but is an option no more: {_INSTEAD[option.name]}")
