"""What a study says of the jobs on a SLURM cluster."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class Key:
    """A key of a study's ``slurm``.

    :param kind: type of its value.
    :param name: what submitit calls it, or None for what it does not read.
    :param least: the smallest number.
    """

    kind: type
    name: str | None
    least: float | None = None


KEYS = {
    "partition": Key(str, "slurm_partition"),
    "account": Key(str, "slurm_account"),
    "qos": Key(str, "slurm_qos"),
    "constraint": Key(str, "slurm_constraint"),
    "minutes": Key(int, "timeout_min", 1),
    "cpus": Key(int, "cpus_per_task", 1),
    "gpus": Key(int, "gpus_per_node", 0),
    "nodes": Key(int, "nodes", 1),
    "memory_gb": Key(float, "mem_gb", 0.001),
    "at_a_time": Key(int, "slurm_array_parallelism", 1),
    "array_size": Key(int, None, 1),
    "requeues": Key(int, "max_num_timeout", 0),
    "setup": Key(list, "slurm_setup"),
    "additional": Key(dict, "slurm_additional_parameters"),
}
"""The keys of a study's ``slurm``."""

_EXPECTED = {
    str: "a text is", int: "a whole number is", float: "a number is", list: "a list is", dict: "keys with values are",
}  # fmt: skip


def check_options(options: Mapping[str, Any]) -> None:
    """Raise a `UserError` unless a study's ``slurm`` can be used."""
    for name, value in options.items():
        if name not in KEYS:
            raise UserError(f"slurm has an unknown key {name}: give some of {', '.join(KEYS)}")
        key = KEYS[name]
        kinds: Any = (int, float) if key.kind is float else key.kind
        if not isinstance(value, kinds) or isinstance(value, bool):
            raise UserError(f"slurm: {name} is {value!r}, but {_EXPECTED[key.kind]} expected")
        if key.least is not None and not key.least <= value < math.inf:
            raise UserError(f"slurm: {name} is {value}, but a number from {key.least} is expected")
        if key.kind is str and not (value.strip() and value.isprintable()):
            raise UserError(f"slurm: {name} is {value!r}, but a name is expected: give one, or leave the key out")
        if key.kind is list and not all(isinstance(line, str) for line in value):
            raise UserError(f"slurm: {name} is {value!r}, but a list of lines for the shell is expected")
        if key.kind is dict:
            _check_additional(value)


def _check_additional(options: Mapping[Any, Any]) -> None:
    for name, value in options.items():
        if not isinstance(name, str) or not isinstance(value, (str, int, float)):
            raise UserError(f"slurm: additional has {name!r}: {value!r}, but options of sbatch are expected")
        if name.replace("_", "-") in ("array", "wrap"):
            raise UserError(f"slurm: additional has {name}, but a sweep sets it itself: leave it out")
