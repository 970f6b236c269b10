"""Confidence intervals and paired significance, by sacrebleu's own bootstrap."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from .results import Results
from .runs import RESULT, RUNS, TRANSLATIONS
from .scoring import metrics

if TYPE_CHECKING:
    import numpy as np

SAMPLES = 1000
LEVEL = 0.05  # of significance


@dataclass(frozen=True)
class Comparison:
    """A method against another, by the runs of both that belong together.

    :param difference: of BLEU, the mean over the pairs.
    :param low: lower end of the 95% confidence interval of that mean, over the test sentences.
    :param high: its upper end.
    :param p_values: of the hypothesis that both are as good, one a pair.
    """

    difference: float
    low: float
    high: float
    p_values: tuple[float, ...]

    @property
    def significant(self) -> bool:
        """Whether every pair differs significantly."""
        return max(self.p_values) < LEVEL


@dataclass(frozen=True)
class Bootstrap:
    """BLEU of all runs on the same resamples of the test sentences, which is what makes comparisons paired.

    :param scores: for each run by name its BLEU.
    :param resampled: for each run its BLEU on each resample.
    :param signature: sacrebleu's, of the test.
    """

    scores: dict[str, float]
    resampled: dict[str, np.ndarray[Any, Any]]
    signature: str

    def interval(self, run: str) -> float:
        """Half the width of the 95% confidence interval of a run's BLEU."""
        from sacrebleu.significance import estimate_ci

        return float(estimate_ci(self.resampled[run])[1])

    def compare(self, pairs: Sequence[tuple[str, str]]) -> Comparison | None:
        """The first run of each pair against its second; None without pairs."""
        import numpy as np

        if not pairs:
            return None
        samples = np.mean([self.resampled[one] - self.resampled[other] for one, other in pairs], axis=0)
        ordered, cut = np.sort(samples), len(samples) // 40  # the bounds of sacrebleu's estimate_ci
        difference = statistics.fmean(self.scores[one] - self.scores[other] for one, other in pairs)
        p_values = tuple(self._p_value(one, other) for one, other in pairs)
        return Comparison(difference, float(ordered[cut]), float(ordered[-cut - 1]), p_values)

    def _p_value(self, one: str, other: str) -> float:
        """What sacrebleu's PairedTest gives for the two runs."""
        import numpy as np
        from sacrebleu.significance import _compute_p_value

        difference = abs(self.scores[one] - self.scores[other])
        if not difference:
            return 1.0  # sacrebleu counts no resample of the same text as larger, and calls it significant
        samples = np.abs(self.resampled[one] - self.resampled[other])
        return float(_compute_p_value(samples - samples.mean(), difference))


def bootstrap(results: Results) -> Bootstrap:
    """Resample the test sentences of all runs.

    :raises UserError: if a translation is missing or does not belong to the references.
    """
    import numpy as np
    from sacrebleu.significance import _bootstrap_resample

    references = _lines(results, "references.txt")
    metric = metrics(results.data)["bleu"]
    scores: dict[str, float] = {}
    resampled = {}
    seed = ""
    for run in results.runs:
        name = run["run"]
        text = _lines(results, f"{RUNS}/{name}/{TRANSLATIONS}")
        if len(text) != len(references):
            raise UserError(
                f"{RUNS}/{name}/{TRANSLATIONS} has {len(text)} lines, but there are {len(references)} references: "
                "remove the folder of that run and start the sweep again"
            )
        counts = metric._extract_corpus_statistics(text, [references])
        scores[name] = metric._aggregate_and_compute(counts).score
        # the generator has the same seed each time: every run gets the same resamples
        seed, samples = _bootstrap_resample(counts, metric, SAMPLES)
        resampled[name] = np.array([sample.score for sample in samples])
    signature = metric.get_signature()
    signature.update("seed", seed)
    signature.update("bs", SAMPLES)
    return Bootstrap(scores, resampled, str(signature))


def _lines(results: Results, name: str) -> list[str]:
    try:
        return (results.folder / name).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        path = results.folder / name
        remedy = f"remove {RESULT} beside it and " if path.name == TRANSLATIONS else ""
        raise UserError(f"{path} cannot be read ({error.strerror}): {remedy}start the sweep again") from error
