"""Options that fairseq evaluates as Python.

Broken: ve-fairseq 0.12.3 calls ``eval`` on options of models, optimisers and criteria, and on the lines of one kind of
data set. Such options are a part of every checkpoint, so that a checkpoint, an exported folder or a study could run any
code, safe loading or not: ``encoder_xformers_att_config`` does it in every Transformer. And a number such as ``0,001``
for ``--lr`` ends in a traceback that names no option.

Fix: the name ``eval`` means, in fairseq's modules, a reader of literals and their sums, products and the like, such
as ``(0.9, 0.98)`` and ``[(512, 3)] * 4 + [(256, 3)]``, which refuses all else; and the command line says which option
has a value that is none. Can go when fairseq reads literals.
"""

from __future__ import annotations

import argparse
import ast
import operator
import reprlib
import sys
from collections.abc import Callable
from typing import Any

from fairseq.dataclass import utils

from fairseq_dsp.errors import UserError
from fairseq_dsp.wrapping import wrap

_OPERATORS: dict[type[ast.operator], Any] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}


def apply() -> None:
    """Give the modules of fairseq, all of which are imported by now, their own ``eval``."""
    for name, module in list(sys.modules.items()):
        if name.startswith("fairseq."):
            module.eval = read_literal  # type: ignore[attr-defined]
    wrap(utils, "eval_str_list", _naming_the_option)


def _naming_the_option(stock: Callable[..., Any], text: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return stock(text, *args, **kwargs)
    except (SyntaxError, ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(
            f"{reprlib.repr(text)} is given, but a value as Python writes it is expected, such as 0.001, or a list of "
            "them, such as [0.001, 0.0005]"
        ) from error


def read_literal(text: str) -> Any:
    """Return the value of an expression of literals.

    :raises UserError: if the expression is anything else; nothing of it is run then.
    :raises TypeError: if it is no text, as ``eval`` would; fairseq relies on that.
    """
    if not isinstance(text, str):
        raise TypeError(f"a string is expected, but {type(text).__name__} is given")
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, TypeError, ArithmeticError, MemoryError, RecursionError) as error:
        raise UserError(
            f"an option is {reprlib.repr(text)}, but only literals are accepted, such as '(0.9, 0.98)', and nothing "
            "was executed: correct the option, and do not trust a checkpoint or a folder that holds code"
        ) from error


def _value(node: ast.expr) -> Any:
    match node:
        case ast.Constant(value=value):
            return value
        case ast.Tuple(elts=parts):
            return tuple(map(_value, parts))
        case ast.List(elts=parts):
            return list(map(_value, parts))
        case ast.Set(elts=parts):
            return set(map(_value, parts))
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {_value(key): _value(value) for key, value in zip(keys, values, strict=True) if key is not None}
        case ast.UnaryOp(op=ast.USub(), operand=part):
            return -_value(part)
        case ast.UnaryOp(op=ast.UAdd(), operand=part):
            return +_value(part)
        case ast.BinOp(op=sign, left=left, right=right) if type(sign) in _OPERATORS:
            return _OPERATORS[type(sign)](_value(left), _value(right))
    raise ValueError(f"{type(node).__name__} is not a literal")
