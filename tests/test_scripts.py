"""What the scripts share: which Python they use."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support import REPOSITORY


def environment(folder: Path, *files: str) -> Path:
    """A folder like a virtual environment, with programs that do nothing."""
    for name in ("bin/python", *files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("files", "own"),
    [(["bin/fairseq-dsp"], True), ([], False), (["bin/fairseq-dsp", ".installed"], False)],
)
def test_an_active_environment_with_the_package_is_used(files: list[str], own: bool, tmp_path: Path) -> None:
    active = environment(tmp_path / "env", *files)
    script = 'source scripts/common.sh; ensure_venv() { :; }; ROOT=$1; find_python; echo "$PYTHON"'
    root = environment(tmp_path / "root/.venv").parent
    variables = {name: value for name, value in os.environ.items() if name != "PYTHON"}
    done = subprocess.run(
        ["bash", "-c", script, "test", root], cwd=REPOSITORY, env={**variables, "VIRTUAL_ENV": str(active)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str((active if own else root / ".venv") / "bin/python")
