"""Files that are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from fairseq_dsp.files import replacing


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
