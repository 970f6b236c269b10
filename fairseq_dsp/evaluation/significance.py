"""Confidence intervals and tests of BLEU or accuracy, over what may come out differently: sentences and seeds.

A method's BLEU is the mean over n trainings of different seeds, all scored on the same m test sentences. Its variance
is c + v (two crossed random factors: Searle, Casella & McCulloch 1992, *Variance Components*, chapter 4; for machine
translation: Clark et al. 2011, *Better Hypothesis Testing for Statistical Machine Translation*):

- c, of the sentences, as far as all seeds find the same ones hard: the mean covariance of two runs' BLEU over
  bootstrap resamples of the sentences (Koehn 2004, *Statistical Significance Tests for Machine Translation
  Evaluation*), the same resamples for all runs;
- v = s² / n, of the seeds, where s² is the variance of the n scores; it holds what the sentences do to single runs.

The difference of two methods is the mean over pairs of runs of the same seed, with c and v of the pairs' differences.
With one run, or one pair, nothing is known of the seeds: c is its whole bootstrap variance, v is 0, and the interval
covers the sentences only.

The interval is ± q √(c + v). With c alone q would be Student's quantile of m − 1 degrees of freedom, with v alone of
ν = n − 1; in between

    q² = (1 − w) t²(m − 1) + w t²(ν)    with    w = [v² / (c² + 2 (1 − 1/ν) c v + v²)] ^ (1.96 / z)^(2/ν)

where z is the normal quantile of the level, 1.96 for 95%. For many seeds this is the first term of Welch's series
(1947, *Biometrika* 34:28). For few, where the usual degrees of freedom (Satterthwaite 1946) give intervals that are too
short, the weights were chosen so that intervals cover what they should, whatever c / v is, and that p-values hold at
the small levels at which :func:`holm` looks: ``tests/long/error_rates.py`` measures both. A p-value is the level at
which the interval would end at 0, so that p < 0.05 where the 95% interval leaves 0 out.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

Runs = Mapping[int, Sequence[str]]
"""The names of a method's runs, by seed: several of one seed where several of its trainings keep as many heads."""

_Draw = list[tuple[float, str]]
"""What one seed gives: a weighted sum of runs."""

SAMPLES = 1000
LEVEL = 0.05  # of significance


@dataclass(frozen=True)
class Estimate:
    """A mean over runs, or over pairs of runs, with its 95% confidence interval.

    :param value: the mean.
    :param half: half the width of the interval.
    :param covers_seeds: whether the interval covers seeds and test sentences, not the sentences alone.
    """

    value: float
    half: float
    covers_seeds: bool

    @property
    def low(self) -> float:
        """The lower end of the interval."""
        return self.value - self.half

    @property
    def high(self) -> float:
        """Its upper end."""
        return self.value + self.half


@dataclass(frozen=True)
class Comparison:
    """A method against another.

    :param difference: of the scores.
    :param pairs: how many pairs of the same seed it is the mean of; 0 if no seed is common to both, and it is the
        difference of the means over all seeds.
    :param p_value: two-sided, of the hypothesis that both are as good.
    :param p_corrected: the same, corrected for the number of comparisons in the table; see :func:`holm`.
    """

    difference: Estimate
    pairs: int
    p_value: float
    p_corrected: float

    @property
    def significant(self) -> bool:
        """Whether the methods differ significantly, in a table of so many comparisons."""
        return self.p_corrected < LEVEL


@dataclass(frozen=True)
class Bootstrap:
    """The score of all runs on the same resamples of the test sentences, which is what makes comparisons paired.

    :param scores: for each run by name its score, such as BLEU.
    :param resampled: for each run its score on each resample. *Shape:* (samples)
    :param sentences: their number, m.
    :param signature: sacrebleu's, of the test.
    """

    scores: dict[str, float]
    resampled: dict[str, Array]
    sentences: int
    signature: str = ""

    def mean(self, runs: Runs) -> Estimate:
        """The mean score over the seeds of a method."""
        return self._estimate([[_draw(+1, names) for names in runs.values()]])[0]

    def compare(self, ones: Runs, others: Runs) -> Comparison | None:
        """Compare two methods; None if one has no run.

        :param others: those whose score is subtracted.
        """
        if not ones or not others:
            return None
        seeds = sorted(ones.keys() & others.keys())
        if seeds:
            groups = [[_draw(+1, ones[seed]) + _draw(-1, others[seed]) for seed in seeds]]
        else:
            groups = [[_draw(sign, names) for names in runs.values()] for sign, runs in ((+1, ones), (-1, others))]
        estimate, p_value = self._estimate(groups)
        return Comparison(estimate, len(seeds), p_value, p_value)

    def _estimate(self, groups: Sequence[Sequence[_Draw]]) -> tuple[Estimate, float]:
        """A sum of means with its interval, and the p-value of its being 0.

        :param groups: for each mean the draws of a seed it is the mean of.
        """
        import numpy as np

        def of(draws: Sequence[_Draw], values: Mapping[str, Any]) -> Array:
            return np.array([sum(weight * values[run] for weight, run in draw) for draw in draws])

        scores = [of(draws, self.scores) for draws in groups]
        value = float(sum(one.mean() for one in scores))
        samples = np.concatenate([of(draws, self.resampled) for draws in groups])
        covariance = np.atleast_2d(np.cov(samples)) * self.sentences / max(1, self.sentences - 1)
        cuts = np.cumsum([len(one) for one in scores])[:-1]
        blocks = [np.split(rows, cuts, axis=1) for rows in np.split(covariance, cuts)]
        if any(len(one) == 1 for one in scores):
            whole = sum(float(block.mean()) for row in blocks for block in row)
            return _interval(value, whole, 0.0, math.inf, self.sentences)
        sentences = 0.0
        for i, row in enumerate(blocks):
            for j, block in enumerate(row):
                # two draws of a group, never one with itself: what is a draw's own is the seeds' part
                own = np.trace(block) if i == j else 0.0
                sentences += float((block.sum() - own) / (block.size - (len(block) if i == j else 0)))
        parts = [(float(one.var(ddof=1)) / len(one), len(one) - 1) for one in scores]
        seeds = sum(part for part, _ in parts)
        freedom = seeds**2 / sum(part**2 / degrees for part, degrees in parts) if seeds else math.inf
        return _interval(value, max(0.0, sentences), seeds, freedom, self.sentences, covers_seeds=True)


def _draw(sign: int, names: Sequence[str]) -> _Draw:
    """The mean of the runs of one seed: they are no independent draws of one."""
    return [(sign / len(names), name) for name in names]


def _interval(
    value: float, sentences: float, seeds: float, freedom: float, count: int, *, covers_seeds: bool = False
) -> tuple[Estimate, float]:
    """The interval and the p-value of the module's formula; the parameters are those of :func:`quantile`."""
    from scipy.optimize import brentq

    error = math.sqrt(sentences + seeds)
    if count < 2 or not error:
        half = math.inf if count < 2 else 0.0
        return Estimate(value, half, covers_seeds), float(count < 2 or not value)

    def outside(log_level: float) -> float:
        return quantile(math.exp(log_level), sentences, seeds, freedom, count) * error - abs(value)

    least = math.log(1e-12)
    p_value = 1e-12 if outside(least) <= 0 else math.exp(brentq(outside, least, 0.0, xtol=1e-9))
    return Estimate(value, quantile(LEVEL, sentences, seeds, freedom, count) * error, covers_seeds), p_value


def quantile(level: float, sentences: float, seeds: float, freedom: float, count: int) -> float:
    """Return the module's q, for two-sided intervals of 1 − *level*.

    :param sentences: c.
    :param seeds: v.
    :param freedom: ν, the degrees of freedom of v.
    :param count: m, the number of sentences.
    """
    from scipy.special import ndtri, stdtrit  # the normal and Student's quantiles

    square = float(stdtrit(count - 1, level / 2)) ** 2
    if seeds:
        weight = seeds**2 / (sentences**2 + 2 * (1 - 1 / freedom) * sentences * seeds + seeds**2)
        power = ndtri(LEVEL / 2) / min(ndtri(level / 2), -1e-9)
        square += weight ** (power ** (2 / freedom)) * (float(stdtrit(freedom, level / 2)) ** 2 - square)
    return math.sqrt(square)


def holm(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Correct the p-values of a table's comparisons for their number (Holm 1979, *Scand. J. Statist.* 6:65).

    Where nothing differs, the chance that any corrected p-value is below 0.05 is 5% at most.
    """
    corrected = [1.0] * len(comparisons)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(comparisons)), key=lambda i: comparisons[i].p_value)):
        largest = max(largest, min(1.0, (len(comparisons) - rank) * comparisons[i].p_value))
        corrected[i] = largest
    return [dataclasses.replace(one, p_corrected=p) for one, p in zip(comparisons, corrected, strict=True)]


def bootstrap(metric: Any, references: Sequence[str], translations: Mapping[str, Sequence[str]]) -> Bootstrap:
    """Resample the test sentences; see `resample`.

    :param metric: sacrebleu's BLEU, or another metric in its manner.
    :param references: a line a sentence.
    :param translations: for each run by name its translations, or labels, a line a sentence.
    """
    return resample(metric, sentence_counts(metric, references, translations))


def sentence_counts(
    metric: Any, references: Sequence[str], translations: Mapping[str, Sequence[str]]
) -> dict[str, Array]:
    """Return for each run what its score is computed from: for BLEU the n-grams and lengths of each sentence.

    The parameters are those of `bootstrap`. *Shape:* (m, counts)
    """
    import numpy as np

    metric._ref_cache = metric._cache_references([references])  # once for all runs
    return {name: np.array(metric._extract_corpus_statistics(text, None)) for name, text in translations.items()}


def resample(metric: Any, counts: Mapping[str, Array]) -> Bootstrap:
    """Resample the test sentences, as sacrebleu's paired bootstrap does: with the same seed and resamples.

    :param counts: of each run; see `sentence_counts`.
    """
    import numpy as np

    metric.num_refs = 1  # for the signature
    seed = os.environ.get("SACREBLEU_SEED", "12345").lower()
    draws = np.random.default_rng(None if seed == "none" else int(seed))
    sentences = max(map(len, counts.values()), default=0)
    # how often each sentence is in each resample. Shape: (samples, m)
    times = np.zeros((SAMPLES, sentences), dtype=np.float32)
    for row in times:
        row += np.bincount(draws.integers(sentences, size=sentences), minlength=sentences)
    scores: dict[str, float] = {}
    resampled = {}
    for name, of_run in counts.items():
        values = of_run.astype(np.float32)
        scores[name] = float(metric._compute_score_from_stats(values.sum(0, dtype=np.float64)).score)
        resampled[name] = np.array([metric._compute_score_from_stats(row).score for row in times @ values])
    signature = metric.get_signature()
    signature.update("seed", seed)
    signature.update("bs", SAMPLES)
    return Bootstrap(scores, resampled, sentences, str(signature))
