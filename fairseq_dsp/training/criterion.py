"""The stock criteria with what pruning may add: a penalty on open gates; for translation, a teacher.

fairseq reads the types of the options at run time and knows ``Optional[X]`` only: no postponed annotations here.
"""

import functools
import logging
import math
from dataclasses import dataclass, field
from typing import Any, Optional

from fairseq import metrics
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.criterions.label_smoothed_cross_entropy import (
    LabelSmoothedCrossEntropyCriterion,
    LabelSmoothedCrossEntropyCriterionConfig,
    label_smoothed_nll_loss,
)
from fairseq.criterions.sentence_prediction import SentencePredictionConfig, SentencePredictionCriterion
from torch import Tensor

from ..errors import UserError
from .distillation import Teacher

logger = logging.getLogger(__name__)


class _PenalisedCriterion(FairseqCriterion):
    """Stands before a stock criterion: adds the penalty on open gates in training; validation never does.

    With ``--l0-penalty`` λ · E[number of open gates] per target token (Voita et al. 2019). The loss is a sum over
    target tokens, or over sentences that are classified, so the penalty is multiplied by their number: it means the
    same for every batch size and ``--update-freq``.
    """

    def forward(self, model: Any, sample: dict[str, Any], reduce: bool = True) -> tuple[Tensor, int, dict[str, Any]]:
        """Return the loss, the sample size and what to log; see the stock criterion."""
        loss, sample_size, log = super().forward(model, sample, reduce=reduce)
        pruners = getattr(model, "pruners", {}).values() if model.training else ()
        for pruner in pruners:
            if not pruner.penalised:
                continue
            # the sample size is the divisor of the gradient: tokens, or sentences with --sentence-avg
            loss = loss + sample_size * pruner.penalty().to(loss)
            log["loss"] = loss.data
            log["expected_heads"] = pruner.expected_open().detach() * sample_size
        return loss, sample_size, log

    @classmethod
    def reduce_metrics(cls, logging_outputs: list[dict[str, Any]]) -> None:
        """Aggregate what was logged over micro-batches and processes."""
        super().reduce_metrics(logging_outputs)
        if any("expected_heads" in log for log in logging_outputs):
            size = sum(log["sample_size"] for log in logging_outputs)
            total = sum(log.get("expected_heads", 0) for log in logging_outputs)
            metrics.log_scalar("expected_heads", total / size, size, round=2)


@dataclass
class PruningCriterionConfig(LabelSmoothedCrossEntropyCriterionConfig):
    """The stock criterion's options and those of distillation."""

    distill_from: Optional[str] = field(
        default=None,
        metadata={"help": "distillation: checkpoint of an unpruned model whose distribution is a second target"},
    )
    distill_weight: float = field(
        default=0.5,
        metadata={"help": "weight of the distribution of --distill-from in the loss; the references have the rest"},
    )


@register_criterion("label_smoothed_cross_entropy_dsp", dataclass=PruningCriterionConfig)
class PruningCriterion(_PenalisedCriterion, LabelSmoothedCrossEntropyCriterion):
    """The stock criterion with a penalty on open gates and, with ``--distill-from``, a teacher, both in training only.

    The loss with a teacher is (1 − β) · loss + β · Σ_tokens H(p_teacher, p), the cross-entropy with the distribution of
    a trained model, where β is ``--distill-weight``.
    """

    def __init__(
        self,
        task: Any,
        sentence_avg: bool,
        label_smoothing: float,
        ignore_prefix_size: int = 0,
        report_accuracy: bool = False,
        distill_from: Optional[str] = None,
        distill_weight: float = 0.5,
    ) -> None:
        super().__init__(task, sentence_avg, label_smoothing, ignore_prefix_size, report_accuracy)
        if not (math.isfinite(distill_weight) and 0 <= distill_weight <= 1):
            raise UserError(f"--distill-weight is {distill_weight}, but a number from 0 to 1 is expected")
        self.distill_from, self.distill_weight = distill_from, distill_weight

    @functools.cached_property
    def teacher(self) -> Optional[Teacher]:
        """The model to learn from, read when it is first asked for; None without one."""
        return Teacher(self.distill_from, self.task) if self.distill_from and self.distill_weight else None

    def before_training(self) -> None:
        """Read the teacher; fairseq's trainer calls this when it starts, and validation alone never does.

        :raises UserError: if the teacher cannot be used.
        """
        if self.distill_from is None and self.distill_weight not in (0, PruningCriterionConfig.distill_weight):
            logger.warning(
                "--distill-weight %s changes nothing without a teacher: give --distill-from, or leave it out",
                self.distill_weight,
            )
        _ = self.teacher

    def compute_loss(
        self, model: Any, net_output: Any, sample: dict[str, Any], reduce: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the loss, with the teacher's part in training, and the negative log likelihood of the references."""
        if not model.training or self.teacher is None:
            return super().compute_loss(model, net_output, sample, reduce=reduce)
        ours, target = self.get_lprobs_and_target(model, net_output, sample)
        loss, nll_loss = label_smoothed_nll_loss(ours, target, self.eps, ignore_index=self.padding_idx, reduce=reduce)
        theirs = self.teacher.log_probabilities(sample, next(model.parameters()))
        theirs = theirs[:, self.ignore_prefix_size :].reshape(-1, ours.shape[-1])
        distilled = -(theirs.exp() * ours).sum(-1).masked_fill(target == self.padding_idx, 0)
        distilled = distilled.sum() if reduce else distilled.view_as(loss)
        return (1 - self.distill_weight) * loss + self.distill_weight * distilled, nll_loss


@register_criterion("sentence_prediction_dsp", dataclass=SentencePredictionConfig)
class PruningSentencePredictionCriterion(_PenalisedCriterion, SentencePredictionCriterion):
    """The stock criterion of classification with a penalty on open gates."""
