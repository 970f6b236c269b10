"""Studies of made-up translations in which no method is better than another: how often do the statistics say so?

A run is a method with a seed. Its translation of a sentence has the reference's length, and each word is right or
wrong: right where a normal variable stays below a threshold. The variable is a sum of what all runs share (a word is
hard for all), of what is a run's own, of a shift a sentence and method (a method is good at some sentences), and of a
shift a run (a training that went well). So a difference of BLEU between two methods varies

- with the seeds, by ``seeds`` BLEU (standard deviation of the difference of two runs),
- with the test set in a way that all seeds of the methods share, by ``shared`` BLEU,
- and in a way of each run's own, by ``own`` BLEU.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import chi2, norm

from fairseq_dsp.evaluation.significance import SAMPLES, Bootstrap, Comparison, Estimate, holm, quantile

SENTENCES, LONGEST, THRESHOLD = 300, 16, 1.0
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Setting:
    """What varies, in BLEU of the difference between two runs; see above."""

    seeds: float
    shared: float
    own: float


def bleu(counts: Array) -> Array:
    """sacrebleu's BLEU of many corpora at once, for outputs as long as their references and with no count of 0.

    :param counts: the right and all n-grams of 1 to 4 words. *Shape:* (…, 8)
    """
    return 100 * np.exp(np.log(counts[..., :4] / counts[..., 4:]).mean(-1))


def right_ngrams(variable: Array, lengths: Array) -> Array:
    """For each sentence the right n-grams of 1 to 4 words, then all of them.

    :param variable: of each word. *Shape:* (runs, sentences, words)
    :param lengths: of the sentences, in words. *Shape:* (sentences)
    :return: *Shape:* (runs, sentences, 8)
    """
    right = (variable < THRESHOLD) & (np.arange(variable.shape[-1]) < lengths[:, None])
    found, whole = [], right
    for n in range(4):
        found.append(whole.sum(-1))
        whole = whole[..., :-1] & right[..., n + 1 :]
    total = [np.broadcast_to(lengths - n, found[0].shape) for n in range(4)]
    return np.stack([*found, *total], axis=-1).astype(np.float32)


def shifted(draw: np.random.Generator, groups: int, seeds: int, sizes: tuple[float, float, float]) -> Array:
    """The right and all n-grams of all runs on a new test set. *Shape:* (methods · seeds, sentences, 8)

    :param sizes: the standard deviations of a run's shift and of a sentence and method's, and the share of the variable
        that is a run's own.
    """
    of_run, of_sentence, own = sizes
    lengths = draw.integers(5, LONGEST + 1, size=SENTENCES)
    variable = own * draw.standard_normal((groups, seeds, SENTENCES, LONGEST), dtype=np.float32)
    variable += np.sqrt(1 - own**2) * draw.standard_normal((SENTENCES, LONGEST), dtype=np.float32)
    variable += of_run * draw.standard_normal((groups, seeds, 1, 1), dtype=np.float32)
    variable += of_sentence * draw.standard_normal((groups, 1, SENTENCES, 1), dtype=np.float32)
    return right_ngrams(variable.reshape(groups * seeds, SENTENCES, LONGEST), lengths)


@functools.cache
def size_for(which: int, deviation: float) -> float:
    """What one of the three sizes of `shifted` is to be, for two runs to differ by *deviation* BLEU by it alone."""
    low, high = 0.0, 1.0
    for _ in range(8):
        middle = (low + high) / 2
        draw, alone = np.random.default_rng(which), [0.0, 0.0, 0.0]
        alone[which] = middle
        pairs = [bleu(shifted(draw, 2, 1, tuple(alone)).sum(1)) for _ in range(150)]
        found = np.sqrt(np.mean([(one - other) ** 2 for one, other in pairs]))
        low, high = (middle, high) if found < deviation else (low, middle)
    return (low + high) / 2 if deviation else 0.0


@functools.cache
def resamples() -> Array:
    """How often each sentence is in each resample. *Shape:* (samples, sentences)"""
    draws = np.random.default_rng(12345).integers(SENTENCES, size=(SAMPLES, SENTENCES))
    return np.stack([np.bincount(row, minlength=SENTENCES) for row in draws]).astype(np.float32)


def studies(setting: Setting, seeds: int, methods: int, count: int, seed: int = 0) -> Iterator[Bootstrap]:
    """Studies of an unpruned model and *methods* others, all as good: the runs are called ``METHOD-SEED``, from 0."""
    draw, groups = np.random.default_rng([seed, seeds]), methods + 1
    sizes = size_for(0, setting.seeds), size_for(1, setting.shared), size_for(2, setting.own)
    for _ in range(count):
        counts = shifted(draw, groups, seeds, sizes)
        scores = bleu(counts.sum(1))
        resampled = bleu(np.einsum("bs,rsk->rbk", resamples(), counts, optimize=True))
        names = [f"{method}-{s}" for method in range(groups) for s in range(seeds)]
        yield Bootstrap(
            dict(zip(names, map(float, scores), strict=True)), dict(zip(names, resampled, strict=True)), SENTENCES
        )


@dataclass
class Rates:
    """What the statistics said of studies in which nothing differs.

    :param comparisons: of the methods with the unpruned model, all of them.
    :param tables: the same, corrected, by study.
    :param means: of the methods' BLEU.
    """

    comparisons: list[Comparison]
    tables: list[list[Comparison]]
    means: list[Estimate]

    @property
    def significant(self) -> float:
        """The share of the comparisons with p < 0.05."""
        return float(np.mean([one.p_value < 0.05 for one in self.comparisons]))

    @property
    def without_0(self) -> float:
        """The share of the intervals of a difference that leave 0 out."""
        return float(np.mean([not one.difference.low <= 0 <= one.difference.high for one in self.comparisons]))

    @property
    def any_star(self) -> float:
        """The share of the tables with a star."""
        return float(np.mean([any(one.significant for one in table) for table in self.tables]))

    @property
    def wrong_means(self) -> float:
        """The share of the intervals of a mean that leave the true one out, which is the mean of all."""
        truth = float(np.mean([one.value for one in self.means]))
        return float(np.mean([not one.low <= truth <= one.high for one in self.means]))

    @property
    def deviation(self) -> float:
        """The standard deviation of the differences."""
        return float(np.std([one.difference.value for one in self.comparisons]))


def rates(setting: Setting, seeds: int, methods: int, count: int, seed: int = 0) -> Rates:
    """Make studies and compare each method with the unpruned model."""
    found = Rates([], [], [])
    for study in studies(setting, seeds, methods, count, seed):
        runs = [{s: [f"{method}-{s}"] for s in range(seeds)} for method in range(methods + 1)]
        compared = [study.compare(one, runs[0]) for one in runs[1:]]
        table = holm([one for one in compared if one])
        found.comparisons += table
        found.tables.append(table)
        found.means += [study.mean(one) for one in runs[1:]]
    return found


def error_rate(seeds: int, ratio: float, level: float = 0.05) -> float:
    """How often the p-value is below *level* where nothing differs, by integration over the measured variance.

    :param ratio: of the seeds' part of the variance of a mean to the sentences' part, which is taken as known.
    """
    freedom, points = seeds - 1, 400
    measured = ratio * chi2.ppf((np.arange(points) + 0.5) / points, freedom) / freedom
    ends = [quantile(level, 1.0, one, freedom, 10**6) * np.sqrt(1 + one) for one in measured]
    return float(np.mean(2 * norm.sf(np.array(ends) / np.sqrt(1 + ratio))))
