"""Composing fairseq's configuration in half of the time.

A training of the tests spends much of its time there, on work that gives the same result each time:

- Hydra parses some 250 overrides, nearly all of them defaults: what is parsed once is remembered.
- It copies the store of all configurations lest the copy's sources change: only the list of sources is copied here, and
  the store gives out copies anyway.
- It merges some twenty configurations, mostly the same: what the same ones gave is copied.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.override_parser.overrides_parser import OverridesParser


def install() -> None:
    """Have this process, and those that it forks, compose configurations so."""
    parse = functools.cache(functools.partial(OverridesParser.parse_rule, OverridesParser.create()))

    def parse_rule(self: OverridesParser, s: str, rule_name: str) -> Any:
        return copy.deepcopy(parse(s, rule_name))

    OverridesParser.parse_rule = parse_rule
    ConfigRepository.__deepcopy__ = _with_own_list

    merge, merged = ConfigLoaderImpl._compose_config_from_defaults_list, dict[Any, Any]()

    def merged_once(self: ConfigLoaderImpl, defaults: list[Any], repo: Any) -> Any:
        key = repr([vars(default) for default in defaults] + [vars(source) for source in repo.get_sources()])
        if key not in merged:
            merged[key] = merge(self, defaults=defaults, repo=repo)
        return copy.deepcopy(merged[key])

    ConfigLoaderImpl._compose_config_from_defaults_list = merged_once


def _with_own_list(self: ConfigRepository, memo: dict[int, Any]) -> ConfigRepository:
    new = copy.copy(self)
    new.sources = list(self.sources)
    return new
