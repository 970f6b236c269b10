"""Model archives that write wherever they like.

Broken: ``from_pretrained`` of ve-fairseq 0.12.3 unpacks a model's ``.tar.gz`` with all the names in it, on Python 3.11
also absolute ones and those with ``..``: such an archive replaces any file of the user's, and so runs code.

Fix: Python's own filter for data, which refuses these; it is there from Python 3.11.4 on. Can go when fairseq asks
for it.
"""

from __future__ import annotations

import tarfile
import types
from collections.abc import Callable

from fairseq import file_utils

from fairseq_dsp.errors import UserError
from fairseq_dsp.wrapping import wrap


class _DataArchive(tarfile.TarFile):
    """An archive of which Python unpacks what its filter for data lets through."""

    if hasattr(tarfile, "data_filter"):
        extraction_filter = staticmethod(tarfile.data_filter)


def apply() -> None:
    """Give the module that unpacks archives a kind of its own, and explain what that refuses."""
    if hasattr(tarfile, "data_filter"):
        file_utils.tarfile = types.SimpleNamespace(open=_DataArchive.open)
        wrap(file_utils, "load_archive_file", _explaining)


def _explaining(load: Callable[[str], str | None], archive_file: str) -> str | None:
    try:
        return load(archive_file)
    except tarfile.FilterError as error:
        raise UserError(
            f"The archive {archive_file} is refused: it would write outside of its own folder ({error}); get the "
            "model from somewhere else."
        ) from error
