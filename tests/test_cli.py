"""What the command line says where the machine does not let it do its work."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from fairseq.data import data_utils

from fairseq_dsp import cli, extras
from fairseq_dsp.deployment import engine
from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation.prepared import PreparedData


@pytest.mark.parametrize("command", [["translate"], ["heads"], ["evaluate", "c.pt", "--data"], ["bench"]])
def test_a_file_that_the_system_refuses_is_told(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    name = "a" * 300
    assert cli.main([*command, name]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"fairseq-dsp {command[0]}: ")
    assert name in said
    assert "File name too long" in said


def test_a_disk_that_is_full_is_told_where_the_output_goes(tmp_path: Path) -> None:
    (tmp_path / "talk.py").write_text("def add_arguments(_): pass\n\ndef run(_): print('one line')\n")
    start = "import sys; from fairseq_dsp import cli; cli.COMMANDS['talk'] = ('talk', ''); sys.exit(cli.main(['talk']))"
    start = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {start}"
    with Path("/dev/full").open("w") as full:
        failed = subprocess.run([sys.executable, "-c", start], stdout=full, stderr=subprocess.PIPE, text=True)
    said = "the disk that is written to is full (No space left on device): make room, and try again"
    assert (failed.returncode, failed.stderr) == (1, f"fairseq-dsp talk: {said}\n")


def test_a_package_that_cannot_be_loaded_is_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_engine.py").write_text('raise ImportError("libengine.so: cannot enable executable stack")')
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match=r"broken_engine, which cannot be loaded \(libengine.so: cannot"):
        extras.optional("broken_engine", "extra", "this needs")
    with pytest.raises(UserError, match="the package no_engine, which is not installed: pip install"):
        extras.optional("no_engine", "extra", "this needs")


def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system lets root, who may run this, read every file."""

    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "the file")

    monkeypatch.setattr(Path, "read_text", refused)
    monkeypatch.setattr(data_utils, "load_indexed_dataset", refused)
    data = PreparedData(tmp_path, {"data_bin": "data-bin"})
    for read in (lambda: engine._config(tmp_path), lambda: data.binarised("test.de-en.de")):
        with pytest.raises(
            UserError, match=r"^the file cannot be read \(Permission denied\): have its owner allow it$"
        ):
            read()
