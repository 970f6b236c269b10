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


RETIRED = tuple(_INSTEAD)
"""Their names."""


def with_effect(options: RetiredOptions, heads: int) -> list[str]:
    """Return the names of those that a training of an earlier version would do something with.

    :param heads: number of heads of the model: a budget that is to shrink from so many does.
    """
    nothing = {field.name: {field.default} for field in fields(RetiredOptions)}
    nothing["heads_to_keep_start"].add(heads)
    return [name for name in RETIRED if getattr(options, name) not in nothing[name]]


def refuse_retired(options: RetiredOptions, heads: int) -> None:
    """Raise a ``ValueError`` if a training is to have one that does something; see `with_effect`."""
    for name in with_effect(options, heads):
        raise ValueError(f"{flag(name)} is {getattr(options, name)}, but is an option no more: {_INSTEAD[name]}")
