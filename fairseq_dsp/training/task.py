"""Tasks that report what pruning does."""

from __future__ import annotations

import functools
from typing import Any

from fairseq import metrics
from fairseq.tasks import FairseqTask, register_task
from fairseq.tasks.sentence_prediction import SentencePredictionConfig, SentencePredictionTask
from fairseq.tasks.translation import TranslationConfig, TranslationTask

_PREFIX = "dsp_"


class _PruningTask(FairseqTask):
    """Stands before a stock task: logs temperature, units kept by type and how soft the gates are."""

    _names: dict[str, list[str]] | None = None  # of what each pruner measures

    def train_step(self, sample: Any, model: Any, *args: Any, **kwargs: Any) -> tuple[Any, Any, dict[str, Any]]:
        """Make the stock training step and add what the pruners measure to what is logged."""
        loss, sample_size, log = super().train_step(sample, model, *args, **kwargs)
        for kind, pruner in getattr(model, "pruners", {}).items():
            if pruner.plan.prunes:
                self._names = self._names or {}
                self._names[kind], measured = pruner.measured()
                # logs of micro-batches and processes are summed: the count makes averages of them
                log |= {_PREFIX + "count": 1, _PREFIX + "temperature": pruner.temperature, _PREFIX + kind: measured}
        return loss, sample_size, log

    def reduce_metrics(self, logging_outputs: list[dict[str, Any]], criterion: Any) -> None:
        """Aggregate the stock metrics and the pruners'; what they measured is split when a line is written."""
        super().reduce_metrics(logging_outputs, criterion)
        logs = [log for log in logging_outputs if log.get(_PREFIX + "count")]
        if not logs:
            return
        count = sum(log[_PREFIX + "count"] for log in logs)
        metrics.log_scalar("temperature", sum(log[_PREFIX + "temperature"] for log in logs) / count)
        for kind, names in (self._names or {}).items():
            # vectors on the device, of which nobody asks a number yet: nothing waits
            metrics.log_scalar(f"_{_PREFIX}{kind}", sum(log[_PREFIX + kind] for log in logs) / count)
            for i, name in enumerate(names):
                metrics.log_derived(name, functools.partial(_mean, f"_{_PREFIX}{kind}", i))


def _mean(key: str, i: int, meters: Any) -> float | None:
    """Return the mean of the i-th number of a vector that was logged; None if none was since meters were reset."""
    mean = meters[key].avg
    return None if mean is None else round(float(mean[i]), 3)


@register_task("translation_dsp", dataclass=TranslationConfig)
class PruningTranslationTask(_PruningTask, TranslationTask):
    """The stock translation task, which logs what pruning does."""


@register_task("sentence_prediction_dsp", dataclass=SentencePredictionConfig)
class PruningSentencePredictionTask(_PruningTask, SentencePredictionTask):
    """The stock classification task, which logs what pruning does."""
