"""Where a prepared corpus has what fairseq reads."""

from __future__ import annotations

import json
from pathlib import Path

SUMMARY = "prepare.json"
"""What the data preparation writes last, beside the folders that it has made."""


def data_bin_of(data: str) -> str:
    """Return the ``data-bin`` of a prepared corpus; of another folder, or several with colons between them, itself."""
    try:
        return str(Path(data) / json.loads((Path(data) / SUMMARY).read_text(encoding="utf-8"))["data_bin"])
    except (OSError, ValueError, LookupError, TypeError):
        return data  # whoever reads it says what is wrong
