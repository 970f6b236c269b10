"""Which metrics a best checkpoint can be chosen by."""

from __future__ import annotations

from typing import Any

import pytest

from fairseq_dsp.validation_metrics import why_not_computed

LABELS = "sentence_prediction_dsp"
TEXT = "translation_dsp", "label_smoothed_cross_entropy_dsp"


@pytest.mark.parametrize(
    ("metric", "task", "criterion", "options", "reason"),
    [
        ("ppl", *TEXT, {}, None),
        ("bleu", *TEXT, {"eval_bleu": True}, None),
        ("bleu", *TEXT, {"eval_bleu": False}, "with --eval-bleu only"),
        ("blue", *TEXT, {"eval_bleu": False}, "did you mean bleu?: give one of accuracy, bleu, loss, nll_loss, ppl"),
        ("nll_loss", "translation", "cross_entropy", {}, "did you mean loss?: give one of bleu, loss, ppl"),
        ("nll_loss", "translation", "cross_entropy", {"sentence_avg": True}, None),
        ("accuracy", LABELS, LABELS, {}, None),
        (
            "accuracy",
            LABELS,
            LABELS,
            {"regression_target": True},
            "does not compute: give one of loss, nll_loss, pearson",
        ),
        ("mcc", LABELS, LABELS, {"regression_target": True, "report_mcc": True}, "does not compute"),
        ("bleu", LABELS, LABELS, {}, "does not compute"),
        ("mcc", LABELS, LABELS, {"report_mcc": True}, None),
        ("f1", LABELS, LABELS, {"report_acc_and_f1": False}, "with --report-acc-and-f1 only"),
        ("accuracy", "commonsense_qa", "sentence_ranking", {}, None),  # of which nothing is known here
        ("anything", "translation", "their_own", {}, None),
        ("bleu", "their_own", "cross_entropy", {"eval_bleu": False}, "with --eval-bleu only"),
    ],
)
def test_what_validation_computes(
    metric: str, task: str, criterion: str, options: dict[str, Any], reason: str | None
) -> None:
    said = why_not_computed(metric, task, criterion, options.get)
    assert said is None if reason is None else said is not None and reason in said
