"""``--help`` without the options of the model.

Broken: ve-fairseq 0.12.3 adds the options of the chosen architecture, task, criterion and optimiser after it has parsed
the command line once, and ``--help`` ends the program there: ``fairseq-train --arch transformer_dsp --help`` names no
option of pruning.

Fix: with ``--help`` the command line is parsed without it, and the help is printed once all options are there. Can go
when fairseq's does so.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any

from fairseq import options

from fairseq_dsp.wrapping import wrap

HELP = {"-h", "--help"}


def apply() -> None:
    """Wrap the function with which fairseq's commands read their options."""
    wrap(options, "parse_args_and_arch", _with_help)


def _with_help(
    stock: Callable[..., Any],
    parser: argparse.ArgumentParser,
    input_args: list[str] | None = None,
    parse_known: bool = False,
    suppress_defaults: bool = False,
    modify_parser: Callable[[argparse.ArgumentParser], None] | None = None,
) -> Any:
    given = sys.argv[1:] if input_args is None else input_args
    if HELP.isdisjoint(given):
        return stock(parser, input_args, parse_known, suppress_defaults, modify_parser)
    calls = 0

    def modify_or_help(parser: argparse.ArgumentParser) -> None:
        """Be called before the options of the choices are added, and again after it."""
        nonlocal calls
        calls += 1
        if modify_parser is not None:
            modify_parser(parser)
        if calls == 2:
            parser.print_help()
            parser.exit()

    rest = [word for word in given if word not in HELP]
    try:
        return stock(parser, rest, parse_known, modify_parser=modify_or_help)
    except (RuntimeError, KeyError, argparse.ArgumentError):
        # no architecture or no task is given, or two that share an option: fairseq's own help
        return stock(parser, given)
