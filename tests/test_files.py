"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from quick_python import quick_python

from fairseq_dsp.errors import UserError
from fairseq_dsp.files import check_writable, new_folder, remove, replacing, write_files, write_text


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


def test_what_cannot_be_written_is_told_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    check_writable(None, tmp_path / "file", tmp_path / "new/folder/file", Path("/dev/stdout"), Path("/dev/stdout"))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    for paths, sentence in (
        ([tmp_path], "is a folder, but a file is expected"),
        ([tmp_path / "file/under"], f"cannot be written, because {tmp_path / 'file'} takes no files"),
        ([tmp_path / "a", tmp_path / "b/../a"], "is given twice"),
    ):
        with pytest.raises(UserError, match=sentence):
            check_writable(*paths)


def test_folders_that_cannot_be_brought_to_the_disk_are_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some file systems, such as folders shared with a virtual machine, refuse that for folders."""
    sync = os.fsync

    def refused(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        sync(handle)

    monkeypatch.setattr(os, "fsync", refused)
    write_files({tmp_path / "a": "a", tmp_path / "b": b"b"})
    with new_folder(tmp_path / "new") as folder:
        folder.mkdir()
        (folder / "c").write_text("c")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "c", "new"]
    handle = os.open(tmp_path, os.O_RDONLY)
    monkeypatch.setattr(os, "fsync", lambda _: refused(handle))
    with pytest.raises(UserError, match=r"d could not be written \(Invalid argument\), and nothing was left behind"):
        write_files({tmp_path / "d": "d"})
    os.close(handle)
    assert not (tmp_path / "d").exists()


def test_removing_takes_what_killed_writers_left_too(tmp_path: Path) -> None:
    path, other = tmp_path / "a[1].pt", tmp_path / "a1.pt"
    for one in (path, other):
        one.write_text("whole")
        with replacing(one) as temporary:
            temporary.write_text("half")
            left = temporary.read_text()
            temporary.with_name(f".{one.name}.1.tmp").write_text(left)
    remove(path)
    remove(tmp_path / "none")
    assert sorted(file.name for file in tmp_path.iterdir()) == [".a1.pt.1.tmp", "a1.pt"]


def test_what_killed_writers_left_goes_with_the_next_one(tmp_path: Path) -> None:
    """What is still being written stays."""
    path, folder, waiting = tmp_path / "model.pt", tmp_path / "model", []
    script = f"""
import sys
from pathlib import Path
from fairseq_dsp.files import new_folder, replacing
with new_folder(Path({str(folder)!r})) as temporary, replacing({str(path)!r}) as file:
    temporary.mkdir()
    (temporary / "weights").write_text("half")
    file.write_text("half")
    print(temporary.name, file.name, flush=True)
    sys.stdin.read()
"""
    for _ in range(2):
        command = [sys.executable, "-c", script]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        waiting.append((process, process.stdout.readline().split()))
    (killed, gone), (alive, half) = waiting
    killed.kill()
    killed.communicate()
    assert {entry.name for entry in tmp_path.iterdir()} == {*gone, *half}
    with new_folder(folder) as temporary:
        temporary.mkdir()
    write_files({path: "whole"})
    assert {entry.name for entry in tmp_path.iterdir()} == {*half, "model", "model.pt"}
    alive.kill()
    alive.communicate()


def test_a_folder_that_a_full_disk_ends_is_told_in_a_sentence(tmp_path: Path) -> None:
    """``torch.save`` raises an error of its own, with that of the disk behind it."""
    script = f"""
import resource, signal, sys, torch
from pathlib import Path
from fairseq_dsp.errors import UserError
from fairseq_dsp.files import new_folder
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    with new_folder(Path({str(tmp_path / "model")!r})) as folder:
        folder.mkdir()
        with (folder / "model.pt").open("wb") as file:
            torch.save(torch.ones(1_000_000), file)
except UserError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([quick_python(), "-c", script], capture_output=True, text=True)
    assert done.stderr.startswith(f"the folder {tmp_path / 'model'} could not be written (File too large), and nothing")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_command_that_is_terminated_leaves_nothing_behind(tmp_path: Path) -> None:
    script = f"""
import sys, types
from fairseq_dsp import cli
from fairseq_dsp.files import new_folder
from pathlib import Path
def run(args):
    with new_folder(Path({str(tmp_path / "model")!r})) as folder:
        folder.mkdir()
        print("half", flush=True)
        sys.stdin.read()
sys.modules["slow"] = types.SimpleNamespace(add_arguments=lambda parser: None, run=run, __doc__="")
cli.COMMANDS["slow"] = "slow", "wait"
sys.exit(cli.main(["slow"]))
"""
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "half\n"
        assert [path.suffix for path in tmp_path.iterdir()] == [".tmp"]
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_and_a_pipe_is_written_to(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    link, target, pipe = tmp_path / "link", tmp_path / "there/file", tmp_path / "pipe"
    target.write_text("old")
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    os.mkfifo(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    write_text(pipe, "through")
    assert reader.communicate(timeout=60)[0] == "through"
    assert pipe.is_fifo()
    link.unlink()
    link.symlink_to(pipe)
    reader = subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE, text=True)
    write_text(link, "the link")
    assert reader.communicate(timeout=60)[0] == "the link"
    assert pipe.is_fifo()


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "out"])
def test_standard_output_is_written_to(name: str, tmp_path: Path) -> None:
    """Where it is a file, too, which may have text already."""
    script = "print('first'); from fairseq_dsp.files import write_text; from pathlib import Path; "
    script += f"write_text(Path('{name}'), 'second'); print(' third')"
    with (tmp_path / "out").open("w") as out:
        subprocess.run([quick_python(), "-c", script], stdout=out, check=True, cwd=tmp_path)
    assert (tmp_path / "out").read_text() == "first\nsecond third\n"


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no file system in memory")
def test_a_file_system_in_memory_has_files() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        for text in ("first", "second"):
            write_text(Path(folder) / "file", text)
        assert (Path(folder) / "file").read_text() == "second"
