"""Where a prepared corpus has what fairseq reads, and for which task."""

from __future__ import annotations

from pathlib import Path

from .files import read_json

SUMMARY = "prepare.json"
"""What the data preparation writes last, beside the folders that it has made."""

CLASSIFICATION = "sentence_prediction"
"""fairseq's task of a corpus with labels, and of what is trained on one; this package's name begins with it."""


def method_of(given: str) -> str:
    """Return the name of a subword method as options spell it; fairseq's own names have underscores."""
    return given.replace("_", "-")


def data_bin_of(data: str) -> str:
    """Return the ``data-bin`` of a prepared corpus; of another folder, or several with colons between them, itself."""
    try:
        return str(Path(data) / read_json(Path(data) / SUMMARY)["data_bin"])
    except (LookupError, TypeError):
        return data  # whoever reads it says what is wrong


def folder_of(path: str | Path) -> Path:
    """Return the folder of the preparation that *path* is, or is a ``data-bin`` of; *path* if it is neither."""
    folder, parent = Path(path), Path(path).absolute().parent
    if (folder / SUMMARY).is_file() or not (parent / SUMMARY).is_file():
        return folder
    try:
        summary = read_json(parent / SUMMARY)
        names = [summary["data_bin"], *summary.get("data_bins", ())]
    except (LookupError, TypeError, AttributeError):
        return parent  # whoever reads it says what is wrong
    return parent if any(folder.resolve() == (parent / str(name)).resolve() for name in names) else folder
