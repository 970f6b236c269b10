"""Whether references are those of a binarised text: its own targets, with subwords and tokens undone, tell."""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Sequence

from ..errors import UserError
from ..removal.data_bin import POST_PROCESS
from .prepared import PreparedData
from .scoring import detokenised

MOST = 2000
"""Lines that are compared."""
ALIKE, CLEARLY = 0.5, 1.5
"""The share of a target's trigrams that its reference has, from which on nothing is asked; and how many times as many it
has as the next line's reference, where it says the same in other words."""
FEW = 0.05
"""The share of lines that may have a subword mark by chance."""


def check_text(data: PreparedData, split: str) -> None:
    """Compare references with the targets of the data-bin, and warn if they are of another text.

    Case, spaces and Unicode forms do not count: the targets may be lower-cased, truecased or tokenised in any way. There
    may be good reason for targets of another kind, such as a copy of the source, so nothing is refused for this.

    :raises UserError: if the subwords of the targets are not those that are said to be undone.
    """
    references, targets = data.references(split)[:MOST], _targets(data, split)
    bpe, name = data.summary["bpe"], data.summary["references"][split]
    for method, mark in (("sentencepiece", "▁"), ("subword-nmt", "@@ ")):
        marked, usual = (sum(mark in f"{line} " for line in lines) for lines in (targets, references))
        if method != bpe and marked > max(usual, FEW * len(targets)):
            raise UserError(
                f"the text {split} in {data.data_bin} has {mark.strip()} in {marked} of its first {len(targets)} lines, as "
                f"the subwords of {method} have, but bpe is {bpe}: give --bpe {method}"
            )
        if (
            method == bpe == "sentencepiece"
            and not marked
            and 2 * sum(" " in line for line in references) > len(targets)
        ):
            raise UserError(
                f"bpe is {bpe}, but the text {split} in {data.data_bin} has no {mark}, without which its words would be "
                "joined: give the method of its subwords with --bpe, or none"
            )
    whole = detokenised(data, [_undone(line, bpe) for line in targets])
    found = [_trigrams(line) for line in whole]
    given = [_trigrams(line) for line in references]
    own, next_ones = _shared(found, given), _shared(found, given[1:] + given[:1])
    if own < ALIKE and own <= CLEARLY * next_ones:
        print(
            f"warning: {name} seems to be of another text than {split} in {data.data_bin}: a line has {own:.0%} of what "
            f"the target has there, and {next_ones:.0%} of what the line before has; if so, the scores mean nothing",
            file=sys.stderr,
        )


def _targets(data: PreparedData, split: str) -> list[str]:
    """The first lines of the target side, in subwords."""
    from fairseq.data import Dictionary, data_utils

    language = data.languages[1]
    dictionary = Dictionary.load(str(data.data_bin / f"dict.{language}.txt"))
    path = data.data_bin / f"{split}.{'-'.join(data.languages)}.{language}"
    binarised = data_utils.load_indexed_dataset(str(path)) or ()
    return [dictionary.string(binarised[i]) for i in range(min(MOST, len(binarised)))]


def _undone(line: str, bpe: str) -> str:
    from fairseq.data.data_utils import post_process

    return str(post_process(line, POST_PROCESS[bpe])) if bpe in POST_PROCESS else line


def _trigrams(line: str) -> set[str]:
    text = "".join(unicodedata.normalize("NFKC", line).casefold().split())
    return {text[i : i + 3] for i in range(max(1, len(text) - 2))}


def _shared(targets: Sequence[set[str]], references: Sequence[set[str]]) -> float:
    """The share of the trigrams of targets that the references beside them have."""
    there = sum(len(target & reference) for target, reference in zip(targets, references, strict=False))
    return there / max(1, sum(map(len, targets)))
