"""What is called in place of a function has the function, and a method of a class stays one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fairseq_dsp.wrapping import wrap


class _Stock:
    def own(self, x: int) -> tuple[Any, int]:
        return self, x

    @classmethod
    def of_class(cls, x: int) -> tuple[Any, int]:
        return cls, x

    @staticmethod
    def static(x: int) -> tuple[Any, int]:
        return None, x


class _Heir(_Stock):
    pass


def _one_more(stock: Callable[..., Any], *args: Any, x: int) -> Any:
    return stock(*args, x=x + 1)


def test_every_kind_of_method() -> None:
    for name in ("own", "of_class", "static"):
        wrap(_Heir, name, _one_more)
    heir = _Heir()
    assert heir.own(x=1) == (heir, 2)
    assert heir.of_class(x=1) == _Heir.of_class(x=1) == (_Heir, 2)
    assert heir.static(x=1) == _Heir.static(x=1) == (None, 2)
    assert _Stock.of_class(x=1) == (_Stock, 1)
    assert hasattr(_Heir.own, "__wrapped__")
    assert not hasattr(_Stock.own, "__wrapped__")
