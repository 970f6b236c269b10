"""A study's YAML: each key once, and what the file extends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ..errors import UserError
from .options import read_options
from .values import mapping


class _Loader(yaml.SafeLoader):
    """Refuses a key that is given twice, of which YAML would take the last."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode | None:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value if node else ():  # before any << is replaced by what it stands for
            if not isinstance(key, yaml.ScalarNode):  # which YAML itself refuses
                continue
            if key.value in seen:
                mark = key.start_mark
                raise UserError(f"the study {mark.name} has the key {key.value} twice, again in line {mark.line + 1}")
            seen.add(key.value)
        return node


def read_yaml(path: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a study file and what it extends: mappings are merged, of anything else the file's own value counts."""
    try:
        with path.open(encoding="utf-8") as file:
            content = yaml.load(file, _Loader)
    except OSError as error:
        raise UserError(
            f"the study {path} cannot be read ({error.strerror}): give a YAML file such as "
            "scripts/studies/quickstart.yaml"
        ) from error
    except UserError:
        raise
    except (yaml.YAMLError, ValueError) as error:  # of a date that there is not, or text of another encoding
        raise UserError(f"the study {path} is not YAML: {' '.join(str(error).split())}") from error
    try:
        content = dict(mapping(content, "the file"))
        for key in {"recipe", "base"} & {key for key, value in content.items() if value}:
            content[key] = read_options(content[key], key)
    except ValueError as error:
        raise UserError(f"the study {path}: {error}") from error
    other = content.pop("extends", None)
    if other is None:
        return content
    if not isinstance(other, str):
        raise UserError(f"the study {path}: extends is {other!r}, but the path of a study is expected")
    if "name" not in content:
        raise UserError(f"the study {path} lacks the key name: give it a name of its own beside extends")
    chain = (*extended_by, path.resolve())
    if (path.parent / other).resolve() in chain:
        raise UserError(f"the study {path} extends {other}, which extends it in turn: remove one of the keys extends")
    merged = read_yaml(path.parent / other, chain)
    for key, value in content.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both else value
    return merged
