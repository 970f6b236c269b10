"""Subwords: learning byte-pair encoding on the training text, or taking a ready model, and applying it.

The file names of the models are those that fairseq's hub interface looks for in a folder of data.
"""

from __future__ import annotations

import io
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from ..deployment.text import read_bpe
from ..errors import UserError
from .lines import in_batches, stored_lines, stored_pairs
from .stages import progress, say
from .workers import apart, in_order

MODEL_NAMES = {"sentencepiece": "sentencepiece.bpe.model", "subword-nmt": "bpecodes"}
NORMALISATION = "identity"
"""sentencepiece's own default rewrites text (，becomes , and ½ becomes 1⁄2): no translation could match it then."""

RESERVED = "\u2585"
USUAL_LENGTH = 4192  # bytes of a sentence that sentencepiece learns from
SAMPLE = 250_000
"""Pairs that BPE is learned on by default: they keep sentencepiece within 0.8 GB (benchmarks/preprocessing.py)."""


@dataclass(frozen=True)
class Learning:
    """What a BPE model is learned from, and how.

    :param kind: ``sentencepiece`` or ``subword-nmt``.
    :param vocab_size: pieces for sentencepiece, merges for subword-nmt.
    :param coverage: share of all characters that sentencepiece has to know.
    :param folder: of the training text.
    :param languages: source and target.
    :param pairs: of the training text.
    :param sample: how many of them to learn from, at most.
    :param seed: of their choice.
    :param model: the file to write.
    """

    kind: str
    vocab_size: int
    coverage: float
    folder: Path
    languages: tuple[str, str]
    pairs: int
    sample: int
    seed: int
    model: Path

    def sentences(self) -> Iterator[str]:
        """The sample, first its source sides, then its target sides, always the same."""
        for language in self.languages:
            lines = stored_lines(self.folder / f"train.{language}")
            if self.pairs <= self.sample:
                yield from lines
                continue
            draw = random.Random(self.seed).random
            left, wanted = self.pairs, self.sample
            for line in lines:
                if draw() * left < wanted:  # as many as wanted, every choice of them equally likely
                    wanted -= 1
                    yield line
                left -= 1


def learn(learning: Learning) -> None:
    """Learn one BPE model for both languages.

    :raises UserError: if the text does not yield a model of that size.
    """
    pieces = "pieces" if learning.kind == "sentencepiece" else "merges"
    size = min(learning.sample, learning.pairs)
    of = "" if size == learning.pairs else f"{size} of "
    say(f"learning {learning.vocab_size} {learning.kind} {pieces} on {of}{learning.pairs} training pairs")
    # in a process of its own: the memory is gone afterwards, and what the library does to a process stays there
    if learning.kind == "subword-nmt":
        made = apart(_learn_subword_nmt, learning)
        if made < learning.vocab_size:
            say(f"this training text yields {made} merges: no other two subwords occur together twice")
    elif reserved := apart(_learn_sentencepiece, learning):
        say(f"{reserved} sentences hold {RESERVED} (U+2585), which sentencepiece reserves: it learnt from the others")


def _learn_sentencepiece(learning: Learning) -> int:
    """Learn; return how many sentences could not be learnt from."""
    import sentencepiece

    reserved = longest = 0
    for line in learning.sentences():
        reserved += RESERVED in line
        longest = max(longest, len(line.encode()))
    # it would learn nothing from longer ones, without a word; recorded in the model, so only where needed
    options: dict[str, Any] = {"max_sentence_length": longest} if longest > USUAL_LENGTH else {}
    model = io.BytesIO()  # written by us and not by the library, which does not notice a full disk
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=learning.sentences(),
            model_writer=model,
            model_type="bpe",
            vocab_size=learning.vocab_size,
            character_coverage=learning.coverage,
            normalization_rule_name=NORMALISATION,
            minloglevel=2,
            **options,
        )
    except (RuntimeError, ValueError) as error:
        most = re.search(r"value <= (\d+)", str(error))
        least = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
        if most:
            hint = f"this training text yields at most {most[1]}, so give a smaller one"
        elif least:
            hint = f"the characters of this training text alone need {least[1]}, so give a larger one"
        else:
            hint = str(error).splitlines()[-1]
        raise UserError(f"--vocab-size {learning.vocab_size} does not fit: {hint}") from error
    learning.model.write_bytes(model.getvalue())
    return reserved


def _learn_subword_nmt(learning: Learning) -> int:
    """Learn; return the number of merges."""
    from subword_nmt.learn_bpe import learn_bpe

    with learning.model.open("w", encoding="utf-8") as codes:
        try:
            learn_bpe((line + "\n" for line in learning.sentences()), codes, learning.vocab_size)
        except ValueError as error:
            if isinstance(error, UserError) or "empty" not in str(error):  # the most frequent of no pairs
                raise
    made = _count_merges(learning.model)
    if not made:
        raise UserError(
            "no two characters occur together twice in words of the training text, so there is nothing to merge: give "
            "text that is not split into characters, more text, or --bpe sentencepiece"
        )
    return made


def check_model(kind: str, path: Path) -> None:
    """Raise `UserError` unless ``path`` holds a BPE model of that kind."""
    if not path.is_file():
        raise UserError(f"the BPE model {path} is {'not a file' if path.exists() else 'missing'}")
    read_bpe(kind, path)
    if kind == "subword-nmt":
        with path.open(encoding="utf-8") as file:
            if not file.readline().startswith("#version: 0.2"):
                raise UserError(
                    f"{path} is not a table of BPE merges: expected subword-nmt's file, '#version: 0.2' on top"
                )


def count_merges(codes: Path | None) -> int:
    """The number of merges in a table; 0 without one. Raises `UserError` when it is none."""
    if codes is None:
        return 0
    check_model("subword-nmt", codes)
    return _count_merges(codes)


def _count_merges(codes: Path) -> int:
    return sum(1 for line in codes.read_text(encoding="utf-8").splitlines() if line) - 1


Encode = Callable[[list[str]], list[str]]


@cache
def encoder(kind: str, model: Path) -> Encode:
    """The function that writes each of some lines as its subwords, joined by spaces; loaded once a process."""
    subwords = read_bpe(kind, model)
    assert subwords
    return subwords.encode_all


@dataclass
class Encoded:
    """Some pairs in subwords, and what is counted of them.

    :param lines: of source and target.
    :param longest: the number of subwords of the longest one, of source and target.
    :param too_long: how many pairs have more than a usual model takes.
    :param empty: how many were left out, since a side has no subword.
    :param words: how often each subword occurs, in source and target; of the training text only.
    """

    lines: tuple[list[str], list[str]]
    longest: tuple[int, int]
    too_long: int = 0
    empty: int = 0
    words: tuple[Counter[str], Counter[str]] = field(default_factory=lambda: (Counter(), Counter()))


def encode_pairs(
    pairs: list[tuple[str, str]], *, kind: str, model: Path, limit: int, training: bool, limited: int = 2
) -> Encoded:
    """Encode some pairs.

    :param limit: subwords that a usual model takes.
    :param limited: of how many sides: 1, the source alone, in a text that is translated.
    :param training: leave out pairs with an empty side, and count the subwords.
    """
    encode = encoder(kind, model)
    source, target = (encode([pair[side] for pair in pairs]) for side in (0, 1))
    kept = [pair for pair in zip(source, target, strict=True) if (pair[0] and pair[1]) or not training]
    lengths = [[1 + line.count(" ") for line in pair] for pair in kept]
    source, target = [pair[0] for pair in kept], [pair[1] for pair in kept]
    encoded = Encoded(
        (source, target), (max((n for n, _ in lengths), default=0), max((n for _, n in lengths), default=0))
    )
    encoded.too_long = sum(max(pair[:limited]) > limit for pair in lengths)
    encoded.empty = len(pairs) - len(kept)
    if training:
        for counter, side in zip(encoded.words, (source, target), strict=True):
            for line in side:
                counter.update(line.split(" "))
    return encoded


def encode_text(
    plain: Path, folder: Path, split: str, languages: tuple[str, str], work: Callable[[Any], Encoded], workers: int
) -> Encoded:
    """Encode a text of a folder into another one; what is counted is returned, without lines."""
    total = Encoded(([], []), (0, 0))
    paths = [folder / f"{split}.{language}" for language in languages]
    batches = in_batches(stored_pairs(plain, split, languages))
    with (
        paths[0].open("w", encoding="utf-8", newline="\n") as source,
        paths[1].open("w", encoding="utf-8", newline="\n") as target,
        progress(desc=f"BPE {split}", unit="pair", unit_scale=True) as bar,
    ):
        for batch in in_order(work, batches, workers):
            for file, lines in zip((source, target), batch.lines, strict=True):
                file.writelines(line + "\n" for line in lines)
            for counter, more in zip(total.words, batch.words, strict=True):
                counter.update(more)
            total.longest = max(total.longest[0], batch.longest[0]), max(total.longest[1], batch.longest[1])
            total.too_long += batch.too_long
            total.empty += batch.empty
            bar.update(len(batch.lines[0]))
    return total
