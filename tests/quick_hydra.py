"""Composing fairseq's configuration in half of the time.

A training of the tests spends much of its time there, on work that gives the same result each time:

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


def install() -> None:
    """Have this process, and those that it forks, compose configurations so."""
    parse = functools.cache(functools.partial(OverridesParser.parse_rule, OverridesParser.create()))

    def parse_rule(self: OverridesParser, s: str, rule_name: str) -> Any:
        return copy.deepcopy(parse(s, rule_name))

    OverridesParser.parse_rule = parse_rule
    ConfigRepository.__deepcopy__ = _with_own_list


def _with_own_list(self: ConfigRepository, memo: dict[int, Any]) -> ConfigRepository:
    new = copy.copy(self)
    new.sources = list(self.sources)
    return new
