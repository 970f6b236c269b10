"""The texts of a corpus as files: which pairs are left out, which are counted, how they are written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ..errors import UserError
from ..languages import has_spaces
from ..plain import is_blank, normalised
from .lines import Pairs, stored_lines, stored_pairs
from .stages import say

if TYPE_CHECKING:
    from .duplicates import Hashes

REASONS = {
    "blank": "pairs with a blank side",
    "words": "pairs of more words than --max-words",
    "ratio": "pairs with one side longer than --max-ratio times the other",
    "duplicate": "pairs that had occurred before",
}
"""Why a pair is left out, in the words of the summary and of the user."""


@dataclass(frozen=True)
class Cleaning:
    """What is left out of the training text, and rewritten in all texts, on demand.

    :param max_words: pairs with more words on a side are left out; in languages without spaces, more characters.
    :param max_ratio: so are pairs with one side more than so many times as long, in words, as the other.
    :param deduplicate: so are pairs that have occurred before.
    :param normalise: a Unicode normalisation form, ``nfc`` or ``nfkc``.
    """

    max_words: int | None = None
    max_ratio: float | None = None
    deduplicate: bool = False
    normalise: str | None = None

    @staticmethod
    def names() -> list[str]:
        """The names of the settings."""
        return [field.name.replace("_", "-") for field in fields(Cleaning)]

    def settings(self) -> dict[str, Any]:
        """What is asked for, under the names of the command line."""
        return {name.replace("_", "-"): value for name, value in asdict(self).items() if value}

    def rewrite(self, line: str) -> str:
        """A line in the normalisation form."""
        return normalised(line, self.normalise)

    def reason(self, lengths: tuple[int, int]) -> str | None:
        """Why a pair of so many words is left out, if it is."""
        if self.max_words is not None and max(lengths) > self.max_words:
            return "words"
        if self.max_ratio is not None and max(lengths) > self.max_ratio * min(lengths):
            return "ratio"
        return None


class Texts:
    """The files ``SPLIT.LANGUAGE`` of a folder, written pair by pair.

    :param folder: where they are written.
    :param languages: source and target.
    :param cleaning: of these texts; none for texts that were cleaned before.
    """

    def __init__(self, folder: Path, languages: tuple[str, str], cleaning: Cleaning | None = None) -> None:
        self.folder = folder
        self.languages = languages
        self.cleaning = cleaning or Cleaning()
        self.pairs: Counter[str] = Counter()
        self.left_out: dict[str, Counter[str]] = {}
        self.rewritten: dict[str, Counter[str]] = {}
        self._files: dict[str, tuple[IO[str], IO[str]]] = {}
        self._lengths = [str.split if has_spaces(language) else _characters for language in languages]
        self._hashes: Hashes | None = None

    def write(self, split: str, pairs: Pairs) -> None:
        """Add all pairs of a text."""
        for source, target in pairs:
            self.add(split, source, target)

    def add(self, split: str, source: str, target: str) -> None:
        """Add a pair to a text, or count it as left out."""
        if is_blank(source) or is_blank(target):
            self._leave_out(split, "blank")
            return
        cleaning = self.cleaning
        if cleaning.normalise:
            given = source, target
            source, target = cleaning.rewrite(source), cleaning.rewrite(target)
            if (source, target) != given:
                self.rewritten.setdefault(split, Counter())[cleaning.normalise] += 1
        if split == "train" and (cleaning.max_words or cleaning.max_ratio):
            reason = cleaning.reason((len(self._lengths[0](source)), len(self._lengths[1](target))))
            if reason:
                self._leave_out(split, reason)
                return
        if split == "train" and cleaning.deduplicate:
            self._hashed().add(f"{source}\n{target}")
        if split not in self._files:
            paths = [self.folder / f"{split}.{language}" for language in self.languages]
            one, other = (path.open("w", encoding="utf-8", newline="\n") for path in paths)
            self._files[split] = one, other
        files = self._files[split]
        files[0].write(source + "\n")
        files[1].write(target + "\n")
        self.pairs[split] += 1

    def _hashed(self) -> Hashes:
        from .duplicates import Hashes

        self._hashes = self._hashes or Hashes(self.folder / ".hashes")
        return self._hashes

    def _leave_out(self, split: str, reason: str) -> None:
        self.left_out.setdefault(split, Counter())[reason] += 1

    def finish(self, splits: Iterable[str]) -> dict[str, Any]:
        """Close the files, say what was left out, and return it.

        :param splits: the texts that there have to be.
        :return: the number of ``pairs``, and how many were ``left_out``, for which reasons, and ``rewritten``.
        :raises UserError: if one of them has no pair.
        """
        self.close()
        if self._hashes:
            self._drop_duplicates(self._hashes)
        for split, reasons in self.left_out.items():
            for reason, count in reasons.items():
                say(f"{split}: left out {count} {REASONS[reason]}")
        for split, forms in self.rewritten.items():
            for form, count in forms.items():
                say(f"{split}: {count} pairs rewritten in {form.upper()}, references too")
        for split in splits:
            if not self.pairs[split]:
                why = " after cleaning" if self.left_out.get(split) else ""
                raise UserError(
                    f"{split} has no pair with text on both sides{why}: give other text, or leave out fewer pairs"
                )
        left_out, rewritten = ({x: dict(y) for x, y in counts.items()} for counts in (self.left_out, self.rewritten))
        return {"pairs": dict(self.pairs), "left_out": left_out, "rewritten": rewritten}

    def close(self) -> None:
        """Close the files."""
        files, self._files = self._files, {}
        for pair in files.values():
            for file in pair:
                file.close()

    def _drop_duplicates(self, hashes: Hashes) -> None:
        with hashes:
            again = hashes.repeated(but_the_first=True)
        if not again.any():
            return
        kept = Texts(self.folder / ".kept", self.languages)
        kept.folder.mkdir()
        for repeated, pair in zip(again, stored_pairs(self.folder, "train", self.languages), strict=True):
            if repeated:
                self._leave_out("train", "duplicate")
            else:
                kept.add("train", *pair)
        kept.close()
        for path in kept.folder.iterdir():
            path.replace(self.folder / path.name)
        kept.folder.rmdir()
        self.pairs["train"] = kept.pairs["train"]


def say_known(folder: Path, splits: Sequence[str], languages: tuple[str, str]) -> None:
    """Say how many sentences of the texts to validate and test on the training text has too, whatever their capitals.

    :param folder: with the files ``SPLIT.LANGUAGE``.
    :param splits: ``train`` and the others, which are held in memory.
    """
    for language in languages:
        train, *others = (map(str.lower, stored_lines(folder / f"{split}.{language}")) for split in splits)
        texts = [list(lines) for lines in others]
        asked = set().union(*texts)
        known = {line for line in train if line in asked}
        for split, lines in zip(splits[1:], texts, strict=True):
            if count := sum(line in known for line in lines):
                say(
                    f"{split}.{language}: {count} of {len(lines)} sentences are in the training text too; many of them "
                    "flatter scores, so leave them out of one of the two"
                )


def _characters(line: str) -> list[str]:
    return list("".join(line.split()))
