"""Attention heads as a kind of prunable units.

A head is rows of the projections of queries, keys and values, and the columns of the output projection that read it.
fairseq reads the fields' types at run time and knows ``Optional[X]`` only, hence no postponed annotations here.
"""

import math
from collections.abc import Container
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq.dataclass import FairseqDataclass

from .kinds import KINDS, Kind, UnitModule, flag, register


@dataclass
class HeadOptions(FairseqDataclass):
    """How many heads stay, and of which; each field is a flag of the same name with dashes."""

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
    heads_to_keep_updates: Optional[int] = field(
        default=None,
        metadata={"help": "updates over which the budgets of heads and feed-forward units shrink from all"},
    )
    heads_to_keep_low: Optional[int] = field(
        default=None,
        metadata={"help": "train one model for every number of heads from this one on: each update draws it"},
    )
    heads_to_keep_high: Optional[int] = field(
        default=None, metadata={"help": "to this one; validation keeps so many, or --heads-to-keep within the range"}
    )


class _Heads(Kind):
    """Every model has a choice of heads, be it of all."""

    def is_chosen(self, options: Any) -> bool:
        return True

    def check(self, options: Any) -> None:
        super().check(options)
        total = options.heads_to_keep
        per_type = any(getattr(options, name) is not None for name in self.budgets.values())
        if total is not None and per_type:
            raise ValueError(
                f"--heads-to-keep {total} is one budget for all attention types, but a budget for a type is given too: "
                "give either --heads-to-keep or --encoder-/--cross-/--decoder-heads-to-keep"
            )
        low, high = "heads_to_keep_low", "heads_to_keep_high"
        for one, other in ((low, high), (high, low)):
            if getattr(options, one) is not None and getattr(options, other) is None:
                raise ValueError(
                    f"{flag(one)} and {flag(other)} belong together, but only {flag(one)} is given: give both"
                )
        for one in ("heads_to_keep_updates", low):
            if getattr(options, one) is not None and per_type:
                raise ValueError(
                    f"{flag(one)} changes the budget for all attention types: give it with --heads-to-keep"
                )
        if options.l0_penalty is not None and options.heads_to_keep_low is not None:
            raise ValueError(
                f"--l0-penalty {options.l0_penalty} removes heads whatever their number, and --heads-to-keep-low "
                f"{options.heads_to_keep_low} trains many numbers: leave one of them out; without the penalty, "
                "--head-selection hard_concrete adapts it to each number"
            )
        others = any(kind.has_budget(options) for kind in KINDS.values() if kind is not self)  # which it shrinks
        if options.heads_to_keep_updates is not None and options.heads_to_keep_low is not None and not others:
            raise ValueError("--heads-to-keep-updates shrinks the budget and --heads-to-keep-low draws it: give one")
        if options.heads_to_keep_updates is not None and options.heads_to_keep_updates < 1:
            raise ValueError(f"--heads-to-keep-updates is {options.heads_to_keep_updates}, but it must be 1 or more")
        for name in ("heads_to_keep_low", "l0_penalty", "kept_heads", *self.budgets.values()):
            if options.uniform_heads and getattr(options, name) is not None:
                raise ValueError(
                    f"--uniform-heads needs one number of heads for all types, but {flag(name)} is given: leave one of "
                    "them out, and give --heads-to-keep"
                )
        if options.min_heads_per_module < 0:
            raise ValueError(f"--min-heads-per-module is {options.min_heads_per_module}, but it must be 0 or more")
        for name, floor in self.floors.items():
            least = getattr(options, floor)
            if least and per_type:
                raise ValueError(
                    f"{flag(floor)} {least} is for one budget for all attention types, but a budget for a type is "
                    f"given: give {flag(self.budgets[name])} instead"
                )

    def default_floor(self, kind: str, total: int, *, trained: bool = False) -> int:
        """See :class:`Kind`.

        The decoder learns from its own words before it looks at the source, so an early choice of few heads may leave
        none in cross-attention; and the worth of the encoder's heads shows last. Of the heads of a trained model that
        stay, a quarter is the encoder's: the loss on references, by which heads are chosen, hardly feels what the
        encoder loses, for the decoder is given the right words so far; translations do. And of three or more, one is in
        the decoder's self-attention, whose last head counts for little until the others have learnt to use it.
        """
        encoder = math.ceil(total / 4) if trained else round(total / 9)
        return {"cross": 1, "encoder_self": encoder, "decoder_self": int(trained and total >= 3)}[kind]

    def unit_width(self, options: Any) -> None:
        """No option says how wide a head is: the number of heads does."""

    def unit_flops(self, module: UnitModule, source: int, steps: int, beam: int) -> int:
        """See :class:`Kind`. The encoder's keys and values are computed once a sentence; queries meet keys."""
        flops = super().unit_flops(module, source, steps, beam)
        read = beam * steps
        met = {"encoder_self": source**2, "decoder_self": read * (steps + 1) // 2, "cross": read * source}
        if module.type == "cross":
            _, (inner, outside) = module.parameters["k_proj.weight"]
            flops -= 2 * (2 * inner * outside // module.units) * (read - source)
        return flops + 2 * (2 * module.width) * met[module.type]

    def describe(self, kind: str, layer: int, name: str, module: Any, options: Any) -> UnitModule:
        sizes = module.num_heads, module.head_dim, module.embed_dim, module.kdim
        return attention_module(kind, layer, name, *sizes, module=module)

    def find(self, kind: str, layer: int, name: str, names: Container[str], options: Any) -> UnitModule | None:
        if f"{name}.out_proj.bias" not in names or (kind == "cross" and getattr(options, "no_cross_attention", False)):
            return None
        side, _ = self.places[kind]
        heads, width = (int(getattr(options, f"{side}_{size}")) for size in ("attention_heads", "embed_dim"))
        key_width = options.encoder_embed_dim if kind == "cross" else width
        return attention_module(kind, layer, name, heads, width // heads, width, key_width)


HEADS = register(
    _Heads(
        name="heads",
        units="heads",
        titles={
            "encoder_self": "encoder self-attention",
            "decoder_self": "decoder self-attention",
            "cross": "cross-attention",
        },
        places={
            "encoder_self": ("encoder", "self_attn"),
            "decoder_self": ("decoder", "self_attn"),
            "cross": ("decoder", "encoder_attn"),
        },
        options={
            "to_keep": "heads_to_keep",
            "updates": "heads_to_keep_updates",
            "low": "heads_to_keep_low",
            "high": "heads_to_keep_high",
            "per_module": "min_heads_per_module",
            "uniform": "uniform_heads",
            "l0_penalty": "l0_penalty",
        },
        budgets={
            "encoder_self": "encoder_heads_to_keep",
            "decoder_self": "decoder_heads_to_keep",
            "cross": "cross_heads_to_keep",
        },
        floors={
            "cross": "min_cross_heads",
            "encoder_self": "min_encoder_heads",
            "decoder_self": "min_decoder_heads",
        },
        in_proportion="encoder_self",
        crossing="cross",
    )
)

TYPES = HEADS.types
"""The attention types, in the order in which heads are numbered."""


def check_heads(options: Any) -> None:
    """Check that each stack's heads divide its width.

    :raises ValueError: if they do not.
    """
    for stack in ("encoder", "decoder"):
        heads, width = (int(getattr(options, f"{stack}_{size}", 1)) for size in ("attention_heads", "embed_dim"))
        if heads < 1 or width % heads:
            raise ValueError(
                f"{flag(f'{stack}_attention_heads')} is {heads}, but a number that divides "
                f"{flag(f'{stack}_embed_dim')}, {width}, is expected"
            )


def attention_module(
    kind: str, layer: int, name: str, heads: int, head_dim: int, width: int, key_width: int, *, module: Any = None
) -> UnitModule:
    """Return the description of an attention module: the rows of its projections and the columns of the last."""
    inner = heads * head_dim
    parameters: dict[str, tuple[int, tuple[int, ...]]] = {}
    for part, read in (("q", width), ("k", key_width), ("v", key_width)):
        parameters |= {f"{part}_proj.weight": (0, (inner, read)), f"{part}_proj.bias": (0, (inner,))}
    parameters["out_proj.weight"] = (1, (width, inner))
    return UnitModule(HEADS, kind, layer, name, heads, head_dim, parameters, module)
