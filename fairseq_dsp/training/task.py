"""Tasks that report what pruning does."""

from __future__ import annotations

from typing import Any

from fairseq import metrics
from fairseq.tasks import FairseqTask, register_task
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from fairseq.tasks.translation import TranslationConfig, TranslationTask

_PREFIX = "dsp_"


class _PruningTask(FairseqTask):
    """Stands before a stock task: logs temperature, units kept by type and how soft the gates are."""

    def train_step(self, sample: Any, model: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Make the stock training step and add the pruner's statistics to what is logged."""
        loss, sample_size, log = super().train_step(sample, model, *args, **kwargs)
        for pruner in getattr(model, "pruners", {}).values():
            if pruner.plan.prunes:
                # logs of micro-batches and processes are summed: the count makes averages of them
                log[_PREFIX + "count"] = 1
                log.update({_PREFIX + name: value for name, value in pruner.statistics().items()})
        return loss, sample_size, log

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Aggregate the stock metrics and the pruner's."""
        super().reduce_metrics(logging_outputs, criterion)
        logs = [log for log in logging_outputs if log.get(_PREFIX + "count")]
        count = sum(log[_PREFIX + "count"] for log in logs)
        for key in logs[0] if logs else ():
            if key.startswith(_PREFIX) and key != _PREFIX + "count":
                average = sum(log[key] for log in logs) / count  # a number, or a tensor on the device: nothing waits
                metrics.log_scalar(key.removeprefix(_PREFIX), average, round=6 if key == _PREFIX + "temperature" else 3)


@register_task("translation_dsp", dataclass=TranslationConfig)
class PruningTranslationTask(_PruningTask, TranslationTask):
    """The stock translation task, which logs what pruning does."""


@register_task("sentence_prediction_dsp", dataclass=SentencePredictionConfig)
class PruningSentencePredictionTask(_PruningTask, SentencePredictionTask):
    """The stock classification task, which logs what pruning does."""
