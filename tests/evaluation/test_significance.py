"""Intervals and significance: against sacrebleu and scipy where they say the same, and in simulated studies."""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_up import REFERENCES, RUNS, name_of, translation
from sacrebleu.metrics import BLEU
from sacrebleu.significance import PairedTest, _bootstrap_resample
from scipy import stats
from simulated import Setting, error_rate, rates

from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation.significance import Bootstrap, Comparison, Estimate, holm
from fairseq_dsp.report.tables import cells, table_lines, to_csv, to_latex
from fairseq_dsp.study.results import Results

MANY = 10**9  # sentences, so many that Student's distribution of them is the normal one


def drawn(sentences: float, scores: dict[str, float], *, own: float = 0.0) -> Bootstrap:
    """Runs with these scores, whose resampled scores have the variances *sentences* in common and *own* alone."""
    draw = np.random.default_rng(7).standard_normal((len(scores) + 1, 1000))
    # uncorrelated to the last digit, with variance 1
    draw = np.linalg.qr((draw - draw.mean(1, keepdims=True)).T)[0].T * np.sqrt(999)
    common, *alone = draw
    resampled = [np.sqrt(sentences) * common + np.sqrt(own) * one for one in alone]
    return Bootstrap(scores, dict(zip(scores, resampled, strict=True)), MANY)


def test_the_resamples_are_those_of_sacrebleu(made_up: Results) -> None:
    found = made_up.bootstrap()
    texts = [(str(run), translation(RUNS[run], run[2])) for run in (("base", 12, 1), ("joint", 6, 1))]
    signatures, scores = PairedTest(texts, {"BLEU": BLEU()}, [REFERENCES], "bs", 1000)()
    assert found.signature == str(signatures["BLEU"])
    assert found.scores["joint-k6-s1"] == scores["BLEU"][1].score
    assert found.sentences == len(REFERENCES)
    for run, errors in RUNS.items():
        metric = BLEU()
        counts = metric._extract_corpus_statistics(translation(errors, run[2]), [REFERENCES])
        _, resampled = _bootstrap_resample(counts, metric, 1000)
        assert found.resampled[name_of(run)].tolist() == [one.score for one in resampled]


def test_one_run_has_an_interval_over_the_sentences(made_up: Results) -> None:
    found = made_up.bootstrap()
    one = found.mean({1: ["joint-k6-s1"]})
    m = len(REFERENCES)
    expected = stats.t.ppf(0.975, m - 1) * found.resampled["joint-k6-s1"].std(ddof=1) * np.sqrt(m / (m - 1))
    assert one.half == pytest.approx(expected)
    assert not one.covers_seeds
    texts = [(str(run), translation(RUNS[run], run[2])) for run in (("base", 12, 1), ("joint", 6, 1))]
    _, scores = PairedTest(texts, {"BLEU": BLEU()}, [REFERENCES], "bs", 1000)()
    assert one.half == pytest.approx(scores["BLEU"][1].ci, rel=0.1)  # of percentiles


SCORES = {1: 30.2, 2: 29.1, 3: 31.4, 4: 30.0}
BASES = {1: 30.9, 2: 30.1, 3: 31.6, 4: 31.2}


def runs(letter: str, scores: dict[int, float]) -> tuple[dict[int, list[str]], dict[str, float]]:
    """The names of a method's runs by seed, and their scores by name."""
    return {s: [f"{letter}{s}"] for s in scores}, {f"{letter}{s}": score for s, score in scores.items()}


@pytest.mark.parametrize("seeds", [2, 3, 4])
def test_where_only_the_seeds_vary_it_is_students_test(seeds: int) -> None:
    ones, others = (dict(list(scores.items())[:seeds]) for scores in (SCORES, BASES))
    (a, a_scores), (b, b_scores) = runs("a", ones), runs("b", others)
    found = drawn(0.0, a_scores | b_scores)
    compared = found.compare(a, b)
    student = stats.ttest_rel(list(ones.values()), list(others.values()))
    assert compared is not None
    assert compared.p_value == pytest.approx(student.pvalue, rel=1e-6)
    interval = student.confidence_interval()
    assert (compared.difference.low, compared.difference.high) == pytest.approx((interval.low, interval.high))
    assert (compared.pairs, compared.difference.covers_seeds) == (seeds, True)
    mean = found.mean(a)
    alone = stats.ttest_1samp(list(ones.values()), 0).confidence_interval()
    assert (mean.low, mean.high) == pytest.approx((alone.low, alone.high))
    # of other seeds, it is Welch's test of two samples
    apart = found.compare(a, {seed + 10: run for seed, run in b.items()})
    welch = stats.ttest_ind(list(ones.values()), list(others.values()), equal_var=False)
    assert apart is not None
    assert (apart.pairs, apart.p_value) == (0, pytest.approx(welch.pvalue, rel=1e-6))


def test_the_sentences_common_to_the_seeds_add_to_the_variance() -> None:
    names, scores = runs("a", SCORES)
    seeds = np.var(list(SCORES.values()), ddof=1) / 4
    # the resamples of a run vary by 0.5 in common and by 0.4 alone, which the differences of the scores hold already
    for own in (0.0, 0.4):
        found = drawn(0.5, scores, own=own)
        share = seeds**2 / (0.5**2 + 2 * (2 / 3) * 0.5 * seeds + seeds**2)
        q = np.sqrt((1 - share) * stats.norm.ppf(0.975) ** 2 + share * stats.t.ppf(0.975, 3) ** 2)
        assert found.mean(names).half == pytest.approx(q * np.sqrt(0.5 + seeds), rel=1e-6)
    # the same runs without a spread of the seeds: the sentences alone
    alike = drawn(0.5, dict.fromkeys(scores, 30.0)).mean(names)
    assert alike.half == pytest.approx(stats.norm.ppf(0.975) * np.sqrt(0.5), rel=1e-6)


def test_p_and_the_interval_agree() -> None:
    draw = np.random.default_rng(3)
    for n in (1, 2, 3, 5):
        for _ in range(20):
            scores = dict(enumerate(draw.normal(0.5, 1.0, n)))
            names, named = runs("a", scores)
            found = drawn(draw.uniform(0, 0.5), named, own=0.1)
            bases, of_bases = runs("b", dict.fromkeys(scores, 0.0))
            zeros = dict.fromkeys(of_bases, np.zeros(1000))
            more = Bootstrap(found.scores | of_bases, found.resampled | zeros, MANY)
            compared = more.compare(names, bases)
            assert compared is not None
            one = compared.difference
            assert (compared.p_value < 0.05) == (not one.low <= 0 <= one.high)
            assert compared.p_value == pytest.approx(more.compare(bases, names).p_value)  # type: ignore[union-attr]


def test_a_model_does_not_differ_from_itself(made_up: Results) -> None:
    compared = made_up.bootstrap().compare({1: ["base-s1"]}, {1: ["base-s1"]})
    assert compared == Comparison(Estimate(0.0, 0.0, covers_seeds=False), 1, 1.0, 1.0)


def test_a_single_sentence_shows_nothing() -> None:
    found = Bootstrap({"a": 90.0, "b": 10.0}, {"a": np.full(1000, 90.0), "b": np.full(1000, 10.0)}, 1)
    compared = found.compare({1: ["a"]}, {1: ["b"]})
    assert compared is not None
    assert (compared.p_value, compared.difference.low, compared.difference.high) == (1.0, -np.inf, np.inf)


def test_holm() -> None:
    given = [Comparison(Estimate(0, 1, covers_seeds=True), 1, p, p) for p in (0.01, 0.04, 0.03, 0.005, 0.9)]
    corrected = [one.p_corrected for one in holm(given)]
    assert corrected == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.9])  # as R's p.adjust(p, "holm")
    assert [one.significant for one in holm(given)] == [True, False, False, True, False]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("seeds", "low", "high"), [(2, 0.033, 0.065), (3, 0.040, 0.053), (4, 0.044, 0.051), (5, 0.046, 0.051)]
)
def test_the_error_rate_is_5_percent_whatever_varies(seeds: int, low: float, high: float) -> None:
    found = [error_rate(seeds, ratio) for ratio in (0, 0.01, 0.1, 0.3, 1, 3, 10, 30, 100, 1e4)]
    assert low < min(found) <= max(found) < high


@pytest.mark.parametrize(
    ("setting", "seeds"), [(Setting(0, 0, 0.35), 1), (Setting(0.4, 0, 0.35), 3), (Setting(0.4, 0.35, 0.1), 3)]
)
def test_errors_in_simulated_studies(setting: Setting, seeds: int) -> None:
    """The whole of it is tests/long/error_rates.py."""
    found = rates(setting, seeds, methods=3, count=120)
    assert 0.02 < found.significant < 0.08
    assert found.without_0 == found.significant
    assert found.any_star < 0.09
    assert 0.01 < found.wrong_means < 0.09


def test_the_pairs_of_the_table(made_up: Results) -> None:
    found = made_up.bootstrap()
    lines = {(line.row.label, line.row.heads): line for line in table_lines(made_up, found, "paper")}
    bases, joint = ({seed: [f"{name}-s{seed}"] for seed in (1, 2)} for name in ("base", "joint-k6"))
    paper = {seed: [f"paper-k6-s{seed}"] for seed in (1, 2)}

    def same(one: Comparison | None, other: Comparison | None) -> bool:
        assert one is not None
        assert other is not None
        return (one.difference, one.pairs, one.p_value) == (other.difference, other.pairs, other.p_value)

    assert lines["base", 12].to_base is lines["base", 12].to_other is None
    assert same(lines["joint", 6].to_base, found.compare(joint, bases))
    assert same(lines["joint", 6].to_other, found.compare(joint, paper))
    assert lines["paper", 6].to_other is None
    # neither an unpruned model of this seed nor a run of the other method
    for line in (lines["joint", 3].to_base, lines["joint", 3].to_other):
        assert line is not None
        assert line.pairs == 0
    assert lines["joint", 3].to_base.difference.value == pytest.approx(  # type: ignore[union-attr]
        found.scores["joint-k3-s3"] - (found.scores["base-s1"] + found.scores["base-s2"]) / 2
    )
    # only the seeds that both have
    fewer = Results(made_up.folder, made_up.study, [run for run in made_up.runs if run["run"] != "base-s2"])
    one_pair = table_lines(fewer, found)[1].to_base
    assert same(one_pair, found.compare({1: ["joint-k6-s1"]}, {1: ["base-s1"]}))
    compared = [line.to_base for line in lines.values() if line.to_base]
    assert [one.p_corrected for one in compared] == [one.p_corrected for one in holm(compared)]
    assert all(line.to_other is None for line in table_lines(made_up, found))
    with pytest.raises(UserError, match="no method papre to compare with: give one of joint, paper"):
        table_lines(made_up, found, "papre")


def test_two_trainings_with_one_seed_are_one_draw_of_it(made_up: Results) -> None:
    """As of voita with two penalties that keep as many heads."""
    again = [{**run, "label": "joint", "heads": 6} if run["label"] == "paper" else run for run in made_up.runs]
    results = Results(made_up.folder, made_up.study, again)
    found = results.bootstrap()
    row = next(row for row in results.rows() if row.label == "joint" and row.heads == 6)
    assert {seed: len(names) for seed, names in row.seeds.items()} == {1: 3, 2: 2}
    means = [np.mean([found.scores[name] for name in names]) for names in row.seeds.values()]
    line = table_lines(results, found)[1]
    assert cells(line)[2] == "2"
    assert row.spread("bleu") == pytest.approx(np.std(means, ddof=1), abs=1e-3)
    assert line.score.value == pytest.approx(np.mean(means))
    assert line.to_base is not None
    assert line.to_base.pairs == 2


def test_the_table_says_what_it_covers(made_up: Results) -> None:
    lines = table_lines(made_up, made_up.bootstrap())
    joint_6, joint_3, _, paper_3 = map(cells, lines[1:])
    assert (joint_6[6][-1].isdigit(), joint_6[8][-1].isdigit(), joint_6[9]) == (True, True, "2")
    assert (joint_3[6][-1], joint_3[8][-1], joint_3[9]) == ("†", "†", "unpaired")
    assert (paper_3[6][-1], paper_3[8][-1], paper_3[9]) == ("†", "†", "1")
    assert r"^\dagger" in to_latex(lines, "made up")
    read = list(csv.DictReader(to_csv(lines).splitlines()))
    assert [row["bleu_ci95_covers"] for row in read] == ["seeds and sentences"] * 2 + ["sentences"] + [
        "seeds and sentences", "sentences"]  # fmt: skip
    assert [row["bleu_pairs"] for row in read] == ["", "2", "0", "2", "1"]


def test_the_report_compares(made_up: Results, tmp_path: Path, dsp: Callable[..., Any]) -> None:
    lines = table_lines(made_up, made_up.bootstrap(), "paper")
    row = list(csv.DictReader(to_csv(lines, "paper").splitlines()))[1]
    compared = lines[1].to_other
    assert compared is not None
    assert (row["method"], row["heads"], row["bleu_to_paper_difference"]) == (
        "joint",
        "6",
        f"{compared.difference.value:.4f}",
    )
    one = compared.difference
    assert (row["bleu_to_paper_difference_low"], row["bleu_difference_high"][0]) == (f"{one.low:.4f}", "-")
    assert row["bleu_to_paper_p_value_holm"] == f"{compared.p_corrected:.4g}"
    table = to_latex(lines, "made up", "paper").splitlines()
    # as many columns in every line as there are letters r in {lrrr…}, beside that of tabular
    assert {line.count("&") for line in table if "&" in line} == {table[3].count("r") - 1}
    seeds = [line.split(" & ")[1:3] for line in table if "&" in line]
    assert seeds == [["heads", "seeds"], ["12", "2"], ["6", "2"], ["3", "1"], ["6", "2"], ["3", "1"]]
    assert table[0].startswith("% needs")  # and nothing is missing
    dsp("report", made_up.folder, "--against", "paper", "--out", tmp_path)
    page = (tmp_path / "report.md").read_text()
    assert "## Against DSP, released settings (Li et al. 2021), at the same number of heads" in page
    row_of = f"6 | {one.value:+.2f} | {one.low:+.2f} to {one.high:+.2f} | 2 | {compared.p_value:.3f} |"
    assert f"| exact subsets | {row_of}" in page
    assert "corrected for the 2 comparisons of this table" in page
    done = dsp("report", made_up.folder, "--against", "nothing", check=False)
    assert (done.returncode, "Traceback" in done.stdout) == (1, False)


def test_a_given_model_is_no_sample_of_seeds(made_up: Results) -> None:
    """All seeds are compared with the one model, whose own interval covers the sentences alone."""
    runs = [run for run in made_up.runs if run["run"] != "base-s2"]
    given = replace(made_up, runs=runs, study=made_up.study | {"given_base": True})
    lines = {(line.row.label, line.row.heads): line for line in table_lines(given, given.bootstrap())}
    assert not lines["base", 12].score.covers_seeds
    found = lines["joint", 6].to_base
    assert found
    assert found.pairs == 2
    assert found.difference.covers_seeds
    scores = {run["run"]: run["scores"]["bleu"]["score"] for run in runs}
    mean = (scores["joint-k6-s1"] + scores["joint-k6-s2"]) / 2
    assert found.difference.value == pytest.approx(mean - scores["base-s1"])
