"""The best score that a prepared text leaves possible: that of its own references, encoded and decoded again."""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import Any

from ..deployment.text import joined
from ..evaluation.prepared import PreparedData
from ..evaluation.scoring import metrics, score
from .stages import say

UNKNOWN = "<unk>"
_NEVER_SHOWN = {"<s>", "</s>"}


def measure(data: PreparedData) -> dict[str, dict[str, Any]]:
    """The best scores for every text that can be scored: each metric, and ``unknown``, how many references hold an
    unknown subword."""
    known = data.dictionary(f"dict.{data.languages[1]}.txt")
    found: dict[str, dict[str, Any]] = {}
    for split in data.splits:
        subwords = data.subwords(split, data.languages[1])
        decoded = [decode(data.summary["bpe"], tokens, known) for tokens in subwords]
        scores = {name: one["score"] for name, one in score(data, split, decoded).items()}
        unknown = sum(any(token not in known for token in tokens) for tokens in subwords)
        found[split] = {**scores, "unknown": unknown}
        reason = f": {unknown} of {len(subwords)} references hold what the dictionary does not know" if unknown else ""
        say(f"{split}: a perfect translation reaches a BLEU of {scores['bleu']:.2f}{reason}")
    return found


def decode(bpe: str, tokens: Iterable[str], known: Container[str]) -> str:
    """What fairseq prints for a sentence of subwords, the BPE undone.

    :param bpe: ``sentencepiece`` or ``subword-nmt``.
    :param tokens: the subwords.
    :param known: the dictionary; fairseq sees no difference between the subwords that are not in it.
    """
    shown = (token if token in known else UNKNOWN for token in tokens if token not in _NEVER_SHOWN)
    return joined(bpe, " ".join(shown))


def regained(data: PreparedData, split: str, references: list[str], raw: list[str]) -> bool:
    """Whether a recipe's subwords give the text back; if not, say how far they are from it.

    :param references: what they give.
    :param raw: the text as it is.
    """
    if data.summary["lowercase"]:
        raw = [line.lower() for line in raw]
    if references == raw:
        return True
    bleu = metrics(data)["bleu"].corpus_score(references, [raw]).score
    say(
        f"{split}: decoding the subwords does not give the original text back (BLEU {bleu:.2f}), so the references are "
        "decoded subwords too, in references/"
    )
    return False
