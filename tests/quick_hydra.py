"""Composing fairseq's configuration in half of the time; importing this is enough.

A training of the tests spends most of its time there, on work that gives the same result each time:

- Hydra parses some 250 overrides, nearly all of them defaults: what is parsed once is remembered.
- It copies the store of all configurations lest the copy's sources change: only the list of sources is copied here, and
  the store gives out copies anyway.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

from hydra._internal.config_repository import ConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser

_parsed = functools.cache(OverridesParser.parse_rule)


def _parse_rule(self: OverridesParser, s: str, rule_name: str) -> Any:
    return copy.deepcopy(_parsed(_PARSER, s, rule_name))


def _copy(self: ConfigRepository, memo: dict[int, Any]) -> ConfigRepository:
    new = copy.copy(self)
    new.sources = list(self.sources)
    return new


_PARSER = OverridesParser.create()
OverridesParser.parse_rule = _parse_rule  # type: ignore[method-assign]
ConfigRepository.__deepcopy__ = _copy  # type: ignore[attr-defined]
