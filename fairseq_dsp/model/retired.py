"""Options of earlier versions that no training takes any more, though checkpoints and studies that hold them are read.

fairseq reads the fields' types at run time, hence no postponed annotations here.
"""

from argparse import SUPPRESS
from dataclasses import dataclass, field, fields

from fairseq.dataclass import FairseqDataclass

from .kinds import flag


@dataclass
class RetiredOptions(FairseqDataclass):
    """Options without effect, with the values that they had none with; no help shows them."""

    module_penalty: float = field(default=0.0, metadata={"help": SUPPRESS})


_INSTEAD = {
    "module_penalty": "it cost quality in long trainings, and heads in few modules were not faster: leave it out or, "
    "for a faster model, give --uniform-heads"
}


def refuse_retired(options: RetiredOptions) -> None:
    """Raise a ``ValueError`` if a training is to have an option that is no more."""
    for option in fields(RetiredOptions):
        value = getattr(options, option.name)
        if not option.name.startswith("_") and value != option.default:
            raise ValueError(f"{flag(option.name)} is {value}, but is an option no more: {_INSTEAD[option.name]}")
