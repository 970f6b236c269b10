"""The command that translates with a model, as it is printed."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

from fairseq_dsp.removal.data_bin import translating


def test_models_behind_a_colon_are_linked_each_under_a_name_of_its_own(tmp_path: Path) -> None:
    """fairseq takes a colon for the end of one model and the beginning of another."""
    folder, here = tmp_path / "at 12:30", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    for name in ("compact-k6.pt", "compact-k3.pt"):
        (folder / name).write_text(name)
        link, command = translating("bin", folder / name, "sentencepiece").split(" && ")
        subprocess.run(link, shell=True, cwd=here, check=True)
        assert (here / name).read_text() == name
        assert shlex.split(command)[:2] == ["fairseq-generate", "bin"]
        assert f"--path {name} " in command
    assert translating("bin", Path("a.pt"), None).endswith("--path a.pt --beam 5")
