"""What the tests of data-prep share: running it as users do, and looking at what it leaves."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import subprocess
from pathlib import Path

from fairseq_dsp.cli import main

REPOSITORY = Path(__file__).resolve().parents[2]


def corpora() -> Path | None:
    """The folder of corpora that lie beside the checkout, or where $FAIRSEQ_DSP_CORPORA says."""
    folder = Path(os.environ.get("FAIRSEQ_DSP_CORPORA", REPOSITORY.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


def environment(**extra: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **extra}


def prepare(*args: object, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run ``fairseq-dsp prepare`` to its end, in this process; with ``check`` it has to succeed."""
    printed, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(told):
        try:
            status = main(["prepare", *map(str, args)])
        except SystemExit as error:
            status = error.code if isinstance(error.code, int) else 1
    done = subprocess.CompletedProcess(list(map(str, args)), status, printed.getvalue(), told.getvalue())
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def the_sentence(done: subprocess.CompletedProcess[str]) -> str:
    """What a failed run has to say: one sentence, nothing else of Python's."""
    told = done.stderr or done.stdout  # `run_fairseq` has both in one
    assert done.returncode != 0, told
    assert "Traceback" not in told, told
    lines = [line for line in told.splitlines() if line.startswith("fairseq-dsp prepare")]
    assert len(lines) == 1, told
    return lines[0]


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, but for fairseq's log (it has the time) and the stamps (they have the log's size)."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("preprocess.log", ".stamp.json")
    }


def times(folder: Path) -> dict[str, int]:
    """When every file and folder below a folder was last written."""
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def compress(folder: Path) -> None:
    """Replace all files of a folder by ones compressed with gzip."""
    for path in [path for path in folder.iterdir() if path.is_file()]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()


def lines(path: Path) -> list[str]:
    """The lines of a text file."""
    return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")


def write(path: Path, text: list[str]) -> Path:
    """Write lines, and give the path back."""
    path.write_text("".join(line + "\n" for line in text), encoding="utf-8")
    return path
