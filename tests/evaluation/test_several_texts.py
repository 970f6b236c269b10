"""Several texts that are scored as one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import sacrebleu

from fairseq_dsp.cli import main
from fairseq_dsp.evaluation.prepared import PreparedData


def evaluated(checkpoint: Path, data: Path, split: str, folder: Path) -> tuple[dict[str, Any], list[str]]:
    """What evaluate finds of a split, and its translations."""
    scores, lines = folder / f"{split}.json", folder / f"{split}.txt"
    flags = ["--beam", "1", "--max-len-b", "6", "--json", str(scores), "--translations", str(lines)]
    assert main(["evaluate", str(checkpoint), "--data", str(data), "--split", split, *flags]) == 0
    return json.loads(scores.read_text())[0], lines.read_text().splitlines()


def test_they_are_translated_one_after_the_other(pruned: Path, prepared: Path, tmp_path: Path) -> None:
    (valid, first), (test, second) = (evaluated(pruned, prepared, split, tmp_path) for split in ("valid", "test"))
    both, lines = evaluated(pruned, prepared, "valid,test", tmp_path)
    assert lines == first + second
    assert both["sentences"] == valid["sentences"] + test["sentences"] == 40
    assert both["stopped_at_limit"] == valid["stopped_at_limit"] + test["stopped_at_limit"]
    data = PreparedData.read(prepared)
    references = [*data.references("valid"), *data.references("test")]
    assert both["bleu"]["score"] == pytest.approx(sacrebleu.corpus_bleu(lines, [references]).score, abs=1e-4)
    assert both["sentences_per_second"] > 0
    assert both["ceiling"] is None


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("test,other", "there is no text called 'other' in"),
        ("test,", "there is no text called '' in"),
        ("test,valid,test", "the split test,valid,test names a text twice: give each text once"),
    ],
)
def test_splits_that_are_none(split: str, message: str, pruned: Path, prepared: Path, capsys: Any) -> None:
    assert main(["evaluate", str(pruned), "--data", str(prepared), "--split", split]) == 1
    assert message in capsys.readouterr().err


def test_references_are_of_one_text(pruned: Path, prepared: Path, capsys: Any) -> None:
    given = ["--references", str(prepared / "raw/test.yy")]
    assert main(["evaluate", str(pruned), "--data", str(prepared), "--split", "test,valid", *given]) == 1
    assert "the references given are of one text, but the split test,valid names several" in capsys.readouterr().err


def test_their_subwords_are_one_text(prepared: Path, tmp_path: Path) -> None:
    shutil.copytree(prepared, tmp_path / "data")
    (tmp_path / "data/bpe").mkdir()
    for part, line in (("valid", "ba@@ di"), ("test", "no")):
        (tmp_path / f"data/bpe/{part}.xx").write_text(f"{line}\n", encoding="utf-8")
    assert PreparedData.read(tmp_path / "data").subwords("valid,test", "xx") == [["ba@@", "di"], ["no"]]
