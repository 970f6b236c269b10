"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fairseq_dsp.files import remove, replacing


def test_replacing_leaves_the_old_file_when_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def interrupted() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "old")]
    with replacing(path) as temporary:
        assert temporary.parent == tmp_path  # another file system could not rename
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "new")]


def test_removing_takes_what_killed_writers_left_too(tmp_path: Path) -> None:
    path, other = tmp_path / "a[1].pt", tmp_path / "a1.pt"
    for one in (path, other):
        one.write_text("whole")
        with replacing(one) as temporary:
            temporary.write_text("half")
            left = temporary.read_text()
            temporary.with_name(temporary.name.replace(str(os.getpid()), "1")).write_text(left)
    remove(path)
    remove(tmp_path / "none")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".a1.pt.1.tmp", "a1.pt"]
