"""What a validation computes, so that a best checkpoint can be chosen by it."""

from __future__ import annotations

from collections.abc import Callable

from .errors import closest

LOWEST_IS_BEST = {"loss", "nll_loss", "ppl"}

OF_CLASSES = {"mcc": "report_mcc", "f1": "report_acc_and_f1", "acc_and_f1": "report_acc_and_f1"}
"""Metrics of labels that are whole numbers → their option."""

OF_NUMBERS = dict.fromkeys(("pearson", "spearman", "pearson_and_spearman"), "report_pearson_and_spearman")
"""Metrics of numbers, labels that are whole numbers included → their option."""

_OF_LABELS = OF_CLASSES | OF_NUMBERS
_OF_TASKS = {
    "translation": {"bleu": "eval_bleu"},
    "translation_dsp": {"bleu": "eval_bleu"},
    "sentence_prediction": {},
    "sentence_prediction_dsp": {},
}
_OF_CRITERIA = {
    "cross_entropy": {},
    "label_smoothed_cross_entropy": {"accuracy": "report_accuracy"},
    "label_smoothed_cross_entropy_dsp": {"accuracy": "report_accuracy"},
    "sentence_prediction": _OF_LABELS,
    "sentence_prediction_dsp": _OF_LABELS,
}
"""For the tasks and criteria that are known here: metrics → the option without which validation does not have them."""

HIGHEST_IS_BEST = {"bleu", "accuracy", *_OF_LABELS}


def why_not_computed(
    metric: str, task: str, criterion: str, given: Callable[[str], bool | None], *, words: bool = False
) -> str | None:
    """Say what is wrong with ``--best-checkpoint-metric``, None if validation computes it or nobody knows.

    :param metric: its value.
    :param task: name of the task.
    :param criterion: name of the criterion.
    :param given: whether an option, such as ``eval_bleu``, is given; None where there is no such option.
    :param words: whether labels are known to be words.
    """
    options = {"bleu": "eval_bleu", "accuracy": "report_accuracy"}
    always = {metric}
    if task in _OF_TASKS and criterion in _OF_CRITERIA:
        options = _OF_TASKS[task] | _OF_CRITERIA[criterion]
        if criterion.startswith("sentence_prediction"):
            always = {"loss", "nll_loss"} | (set() if given("regression_target") else {"accuracy"})
            options = OF_NUMBERS if given("regression_target") else {} if words else options
        else:
            always = LOWEST_IS_BEST
            if criterion == "cross_entropy" and not given("sentence_avg"):
                always = always - {"nll_loss"}  # it is the loss
    option = options.get(metric)
    if option and given(option) is False:
        return (
            f"--best-checkpoint-metric is {metric}, which validation computes with --{option.replace('_', '-')} only: "
            "give that too, or another metric, such as loss"
        )
    known = always | set(options)
    if metric in known:
        return None
    return (
        f"--best-checkpoint-metric is {metric}, which validation does not compute{closest(metric, known)}: give one of "
        f"{', '.join(sorted(known))}"
    )
