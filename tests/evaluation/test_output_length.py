"""The limit of a translation's length: the options, who reached it, and numbers that are none."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import support
from made_up import RUNS, name_of

from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError
from fairseq_dsp.report.pages import write_report
from fairseq_dsp.study.results import Results, read_results, summary_table
from fairseq_dsp.study.runs import expand
from fairseq_dsp.study.study_file import read_study


@pytest.fixture(scope="module")
def talker(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt nothing but words, and so ends few sentences."""
    folder = tmp_path_factory.mktemp("talker")
    flags = ["--cpu", "--max-update", 2]
    support.run_fairseq("train", *support.tiny_train_args(tiny_data, folder, *flags, arch="transformer_dsp"))
    return folder / "checkpoint_last.pt"


@pytest.mark.parametrize(("a", "b"), [(0.0, 7), (0.5, 3)])
def test_translations_end_at_the_limit_and_are_counted(
    a: float, b: int, talker: Path, prepared: Path, tmp_path: Path, capsys: Any
) -> None:
    scores = tmp_path / "out.json"
    # a sentence at a time: fairseq takes the length of the longest source of the batch
    flags = ["--max-len-a", a, "--max-len-b", b, "--max-tokens", 12, "--beam", 1]
    assert main(list(map(str, ["evaluate", talker, "--data", prepared, *flags, "--json", scores]))) == 0
    (result,) = json.loads(scores.read_text())
    # fairseq's own command prints a number a subword, the end of the sentence included
    args = [prepared / "data-bin", "--user-dir", support.PLUGIN, "--path", talker, "--cpu", *flags]
    printed = support.run_fairseq("generate", *args, "--required-batch-size-multiple", 1).stdout
    found = dict(re.findall(r"^([SP]-\d+)\t(.*)$", printed, re.MULTILINE))
    limits = {i: int(a * (len(found[f"S-{i}"].split()) + 1) + b) for i in range(20)}
    lengths = {i: len(found[f"P-{i}"].split()) - 1 for i in range(20)}
    assert all(lengths[i] <= limits[i] for i in range(20))
    stopped = sum(lengths[i] == limits[i] for i in range(20))
    assert stopped > 0
    assert (result["stopped_at_limit"], result["max_len_a"], result["max_len_b"]) == (stopped, a, b)
    assert f"  stopped         {stopped:6}   translations at the limit of their length" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lenpen", "nan"], "--lenpen is nan, but a finite number is expected"),
        (["--lenpen=-inf"], "--lenpen is -inf, but a finite number"),
        (["--max-len-a", "nan"], "--max-len-a is nan, but it must be a finite number, 0 or more"),
        (["--max-len-a", "inf"], "--max-len-a is inf"),
        (["--max-len-a=-1"], "--max-len-a is -1.0"),
        (["--max-len-b", "0"], "--max-len-b is 0, but it must be 1 or more"),
    ],
)
def test_numbers_that_are_none(arguments: list[str], message: str, talker: Path, prepared: Path, capsys: Any) -> None:
    assert main(["evaluate", str(talker), "--data", str(prepared), *arguments]) == 1
    told = capsys.readouterr().err
    assert message in told
    assert told.count("\n") == 1


def test_a_study_says_how_long_a_translation_may_be(write_study: Callable[..., Path], tmp_path: Path) -> None:
    usual = expand(read_study(write_study()), tmp_path)[0]
    # an early version had no such key: its results stay usable
    assert "max_len_a" not in usual.identity
    assert "max_len_b" not in usual.identity
    limits = {"max_len_a": 1.5, "max-len-b": 20}
    changed = expand(read_study(write_study(evaluate=limits)), tmp_path)[0]
    assert (changed.identity["max_len_a"], changed.identity["max_len_b"]) == (1.5, 20)
    command = list(changed.steps[-1].command)
    assert command[command.index("--max-len-a") + 1] == "1.5"
    assert command[command.index("--max-len-b") + 1] == "20"
    for evaluate, message in (
        ({"max-len-a": float("nan")}, "max-len-a holds nan, but numbers from 0 to 1000"),
        ({"max-len-b": 0}, "max-len-b holds 0, but whole numbers from 1"),
        ({"lenpen": float("nan")}, "lenpen holds nan"),
        ({"max-len": 3}, "unknown key max-len, did you mean max-len-"),
    ):
        with pytest.raises(UserError, match=message):
            read_study(write_study(evaluate=evaluate))
    with pytest.raises(UserError, match="penalties of voita holds inf"):
        read_study(write_study(methods=[{"method": "voita", "penalties": [float("inf")]}]))
    (voita,) = read_study(write_study(methods=[{"method": "voita", "penalties": ["1e-3"]}])).methods  # as YAML reads it
    assert voita.penalties == (0.001,)


def test_the_report_names_what_was_stopped(made_up: Results, tmp_path: Path) -> None:
    results = read_results(made_up.folder)
    for run in results.runs:
        run["scores"] |= {"sentences": 60.0, "stopped_at_limit": 2.0 if run["label"] == "paper" else 0.0}
    told = (
        "Translations that end at the limit of their length, perhaps cut off (max-len-b): 4 of 120 of DSP, released "
        "settings (Li et al. 2021) with 6 heads; 2 of 60 of DSP, released settings (Li et al. 2021) with 3 heads."
    )
    assert {name_of(run) for run in RUNS} == {run["run"] for run in results.runs}
    assert told in summary_table(results)
    write_report(results, tmp_path)
    assert told in (tmp_path / "report.md").read_text()
    assert "limit of their length" not in summary_table(made_up)
