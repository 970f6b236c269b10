"""The options of pruning, for both of fairseq's command lines.

fairseq reads the fields' types at run time and knows ``Optional[X]`` only, hence no postponed annotations here.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum

from ..subset import HINT, SELECTIONS
from .attention_heads import HEADS, HeadOptions
from .feed_forward import FeedForwardOptions
from .kinds import COSTS, KINDS, flag
from .retired import RETIRED, RetiredOptions


@dataclass
class PruningConfig(RetiredOptions, FeedForwardOptions, HeadOptions):
    """How a model's units are pruned, of all kinds; each field is a flag of the same name with dashes."""

    parameters_to_keep: Optional[float] = field(
        default=None,
        metadata={
            "help": "share of the parameters of all heads and feed-forward units that stay, instead of numbers of "
            "either: what they are worth says how many of each"
        },
    )
    flops_to_keep: Optional[float] = field(
        default=None,
        metadata={
            "help": "the same of their floating-point operations, in translating 25 subwords into 25 with beam size 5"
        },
    )
    head_selection: ChoiceEnum(list(SELECTIONS)) = field(  # type: ignore[valid-type]
        default="simple",
        metadata={
            "help": "how heads and units are chosen in training: simple samples exact subsets, gumbel is the paper's"
        },
    )
    kept_heads: Optional[str] = field(
        default=None, metadata={"help": "JSON file with the set of heads for --head-selection fixed, or for --compact"}
    )
    compact: bool = field(
        default=False, metadata={"help": "build the small model from --kept-heads: no parameters for the other heads"}
    )
    pruning_lr: float = field(
        default=0.2, metadata={"help": "constant learning rate of the importance variables, without weight decay"}
    )
    pruning_warmup_updates: int = field(
        default=0,
        metadata={
            "help": "number of updates with all heads before choosing begins; cooldown and budget count from there"
        },
    )
    initial_temperature: float = field(default=1.0, metadata={"help": "temperature at the first update"})
    final_temperature: float = field(default=0.05, metadata={"help": "temperature after the cooldown"})
    cooldown_updates: int = field(
        default=10000,
        metadata={
            "help": "updates over which the temperature falls geometrically, after which simple fixes the heads; "
            "about 30%% of the run with simple, 90%% with gumbel or frozen weights"
        },
    )
    l0_penalty: Optional[float] = field(
        default=None,
        metadata={
            "help": "weight of the expected number of open gates in the loss of a target token, for "
            "hard_concrete (default: adapted so that this number stays at --heads-to-keep)"
        },
    )
    freeze_weights: bool = field(
        default=False, metadata={"help": "train the importance variables only (pipelined pruning of a trained model)"}
    )

    def check_single_type(self) -> None:
        """Raise a ``ValueError`` for an option for one attention type, if the model has one type only."""
        for name in (*HEADS.budgets.values(), *HEADS.floors.values()):
            value = getattr(self, name)
            if value is not None:
                raise ValueError(
                    f"{flag(name)} {value} is for one attention type of several, but this model has encoder "
                    "self-attention only: leave it out, and give --heads-to-keep for the number of heads"
                )

    @property
    def cost(self) -> Optional[tuple[str, float]]:
        """The option of :data:`~.kinds.COSTS` that is given, and the share that it says."""
        given = [(name, getattr(self, name)) for name in COSTS if getattr(self, name) is not None]
        return given[0] if given else None

    @property
    def has_budget(self) -> bool:
        """Whether a number of units to keep, of any kind, is given, or the share of the cost."""
        return self.cost is not None or any(kind.has_budget(self) for kind in KINDS.values())

    def check(self) -> None:
        """Raise a ``ValueError`` for options that make no sense together, whatever the model."""
        if self.compact:
            self._check_compact()
            return
        check_selection(self.head_selection)
        if self.cost is not None:
            self._check_cost(*self.cost)
        for kind in KINDS.values():
            kind.check(self)
        if self.pruning_warmup_updates < 0:
            raise ValueError(f"--pruning-warmup-updates is {self.pruning_warmup_updates}, but it must be 0 or more")
        if self.pruning_warmup_updates and (self.l0_penalty is not None or not SELECTIONS[self.head_selection].learns):
            raise ValueError(
                f"--pruning-warmup-updates {self.pruning_warmup_updates} delays the choice of the heads, but with "
                "--l0-penalty or --kept-heads no budget chooses them: leave it out"
            )
        if not (math.isfinite(self.pruning_lr) and self.pruning_lr >= 0):
            raise ValueError(f"--pruning-lr is {self.pruning_lr}, but it must be a finite number, 0 or more")
        if self.l0_penalty is not None:
            if not SELECTIONS[self.head_selection].takes_penalty:
                raise ValueError(
                    f"--l0-penalty {self.l0_penalty} is for --head-selection hard_concrete, but the selection is "
                    f"{self.head_selection}, which has a budget: give --heads-to-keep instead"
                )
            if not (math.isfinite(self.l0_penalty) and self.l0_penalty >= 0):
                raise ValueError(f"--l0-penalty is {self.l0_penalty}, but it must be a finite number, 0 or more")
        elif SELECTIONS[self.head_selection].takes_penalty and not self.has_budget:
            raise ValueError(
                f"--head-selection {self.head_selection} removes heads by a penalty, but neither its weight nor a "
                "number of heads is given: give --l0-penalty, such as 0.001, or --heads-to-keep, to which the weight "
                "is then adapted"
            )
        if (self.head_selection == "fixed") != (self.kept_heads is not None):
            raise ValueError(
                "--head-selection fixed and --kept-heads FILE belong together, but only one of them is given: give "
                "both, or neither"
            )

    def _check_cost(self, option: str, share: float) -> None:
        if not 0 <= share <= 1:
            raise ValueError(f"{flag(option)} is {share}, but a share from 0 to 1 is expected, such as 0.5 for half")
        others = [name for name in COSTS if name != option]
        for kind in KINDS.values():
            roles = ("to_keep", "low", "high", "uniform", "l0_penalty")
            others += [*(kind.options[role] for role in roles if role in kind.options), *kind.budgets.values()]
        for name in (*others, "kept_heads"):
            value = getattr(self, name)
            if value is not None and value is not False:
                given = flag(name) if value is True or name == "kept_heads" else f"{flag(name)} {value}"
                raise ValueError(
                    f"{flag(option)} {share} chooses how many units of each kind stay, but {given} is given, which is "
                    "about that too: leave one of them out"
                )

    def _check_compact(self) -> None:
        if self.kept_heads is None:
            raise ValueError(
                "--compact builds a model of the heads in --kept-heads FILE, but that is not given: give the JSON file "
                "that fairseq-dsp compact or fairseq-dsp heads wrote"
            )
        for name in _ABOUT_GATES:
            value = getattr(self, name)
            if value not in (self.__dataclass_fields__[name].default, None, "fixed"):
                raise ValueError(
                    f"{flag(name)} {value} is about a choice, but in a compact model nothing can be chosen any more: "
                    "leave it out, or choose in the checkpoint that the model was made from"
                )


def check_selection(name: str) -> None:
    """Raise a ``ValueError`` unless a selection of this name is registered."""
    if name not in SELECTIONS:
        raise ValueError(f"--head-selection is {name}, but one of {', '.join(SELECTIONS)} is expected: {HINT}")


_HOW = {kind.options.get("updates") for kind in KINDS.values()}
_CHOICE = tuple(dict.fromkeys(name for kind in KINDS.values() for name in kind.choice))

WHICH_STAY = (
    *(name for name in _CHOICE if name not in _HOW),
    *(kind.options["width"] for kind in KINDS.values() if kind.has_width),
    *COSTS,
    "kept_heads",
    "compact",
)
"""The options that say which units a training ends with, apart from what it learns."""

_ABOUT_GATES = (*_CHOICE, *COSTS, "head_selection", "l0_penalty", "freeze_weights")


def with_heads(file: str) -> dict[str, Any]:
    """Return the values of options that have a trained model keep the heads of a file, however it chose its own."""
    fields_ = PruningConfig.__dataclass_fields__
    reset = ("freeze_weights", "l0_penalty", "pruning_warmup_updates", *HEADS.choice, *COSTS, *RETIRED)
    return {"head_selection": "fixed", "kept_heads": file} | {name: fields_[name].default for name in reset}
