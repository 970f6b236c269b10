"""Files that are there whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from .errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file under a temporary name in its folder, then give it its name.

    :raises UserError: if it cannot be written, for example because the disk is full; nothing half-written stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path} cannot be written ({error.strerror}): mend that, then give the same command again"
        ) from error


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file like `write_text`."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
