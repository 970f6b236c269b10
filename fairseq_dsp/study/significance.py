"""Confidence intervals and paired significance, both sacrebleu's own bootstrap."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import UserError
from .results import BASE, Results
from .runs import RUNS, TRANSLATIONS
from .scoring import metrics

SAMPLES = 1000


@dataclass(frozen=True)
class Significance:
    """The bootstrap of one run.

    :param interval: half the width of the 95% confidence interval of its BLEU.
    :param p_value: of the hypothesis that it is as good as the unpruned model of its seed; None for that model itself,
        and without one.
    """

    interval: float
    p_value: float | None


def bootstrap(results: Results) -> tuple[dict[str, Significance], str]:
    """Resample the test sentences of all runs.

    :return: for each run by name its significance; and sacrebleu's signature of the test.
    :raises UserError: if a translation is missing or does not belong to the references.
    """
    from sacrebleu.significance import PairedTest

    references = _lines(results, "references.txt")
    texts = {run["run"]: _lines(results, f"{RUNS}/{run['run']}/{TRANSLATIONS}") for run in results.runs}
    for name, text in texts.items():
        if len(text) != len(references):
            raise UserError(
                f"{RUNS}/{name}/{TRANSLATIONS} has {len(text)} lines, but there are {len(references)} references: "
                "remove the folder of that run and start the sweep again"
            )
    bases = {run["seed"]: run["run"] for run in results.runs if run["label"] == BASE}
    metric = metrics(results.data)["bleu"]
    found: dict[str, Significance] = {}
    signature = ""
    for first in sorted(set(bases.values())) or [None]:
        # the unpruned model of the same seed, or else of the first one
        mine = [r for r in results.runs if (bases.get(r["seed"], min(bases.values(), default=None)) == first)]
        names = ([first] if first else []) + [r["run"] for r in mine if r["run"] != first]
        if not names:
            continue
        test = PairedTest([(name, texts[name]) for name in names], {"BLEU": metric}, [references], "bs", SAMPLES)
        signatures, scores = test()
        signature = str(signatures["BLEU"])
        for name, score in zip(names, scores["BLEU"], strict=True):
            p_value = None
            if first and name != first:
                # for no difference at all sacrebleu counts no resample as larger, and calls it significant
                p_value = float(score.p_value) if score.score != scores["BLEU"][0].score else 1.0
            found[name] = Significance(float(score.ci), p_value)
    return found, signature


def _lines(results: Results, name: str) -> list[str]:
    try:
        return (results.folder / name).read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise UserError(f"{results.folder / name} cannot be read ({error.strerror}): start the sweep again") from error
