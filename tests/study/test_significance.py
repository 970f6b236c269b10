"""Intervals and significance, against sacrebleu's own paired test, on made-up results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_up import REFERENCES, RUNS, name_of, translation
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from fairseq_dsp.errors import UserError
from fairseq_dsp.study.results import Results
from fairseq_dsp.study.significance import bootstrap
from fairseq_dsp.study.tables import table_lines, to_csv, to_latex


def sacrebleu_says(one: tuple[str, int, int], other: tuple[str, int, int]) -> tuple[float, float, str]:
    """Half the interval of *other*, the p-value of their difference, and the signature."""
    texts = [(str(run), translation(RUNS[run], run[2])) for run in (one, other)]
    signatures, scores = PairedTest(texts, {"BLEU": BLEU()}, [REFERENCES], "bs", 1000)()
    return scores["BLEU"][1].ci, scores["BLEU"][1].p_value, str(signatures["BLEU"])


def test_they_are_those_of_sacrebleu(made_up: Results) -> None:
    found = bootstrap(made_up)
    for one, other in ((("base", 12, 1), ("joint", 6, 1)), (("paper", 6, 2), ("joint", 6, 2))):
        interval, p_value, signature = sacrebleu_says(one, other)
        name, against = name_of(other), name_of(one)
        compared = found.compare([(name, against)])
        assert compared is not None
        assert (found.interval(name), compared.p_values, found.signature) == (interval, (p_value,), signature)
        assert compared.low < compared.difference < compared.high < 0
        assert compared.significant


def test_a_model_does_not_differ_from_itself(made_up: Results) -> None:
    compared = bootstrap(made_up).compare([("base-s1", "base-s1")])
    assert compared is not None
    assert (compared.difference, compared.low, compared.high, compared.p_values) == (0, 0, 0, (1.0,))
    assert not compared.significant


def test_the_pairs_of_the_table(made_up: Results) -> None:
    found = bootstrap(made_up)
    lines = {(line.row.label, line.row.heads): line for line in table_lines(made_up, found, "paper")}
    assert lines["base", 12].to_base is lines["base", 12].to_other is None
    assert lines["joint", 6].to_base == found.compare([("joint-k6-s1", "base-s1"), ("joint-k6-s2", "base-s2")])
    assert lines["joint", 6].to_other == found.compare([("joint-k6-s1", "paper-k6-s1"), ("joint-k6-s2", "paper-k6-s2")])
    assert lines["paper", 6].to_base is not None
    assert lines["paper", 6].to_other is None
    assert lines["joint", 3].to_base == found.compare([("joint-k3-s3", "base-s1")])  # no unpruned model of this seed
    assert lines["joint", 3].to_other is None  # nor one of the other method
    assert all(line.to_other is None for line in table_lines(made_up, found))
    with pytest.raises(UserError, match="no method papre to compare with: give one of joint, paper"):
        table_lines(made_up, found, "papre")


def test_the_report_compares(made_up: Results, tmp_path: Path, dsp: Callable[..., Any]) -> None:
    lines = table_lines(made_up, bootstrap(made_up), "paper")
    header, _, joint, *_ = (line.split(",") for line in to_csv(lines, "paper").splitlines())
    row = dict(zip(header, joint, strict=True))
    compared = lines[1].to_other
    assert compared is not None
    assert (row["method"], row["heads"], row["bleu_to_paper_difference"]) == (
        "joint",
        "6",
        f"{compared.difference:.4f}",
    )
    assert (row["bleu_to_paper_difference_low"], row["bleu_difference_high"][0]) == (f"{compared.low:.4f}", "-")
    table = to_latex(lines, "made up", "paper").splitlines()
    # as many columns in every line as there are letters r in {lrrr…}, beside that of tabular
    assert {line.count("&") for line in table if "&" in line} == {table[3].count("r") - 1}
    dsp("report", made_up.folder, "--against", "paper", "--out", tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "## Against paper, at the same number of heads" in page
    assert f"| joint | 6 | 2 | {compared.difference:+.2f} | {compared.low:+.2f} to {compared.high:+.2f} |" in page
    done = dsp("report", made_up.folder, "--against", "nothing", check=False)
    assert (done.returncode, "Traceback" in done.stdout) == (1, False)
