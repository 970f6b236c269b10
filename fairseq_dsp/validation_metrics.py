"""What a validation computes, so that a best checkpoint can be chosen by it."""

from __future__ import annotations

import difflib
from collections.abc import Callable

LOWEST_IS_BEST = {"loss", "nll_loss", "ppl"}

HIGHEST_IS_BEST = {"bleu": "eval_bleu", "accuracy": "report_accuracy"}
"""Metrics → the option of fairseq-train without which validation does not compute them."""

_KNOWN_TASKS = {"translation", "translation_dsp", "sentence_prediction", "sentence_prediction_dsp"}
_KNOWN_CRITERIA = {
    "cross_entropy", "label_smoothed_cross_entropy", "label_smoothed_cross_entropy_dsp", "sentence_prediction",
    "sentence_prediction_dsp",
}  # fmt: skip


def why_not_computed(metric: str, task: str, criterion: str, given: Callable[[str], bool]) -> str | None:
    """Say what is wrong with ``--best-checkpoint-metric``, None if validation computes it or nobody knows.

    :param metric: its value.
    :param task: name of the task.
    :param criterion: name of the criterion.
    :param given: whether an option, such as ``eval_bleu``, is given.
    """
    option = HIGHEST_IS_BEST.get(metric)
    if option:
        if given(option) or (metric == "accuracy" and criterion.startswith("sentence_prediction")):
            return None
        flag = f"--{option.replace('_', '-')}"
        return (
            f"--best-checkpoint-metric is {metric}, which validation computes with {flag} only: give that too, or "
            "another metric, such as loss"
        )
    known = LOWEST_IS_BEST | set(HIGHEST_IS_BEST)
    if criterion == "cross_entropy" and not given("sentence_avg"):
        known -= {"nll_loss"}  # it is the loss
    if metric in known or task not in _KNOWN_TASKS or criterion not in _KNOWN_CRITERIA:
        return None
    close = difflib.get_close_matches(metric, known, n=1)
    return (
        f"--best-checkpoint-metric is {metric}, which validation does not compute"
        f"{f', did you mean {close[0]}?' if close else ''}: give one of {', '.join(sorted(known))}"
    )
