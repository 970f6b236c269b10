"""Intervals and significance, against sacrebleu's own paired test, on made-up results."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest

from fairseq_dsp.errors import UserError
from fairseq_dsp.study.results import Results, read_results
from fairseq_dsp.study.significance import bootstrap
from fairseq_dsp.study.tables import table_lines, to_csv, to_latex

WORDS = "one two three four five six seven eight nine ten".split()
REFERENCES = [" ".join(random.Random(i).choices(WORDS, k=8)) for i in range(60)]
RUNS = {  # (method, heads, seed) → how often a word is wrong
    ("base", 12, 1): 0.1, ("base", 12, 2): 0.1, ("joint", 6, 1): 0.3, ("joint", 6, 2): 0.3, ("paper", 6, 1): 0.15,
    ("paper", 6, 2): 0.15, ("paper", 3, 1): 0.2, ("joint", 3, 3): 0.2,
}  # fmt: skip


def translation(errors: float, seed: int) -> list[str]:
    """The references with words replaced."""
    draw = random.Random(f"{errors} {seed}")
    return [" ".join("zero" if draw.random() < errors else w for w in line.split()) for line in REFERENCES]


@pytest.fixture
def results(tmp_path: Path) -> Results:
    """Results of an unpruned model and two methods."""
    data = {"source_lang": "xx", "target_lang": "yy", "lowercase": False, "tokenizer": "none"}
    names = ["-".join(map(str, run)) for run in RUNS]
    study = {"name": "made-up", "description": "", "total": 12, "split": "test", "beam": 1, "data": data, "runs": names}
    study["methods"] = [{"name": name, "method": "joint"} for name in ("joint", "paper")]
    (tmp_path / "study.json").write_text(json.dumps(study))
    (tmp_path / "references.txt").write_text("".join(line + "\n" for line in REFERENCES))
    for name, ((label, heads, seed), errors) in zip(names, RUNS.items(), strict=True):
        text = translation(errors, seed)
        score = {"score": BLEU().corpus_score(text, [REFERENCES]).score, "signature": ""}
        scores = {"bleu": score, "chrf": score, "tokenised_bleu": score, "parameters": 1000, "kept": None}
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "translations.txt").write_text("".join(line + "\n" for line in text))
        result = {"run": name, "label": label, "heads": heads, "seed": seed, "scores": scores, "training_seconds": 1}
        (folder / "result.json").write_text(json.dumps(result))
    return read_results(tmp_path)


def sacrebleu_says(one: tuple[str, int, int], other: tuple[str, int, int]) -> tuple[float, float, str]:
    """Half the interval of *other*, the p-value of their difference, and the signature."""
    texts = [(str(run), translation(RUNS[run], run[2])) for run in (one, other)]
    signatures, scores = PairedTest(texts, {"BLEU": BLEU()}, [REFERENCES], "bs", 1000)()
    return scores["BLEU"][1].ci, scores["BLEU"][1].p_value, str(signatures["BLEU"])


def test_they_are_those_of_sacrebleu(results: Results) -> None:
    found = bootstrap(results)
    for one, other in ((("base", 12, 1), ("joint", 6, 1)), (("paper", 6, 2), ("joint", 6, 2))):
        interval, p_value, signature = sacrebleu_says(one, other)
        name, against = ("-".join(map(str, run)) for run in (other, one))
        compared = found.compare([(name, against)])
        assert compared is not None
        assert (found.interval(name), compared.p_values, found.signature) == (interval, (p_value,), signature)
        assert compared.low < compared.difference < compared.high < 0
        assert compared.significant


def test_a_model_does_not_differ_from_itself(results: Results) -> None:
    compared = bootstrap(results).compare([("base-12-1", "base-12-1")])
    assert compared is not None
    assert (compared.difference, compared.low, compared.high, compared.p_values) == (0, 0, 0, (1.0,))
    assert not compared.significant


def test_the_pairs_of_the_table(results: Results) -> None:
    found = bootstrap(results)
    lines = {(line.row.label, line.row.heads): line for line in table_lines(results, found, "paper")}
    assert lines["base", 12].to_base is lines["base", 12].to_other is None
    assert lines["joint", 6].to_base == found.compare([("joint-6-1", "base-12-1"), ("joint-6-2", "base-12-2")])
    assert lines["joint", 6].to_other == found.compare([("joint-6-1", "paper-6-1"), ("joint-6-2", "paper-6-2")])
    assert lines["paper", 6].to_base is not None
    assert lines["paper", 6].to_other is None
    assert lines["joint", 3].to_base == found.compare([("joint-3-3", "base-12-1")])  # no unpruned model of this seed
    assert lines["joint", 3].to_other is None  # nor one of the other method
    assert all(line.to_other is None for line in table_lines(results, found))
    with pytest.raises(UserError, match="no method papre to compare with: give one of joint, paper"):
        table_lines(results, found, "papre")


def test_the_report_compares(results: Results, dsp: Callable[..., Any]) -> None:
    lines = table_lines(results, bootstrap(results), "paper")
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
    dsp("report", results.folder, "--against", "paper")
    page = (results.folder / "report/report.md").read_text()
    assert "## Against paper, at the same number of heads" in page
    assert f"| joint | 6 | 2 | {compared.difference:+.2f} | {compared.low:+.2f} to {compared.high:+.2f} |" in page
    done = dsp("report", results.folder, "--against", "nothing", check=False)
    assert (done.returncode, "Traceback" in done.stdout) == (1, False)
