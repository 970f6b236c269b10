"""A model's options as a flat namespace, whichever of fairseq's command lines they came by."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from fairseq.dataclass import FairseqDataclass
from fairseq.models.transformer import TransformerConfig
from omegaconf import DictConfig, OmegaConf, ValidationError, open_dict

from ..errors import closest
from ..version import __version__
from .pruning_options import check_selection

IN_FORCE = "fairseq_dsp"
"""Where a checkpoint's options say, as JSON, the version that trained it."""

NO_FILES = dict.fromkeys(("encoder_embed_path", "decoder_embed_path"))
"""Options of a model that name files which are not needed once it is trained: its weights started from them."""


USUAL_POSITIONS = 1024
"""How many positions fairseq's models have for source and target where nothing is given."""


def config_of(state: Mapping[str, Any], part: str = "model") -> Any:
    """Return a part of the options that a checkpoint holds, or None.

    :param state: what fairseq loaded from it.
    :param part: ``model`` or ``task``.
    """
    return (state.get("cfg") or {}).get(part)


def positions_of(state: Mapping[str, Any]) -> tuple[int, int]:
    """Return how many positions a model has for source and target; the end of a sentence takes one.

    :param state: what fairseq loaded from its checkpoint.
    """
    options = config_of(state)
    source, target = (getattr(options, f"max_{side}_positions", None) for side in ("source", "target"))
    return int(source or USUAL_POSITIONS), int(target or USUAL_POSITIONS)


def in_force() -> str:
    """Return what :data:`IN_FORCE` says of a model that this version builds."""
    return json.dumps({"version": __version__})


def flat_names(config: type[Any] = TransformerConfig, prefix: str = "") -> set[str]:
    """Return the flat names under which the argparse command line knows a config's options, nested ones included."""
    names: set[str] = set()
    for f in fields(config):
        if isinstance(f.default, type) and is_dataclass(f.default):
            names |= flat_names(f.default, f"{prefix}{f.name}_")
        elif not f.name.startswith("_"):
            names.add(prefix + f.name)
    return names


def flatten(config: Namespace | DictConfig) -> None:
    """Give the nested Transformer options of a hydra config (``encoder.layers``) their flat names, in place.

    An option given both ways has its nested value.
    """
    if isinstance(config, Namespace):
        return
    with open_dict(config):
        for name in [name for name in config if OmegaConf.is_dict(config._get_node(name))]:
            inner = config.pop(name)
            for key, value in inner.items():
                config[f"{name!s}_{key}"] = value


def model_namespace(
    config: Namespace | DictConfig | dict[str, Any], known: set[str], own: tuple[type[FairseqDataclass], ...]
) -> Namespace:
    """Return a model's options as the flat namespace that fairseq's models read.

    The argparse command line has checked its options already; a hydra config, or a dictionary as `export-fairseq`
    writes it, is checked here.

    :param known: the flat names of all options.
    :param own: the dataclasses of this package's options, whose types are checked and defaults filled in.
    :raises ValueError: for an unknown key, or a value of another type, in a hydra config.
    """
    if isinstance(config, Namespace):
        return config
    if isinstance(config, dict):  # OmegaConf takes one of a class of its own, such as OrderedDict, for a value
        config = OmegaConf.create(dict(config))
    flatten(config)
    options = _plain(config, resolve=True)
    typed = [OmegaConf.structured(dataclass) for dataclass in own]
    known = known.union({"_name", "arch", IN_FORCE}, *typed)
    for key, value in options.items():
        if key not in known:
            raise ValueError(f"the model config has an unknown key {key}{closest(key, known) or ': remove it'}")
        for part in typed:
            if key in part and key != "_name":
                try:
                    part[key] = value
                except ValidationError as error:
                    if key == "head_selection":
                        check_selection(str(value))
                    reason = str(error).splitlines()[0]
                    raise ValueError(f"the model config's {key} cannot be used: {reason}") from error
    for part in typed:
        options |= _plain(part, enum_to_str=True)
    return Namespace(**{**options, "_name": getattr(config, "_name", None)})


def _plain(config: DictConfig, **how: Any) -> dict[str, Any]:
    """Return a config as a dictionary, with OmegaConf's options for that."""
    content = OmegaConf.to_container(config, **how)
    assert isinstance(content, dict)  # what a DictConfig gives
    return {str(name): value for name, value in content.items()}
