"""What a data-bin folder says, and the command that translates with a model, as it is printed."""

from __future__ import annotations

import json
import shlex
import subprocess
from argparse import Namespace
from pathlib import Path

import pytest

from fairseq_dsp.errors import UserError
from fairseq_dsp.removal.data_bin import (
    position_flags,
    post_process_flags,
    preparation,
    subwords_of,
    translating,
)


def test_models_behind_a_colon_are_linked_each_under_a_name_of_its_own(tmp_path: Path) -> None:
    """fairseq takes a colon for the end of one model and the beginning of another."""
    folder, here = tmp_path / "at 12:30", tmp_path / "here"
    folder.mkdir()
    here.mkdir()
    for name in ("compact-k6.pt", "compact-k3.pt"):
        (folder / name).write_text(name)
        link, command = translating("bin", folder / name, [], "sentencepiece").split(" && ")
        subprocess.run(link, shell=True, cwd=here, check=True)
        assert (here / name).read_text() == name
        assert shlex.split(command)[:2] == ["fairseq-generate", "bin"]
        assert f"--path {name} " in command
    words = shlex.split(translating("bin", Path("a.pt"), ["--source-lang", "zh-Hant", "--target-lang", "en"], None))
    assert words[:6] == ["fairseq-generate", "bin", "--source-lang", "zh-Hant", "--target-lang", "en"]
    assert words[-4:] == ["--path", "a.pt", "--beam", "5"]


def test_sources_are_cut_where_a_model_reads_fewer_subwords() -> None:
    def flags(**model: int) -> list[str]:
        return position_flags({"cfg": {"model": Namespace(**model)}})

    assert flags() == flags(max_source_positions=1024, max_target_positions=1024) == position_flags({}) == []
    cut = ["--truncate-source", "--max-source-positions", "24", "--max-target-positions", "1024"]
    assert flags(max_source_positions=24) == cut


def test_the_preparation_of_several_folders_is_that_of_the_first(tmp_path: Path) -> None:
    """As fairseq takes them, with colons between; a folder may have a colon in its own name."""
    for parent in ("plain", "at 12:30"):
        folder = tmp_path / parent / "data-bin"
        folder.mkdir(parents=True)
        (folder.parent / "prepare.json").write_text(json.dumps({"bpe": "sentencepiece", "tokenizer": parent}))
        assert preparation(folder)["tokenizer"] == parent
    assert preparation(f"{tmp_path}/plain/data-bin:{tmp_path}/plain/data-bin1")["tokenizer"] == "plain"
    assert preparation(tmp_path / "elsewhere") == {}
    assert post_process_flags(subwords_of(tmp_path / "plain/data-bin")) == ["--post-process", "sentencepiece"]
    assert post_process_flags(subwords_of(tmp_path / "elsewhere")) == []
    (tmp_path / "plain/prepare.json").write_text(json.dumps({"tokenizer": "plain", "data_bin": "data-bin"}))
    (tmp_path / "plain/other-bin").mkdir()
    assert preparation(tmp_path / "plain/data-bin")["tokenizer"] == "plain"
    assert preparation(tmp_path / "plain/other-bin") == {}  # somebody's own, beside it


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_preparation(tmp_path: Path, content: str) -> None:
    (tmp_path / "prepare.json").write_text(content)
    with pytest.raises(
        UserError, match=r"prepare\.json (is not JSON|holds no JSON object).*: prepare the corpus again"
    ):
        preparation(tmp_path)
