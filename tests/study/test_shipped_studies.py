"""The study files that the package ships can be read, and expand to runs whose options fairseq takes."""

from __future__ import annotations

from pathlib import Path

import pairs
import pytest
import support
import yaml
from quick_python import quick_python
from support import REPOSITORY

from fairseq_dsp.errors import UserError
from fairseq_dsp.study.checks import check_runs
from fairseq_dsp.study.runs import expand
from fairseq_dsp.study.study_file import read_study
from fairseq_dsp.subset import OWN


def pretrained_of(path: Path) -> str | None:
    """The checkpoint that a study file, or one that it extends, starts from."""
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    extended = content.get("extends")
    return content.get("pretrained") or (pretrained_of(path.parent / extended) if extended else None)


@pytest.mark.parametrize("path", sorted((REPOSITORY / "scripts/studies").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_studies(path: Path, prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if pretrained := pretrained_of(path):
        prepared = pairs.make(tmp_path)
        sizes = "--arch roberta --encoder-layers 12 --encoder-embed-dim 24 --encoder-attention-heads 12".split()
        pairs.train(prepared, (tmp_path / pretrained).parent, *sizes, "--max-update", 1)
        (tmp_path / pretrained).symlink_to("checkpoint_last.pt")
        monkeypatch.chdir(tmp_path)
    if OWN in path.read_text(encoding="utf-8"):  # it has selections that are not the package's
        with pytest.raises(UserError, match=f"own, name the file that registers it in the environment variable {OWN}"):
            read_study(path, data=str(prepared))
        command = [quick_python(), "-m", "fairseq_dsp.cli", "sweep", path, "--data", prepared, "--dry-run"]
        variables = {OWN: "scripts/studies/ablations.py"}
        assert "# relative-k3-s1" in support.run_command([*command, "--results", tmp_path], **variables).stdout
        return
    here = tmp_path / "study.yaml"  # of the same content, but for the texts: the corpus has one test set
    here.write_text(yaml.safe_dump({"extends": str(path), "name": path.stem, "evaluate": {"split": "test"}}))
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["name"] == path.stem
    study = read_study(here, data=str(prepared))
    runs = expand(study, tmp_path)
    assert study.description
    assert len(check_runs(study, runs)) == len(runs) > 3
