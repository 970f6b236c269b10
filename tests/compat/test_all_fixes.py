"""No fix is forgotten: all files of the room are applied when fairseq is imported."""

from __future__ import annotations

from support import REPOSITORY

from fairseq_dsp import compat

BEFORE_FAIRSEQ = {"unasked_messages"}


def test_every_file_is_applied() -> None:
    there = {file.stem for file in (REPOSITORY / "fairseq_dsp/compat").glob("*.py")} - {"__init__"} - BEFORE_FAIRSEQ
    assert len(compat._FIXES) == len(set(compat._FIXES))
    assert set(compat._FIXES) == there
