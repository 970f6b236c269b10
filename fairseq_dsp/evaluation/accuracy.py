"""Accuracy of classification, as a metric of sacrebleu's: scored and resampled like BLEU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics.base import Metric, Score, Signature


class _Signature(Signature):
    def __init__(self, args: dict[str, Any]) -> None:
        super().__init__(args)
        self.info.pop("nrefs", None)  # always one


class Accuracy(Metric):
    """The share of sentences, or pairs of them, whose label is the reference's, from 0 to 100."""

    _SIGNATURE_TYPE = _Signature

    def _preprocess_segment(self, sent: str) -> str:
        return sent.strip()

    def _extract_reference_info(self, refs: Sequence[str]) -> dict[str, Any]:
        return {"label": refs[0]}

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, Any]) -> list[int]:
        return [int(hypothesis == ref_kwargs["label"]), 1]

    def _compute_score_from_stats(self, stats: Any) -> Score:
        correct, total = stats
        return Score("accuracy", 100 * float(correct) / float(total))

    def _aggregate_and_compute(self, stats: Sequence[Sequence[int]]) -> Score:
        return self._compute_score_from_stats([sum(column) for column in zip(*stats, strict=True)])
