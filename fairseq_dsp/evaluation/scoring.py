"""BLEU and chrF of translations, by sacrebleu; accuracy of labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .. import languages, moses
from .prepared import PreparedData

TITLES = {"bleu": "BLEU", "chrf": "chrF", "tokenised_bleu": "tokenised BLEU", "accuracy": "accuracy"}
"""Name of a metric → what people call it."""


def metric_names(data: PreparedData) -> tuple[str, ...]:
    """The metrics of a corpus; by the first, models are compared."""
    return ("accuracy",) if data.classifies else ("bleu", "chrf", "tokenised_bleu")


def metrics(data: PreparedData) -> dict[str, Any]:
    """The metrics of detokenised text, or of labels, by name. A recipe that lost the case is scored without it."""
    if data.classifies:
        from .accuracy import Accuracy

        return {"accuracy": Accuracy()}
    from sacrebleu.metrics import BLEU, CHRF

    lowercase = bool(data.summary["lowercase"])
    tokenizer = languages.bleu_tokenizer(data.languages[1])
    return {"bleu": BLEU(lowercase=lowercase, tokenize=tokenizer), "chrf": CHRF(lowercase=lowercase)}


def score(data: PreparedData, split: str, hypotheses: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Score the translations, or the labels, of a text.

    ``bleu`` and ``chrf`` are of detokenised text. ``tokenised_bleu`` is of the recipe's own tokens, as papers on
    IWSLT'14 report it, or of Moses tokens for a recipe without tokenisation; in languages that Moses does not split
    into words, of the tokens of sacrebleu's tokeniser for them.

    :param data: the corpus.
    :param split: the text.
    :param hypotheses: translations, a line a sentence; the BPE undone and, if the recipe tokenises, still tokenised.
    :return: for each of the three, or ``accuracy``, a ``score`` from 0 to 100 and sacrebleu's ``signature``.
    """
    from sacrebleu.metrics import BLEU

    references = data.references(split)
    if data.classifies:
        return {name: _score(metric, hypotheses, references) for name, metric in metrics(data).items()}
    plain = detokenised(data, hypotheses)
    scores = {name: _score(metric, plain, references) for name, metric in metrics(data).items()}
    if languages.bleu_tokenizer(data.languages[1]) != "13a":
        return {"tokenised_bleu": scores["bleu"], **scores}
    tokens, reference_tokens = list(hypotheses), data.tokenised_references(split)
    if reference_tokens is None:
        lower = bool(data.summary["lowercase"])
        tokens, reference_tokens = (
            [moses.tokenised(line, data.languages[1], lowercase=lower) for line in lines]
            for lines in (plain, references)
        )
    return {"tokenised_bleu": _score(BLEU(tokenize="none", force=True), tokens, reference_tokens), **scores}


def detokenised(data: PreparedData, hypotheses: Sequence[str]) -> list[str]:
    """Plain sentences from a recipe's tokens."""
    if data.summary["tokenizer"] == "none":
        return list(hypotheses)
    return [moses.detokenised(line, data.languages[1]) for line in hypotheses]


def _score(metric: Any, hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    result = metric.corpus_score(list(hypotheses), [list(references)])
    return {"score": round(result.score, 4), "signature": str(metric.get_signature())}
