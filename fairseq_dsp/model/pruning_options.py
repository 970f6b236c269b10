"""The options of pruning, for both of fairseq's command lines.

fairseq reads the fields' types at run time and knows ``Optional[X]`` only, hence no postponed annotations here.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass

from ..subset import HINT, SELECTIONS
from .kinds import COSTS, KINDS, Kind
from .units import HEADS


@dataclass
class PruningConfig(FairseqDataclass):
    """How a model's heads and feed-forward units are pruned; each field is a flag of the same name with dashes."""

    heads_to_keep: Optional[int] = field(
        default=None,
        metadata={"help": "K: heads kept in all, over all attention types (default: all, no pruning)"},
    )
    encoder_heads_to_keep: Optional[int] = field(
        default=None, metadata={"help": "encoder self-attention heads kept, instead of one budget for all types"}
    )
    cross_heads_to_keep: Optional[int] = field(
        default=None, metadata={"help": "cross-attention heads kept, instead of one budget for all types"}
    )
    decoder_heads_to_keep: Optional[int] = field(
        default=None, metadata={"help": "decoder self-attention heads kept, instead of one budget for all types"}
    )
    min_heads_per_module: int = field(default=0, metadata={"help": "minimum number of heads in each module"})
    min_cross_heads: Optional[int] = field(
        default=None,
        metadata={"help": "minimum number of cross-attention heads (default: 1 with simple, 0 otherwise)"},
    )
    min_encoder_heads: Optional[int] = field(
        default=None,
        metadata={"help": "minimum number of encoder self-attention heads (default: K/9 with simple, 0 otherwise)"},
    )
    min_decoder_heads: Optional[int] = field(
        default=None, metadata={"help": "minimum number of decoder self-attention heads (default: 0)"}
    )
    uniform_heads: bool = field(
        default=False,
        metadata={"help": "the same number of heads in all modules of a stack: CTranslate2 needs no padding then"},
    )
    heads_to_keep_start: Optional[int] = field(
        default=None,
        metadata={"help": "number of heads from which the budget shrinks to --heads-to-keep (default: all)"},
    )
    heads_to_keep_updates: Optional[int] = field(
        default=None,
        metadata={"help": "updates over which the budget shrinks; that of feed-forward units starts from all"},
    )
    heads_to_keep_low: Optional[int] = field(
        default=None,
        metadata={"help": "train one model for every number of heads from this one on: each update draws it"},
    )
    heads_to_keep_high: Optional[int] = field(
        default=None, metadata={"help": "to this one; validation keeps so many, or --heads-to-keep within the range"}
    )
    ffn_units_to_keep: Optional[int] = field(
        default=None,
        metadata={"help": "F: feed-forward units kept in all, of encoder and decoder (default: all, no pruning)"},
    )
    ffn_unit_width: Optional[int] = field(
        default=None,
        metadata={
            "help": "number of neighbouring hidden neurons in a unit (default: a sixteenth of the layer, or of the "
            "greatest common divisor of layers of two sizes)"
        },
    )
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
    module_penalty: float = field(
        default=0.0,
        metadata={
            "help": "weight of the number of modules with an open gate in the loss of a target token: gathers the "
            "heads in few modules, so that a compact model skips the others; try 0.02"
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
        return self.cost is not None or any(self.has_budget_of(kind) for kind in KINDS.values())

    def has_budget_of(self, kind: Kind) -> bool:
        """Whether a number of units of a kind to keep is given."""
        names = (kind.options["to_keep"], *kind.budgets.values())
        return any(getattr(self, name) is not None for name in names)

    def check(self) -> None:
        """Raise a ``ValueError`` for options that make no sense together, whatever the model."""
        if self.compact:
            self._check_compact()
            return
        check_selection(self.head_selection)
        if self.cost is not None:
            self._check_cost(*self.cost)
        per_type = [getattr(self, name) for name in HEADS.budgets.values()]
        if self.heads_to_keep is not None and any(k is not None for k in per_type):
            raise ValueError(
                f"--heads-to-keep {self.heads_to_keep} is one budget for all attention types, but a budget for a type "
                "is given too: give either --heads-to-keep or --encoder-/--cross-/--decoder-heads-to-keep"
            )
        start, low, high = (f"heads_to_keep_{end}" for end in ("start", "low", "high"))
        for one, other in ((start, "heads_to_keep_updates"), (low, high), (high, low)):
            if getattr(self, one) is not None and getattr(self, other) is None:
                raise ValueError(
                    f"{flag(one)} and {flag(other)} belong together, but only {flag(one)} is given: give both"
                )
        for one in ("heads_to_keep_updates", low):
            if getattr(self, one) is not None and any(k is not None for k in per_type):
                raise ValueError(
                    f"{flag(one)} changes the budget for all attention types: give it with --heads-to-keep"
                )
        others = any(self.has_budget_of(kind) for kind in KINDS.values() if kind is not HEADS)  # which it shrinks
        if self.heads_to_keep_updates is not None and self.heads_to_keep_low is not None and not others:
            raise ValueError("--heads-to-keep-updates shrinks the budget and --heads-to-keep-low draws it: give one")
        if self.ffn_unit_width is not None and self.ffn_unit_width < 1:
            raise ValueError(f"--ffn-unit-width is {self.ffn_unit_width}, but it must be 1 or more")
        for kind in KINDS.values():
            width = kind.option(self, "width")
            if width is not None and self.cost is None and not self.has_budget_of(kind) and not self.kept_heads:
                raise ValueError(
                    f"{flag(kind.options['width'])} {width} is about {kind.units}, but none are chosen: leave it out, "
                    f"or give {flag(kind.options['to_keep'])}"
                )
        if self.uniform_heads:
            self._check_uniform()
        if self.heads_to_keep_updates is not None and self.heads_to_keep_updates < 1:
            raise ValueError(f"--heads-to-keep-updates is {self.heads_to_keep_updates}, but it must be 1 or more")
        if self.min_heads_per_module < 0:
            raise ValueError(f"--min-heads-per-module is {self.min_heads_per_module}, but it must be 0 or more")
        for name, floor in HEADS.floors.items():
            least = getattr(self, floor)
            if least is not None and least < 0:
                raise ValueError(f"{flag(floor)} is {least}, but it must be 0 or more")
            if least and any(k is not None for k in per_type):
                raise ValueError(
                    f"{flag(floor)} {least} is for one budget for all attention types, but a budget for a type is "
                    f"given: give {flag(HEADS.budgets[name])} instead"
                )
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
        if not (math.isfinite(self.module_penalty) and self.module_penalty >= 0):
            raise ValueError(f"--module-penalty is {self.module_penalty}, but it must be a finite number, 0 or more")
        if self.module_penalty and not SELECTIONS[self.head_selection].learns:
            raise ValueError(
                f"--module-penalty {self.module_penalty} influences the choice of the heads, but --head-selection "
                f"{self.head_selection} does not choose any: leave it out"
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
            roles = ("to_keep", "start", "low", "high", "uniform", "l0_penalty")
            others += [*(kind.options[role] for role in roles if role in kind.options), *kind.budgets.values()]
        for name in (*others, "kept_heads"):
            value = getattr(self, name)
            if value is not None and value is not False:
                given = flag(name) if value is True or name == "kept_heads" else f"{flag(name)} {value}"
                raise ValueError(
                    f"{flag(option)} {share} chooses how many units of each kind stay, but {given} is given, which is "
                    "about that too: leave one of them out"
                )

    def _check_uniform(self) -> None:
        for name in ("heads_to_keep_low", "l0_penalty", "kept_heads", *HEADS.budgets.values()):
            if getattr(self, name) is not None:
                raise ValueError(
                    f"--uniform-heads needs one number of heads for all types, but {flag(name)} is given: leave one of "
                    "them out, and give --heads-to-keep"
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


ABOUT_HEADS = (
    "heads_to_keep",
    *HEADS.budgets.values(),
    "min_heads_per_module",
    "uniform_heads",
    *HEADS.floors.values(),
    "heads_to_keep_start",
    "heads_to_keep_updates",
    "heads_to_keep_low",
    "heads_to_keep_high",
)
"""The options that say how many heads stay, and of which."""

WHICH_STAY = (
    *(name for name in ABOUT_HEADS if name not in ("heads_to_keep_start", "heads_to_keep_updates")),
    "ffn_units_to_keep",
    "ffn_unit_width",
    *COSTS,
    "kept_heads",
    "compact",
)
"""The options that say which units a training ends with, apart from what it learns."""

_ABOUT_GATES = (
    *ABOUT_HEADS,
    "ffn_units_to_keep",
    "parameters_to_keep",
    "flops_to_keep",
    "head_selection",
    "l0_penalty",
    "module_penalty",
    "freeze_weights",
)


def with_heads(file: str) -> dict[str, Any]:
    """Return the values of options that have a trained model keep the heads of a file, however it chose its own."""
    fields_ = PruningConfig.__dataclass_fields__
    reset = ("freeze_weights", "l0_penalty", "module_penalty", "pruning_warmup_updates", *ABOUT_HEADS, *COSTS)
    return {"head_selection": "fixed", "kept_heads": file} | {name: fields_[name].default for name in reset}


def flag(name: str) -> str:
    """Return the command-line flag of a field."""
    return "--" + name.replace("_", "-")
