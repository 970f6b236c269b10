"""Label-smoothed cross-entropy with the penalty that some head selections need."""

from __future__ import annotations

from typing import Any

from fairseq import metrics
from fairseq.criterions import register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
)
from torch import Tensor


@register_criterion("label_smoothed_cross_entropy_dsp", dataclass=LabelSmoothedCrossEntropyCriterionConfig)
class PenalisedCrossEntropyCriterion(LabelSmoothedCrossEntropyCriterion):
    """The stock criterion, plus λ · E[number of open gates] per target token while training (Voita et al. 2019).

    The loss is a sum over target tokens, so the penalty is multiplied by their number: λ means the same for every batch
    size and ``--update-freq``. Without a penalised head selection this is the stock criterion.
    """

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the loss, the sample size and what to log; see the stock criterion."""
        loss, sample_size, log = super().forward(model, sample, reduce=reduce)
        pruner = getattr(model, "pruner", None)
        if pruner is None or not pruner.plan.selection.penalised or not model.training:
            return loss, sample_size, log
        expected = pruner.expected_open()
        # the sample size is the divisor of the gradient: tokens, or sentences with --sentence-avg
        loss = loss + pruner.l0_penalty * sample_size * expected.to(loss)
        log["loss"] = loss.data
        log["expected_heads"] = expected.item() * sample_size
        return loss, sample_size, log

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Aggregate what was logged over micro-batches and processes."""
        super().reduce_metrics(logging_outputs)
        if any("expected_heads" in log for log in logging_outputs):
            size = sum(log["sample_size"] for log in logging_outputs)
            total = sum(log.get("expected_heads", 0) for log in logging_outputs)
            metrics.log_scalar("expected_heads", total / size, size, round=2)
