"""A function of fairseq's with something done around it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any


def wrap(owner: Any, name: str, around: Callable[..., Any]) -> None:
    """Have ``around(stock, …)`` called in place of a function of a module or class, the stock one.

    :param owner: the module or class; a class or static method stays one.
    """
    stock: Any = inspect.getattr_static(owner, name)
    kind = type(stock) if isinstance(stock, (classmethod, staticmethod)) else lambda function: function
    stock = getattr(stock, "__func__", stock)

    @functools.wraps(stock)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        return around(stock, *args, **kwargs)

    setattr(owner, name, kind(wrapped))
