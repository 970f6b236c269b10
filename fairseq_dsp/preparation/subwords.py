"""Subwords: learning byte-pair encoding on the training text, applying it to every text.

The file names of the models are those that fairseq's hub interface looks for in a folder of data.
"""

from __future__ import annotations

import io
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .stages import progress, say
from .text import BATCH, in_batches

MODEL_NAMES = {"sentencepiece": "sentencepiece.bpe.model", "subword-nmt": "bpecodes"}


NORMALISATION = "identity"
"""sentencepiece's own default rewrites text (，becomes , and ½ becomes 1⁄2): no translation could match it then."""

RESERVED = "\u2585"
USUAL_LENGTH = 4192  # bytes of a sentence that sentencepiece learns from


def learn(kind: str, sides: tuple[Sequence[str], Sequence[str]], vocab_size: int, coverage: float, model: Path) -> None:
    """Learn one BPE model for both languages and write it to ``model``.

    Args:
        kind: ``sentencepiece`` or ``subword-nmt``.
        sides: the training text, source and target.
        vocab_size: pieces for sentencepiece, merges for subword-nmt.
        coverage: share of all characters that sentencepiece has to know.
        model: the file to write.

    Raises:
        UserError: the text does not yield a model of that size.
    """
    say(f"learning {vocab_size} {kind} {'pieces' if kind == 'sentencepiece' else 'merges'} on "
        f"{len(sides[0])} training pairs")  # fmt: skip
    if kind == "sentencepiece":
        model.write_bytes(_learn_sentencepiece(sides, vocab_size, coverage))
    else:
        model.write_text(_learn_subword_nmt(sides, vocab_size), encoding="utf-8")


def _learn_sentencepiece(sides: tuple[Sequence[str], Sequence[str]], vocab_size: int, coverage: float) -> bytes:
    import sentencepiece

    reserved = sum(RESERVED in line for side in sides for line in side)
    if reserved:
        say(f"{reserved} sentences hold {RESERVED} (U+2585), which sentencepiece reserves: it learns from the others")
    longest = max(len(line.encode()) for side in sides for line in side)
    # it would learn nothing from longer ones, without a word; recorded in the model, so only where needed
    options: dict[str, Any] = {"max_sentence_length": longest} if longest > USUAL_LENGTH else {}
    # Written by us and not by the library, which does not notice a full disk.
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=(line for side in sides for line in side),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            character_coverage=coverage,
            normalization_rule_name=NORMALISATION,
            minloglevel=2,
            **options,
        )
    except RuntimeError as error:
        most = re.search(r"value <= (\d+)", str(error))
        least = re.search(r"smaller than required_chars\. \d+ vs (\d+)", str(error))
        if most:
            hint = f"this training text yields at most {most[1]}"
        elif least:
            hint = f"the letters of this training text alone need {least[1]}"
        else:
            hint = str(error).splitlines()[-1]
        raise UserError(f"--vocab-size {vocab_size} does not fit: {hint}") from error
    return model.getvalue()


def _learn_subword_nmt(sides: tuple[Sequence[str], Sequence[str]], vocab_size: int) -> str:
    from subword_nmt.learn_bpe import learn_bpe

    codes = io.StringIO()
    learn_bpe([line + "\n" for side in sides for line in side], codes, vocab_size)
    return codes.getvalue()


def check_codes(path: Path) -> None:
    """Raise `UserError` unless ``path`` holds merges of subword-nmt."""
    try:
        with path.open(encoding="utf-8") as file:
            good = file.readline().startswith("#version: 0.2") and len(file.readline().split()) == 2
    except UnicodeDecodeError:
        good = False
    if not good:
        raise UserError(f"{path} is not a table of BPE merges: expected subword-nmt's file, '#version: 0.2' on top")


def count_merges(codes: Path | None) -> int:
    """The number of merges in a ready table; 0 without one. Raises `UserError` when it is none."""
    if codes is None:
        return 0
    check_codes(codes)
    return sum(1 for line in codes.read_text(encoding="utf-8").splitlines() if line) - 1


def copy_codes(codes: Path, model: Path) -> None:
    """Use a ready table of merges instead of learning one."""
    check_codes(codes)
    shutil.copyfile(codes, model)


class Subwords:
    """Applies a model that `learn` wrote."""

    def __init__(self, kind: str, model: Path) -> None:
        self.kind = kind
        if kind == "sentencepiece":
            import sentencepiece

            self._pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
        else:
            from subword_nmt.apply_bpe import BPE

            with model.open(encoding="utf-8") as codes:
                self._merges = BPE(codes)

    def encode(self, lines: Sequence[str], *, label: str = "") -> list[str]:
        """Each line as its subwords, joined by spaces; ``label`` stands in front of the progress bar."""
        done: list[str] = []
        with progress(total=len(lines), desc=label, unit="line", unit_scale=True, disable=len(lines) < BATCH) as bar:
            for batch in in_batches(lines):
                if self.kind == "sentencepiece":
                    done += [" ".join(pieces) for pieces in self._pieces.encode(batch, out_type=str)]
                else:
                    done += [self._merges.process_line(line) for line in batch]
                bar.update(len(batch))
        return done
