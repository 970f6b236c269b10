"""Parallel text: reading it with every check, writing it, tokenising it."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ..blank import is_blank
from ..errors import UserError
from ..languages import base
from .stages import progress, say
from .workers import in_order

if TYPE_CHECKING:
    from sacremoses import MosesTokenizer

Pairs = tuple[list[str], list[str]]
"""The two sides of a parallel text, line by line."""

RULES = 2
"""The number of the rules by which `read_lines` and `check_parallel` read text; another number, another text."""

BATCH = 2000
FINAL_STOP = re.compile(r"([^\s.])\.$")


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 text file, gzip-compressed or not, white space normalised.

    Only a line feed ends a line. Whatever else Python or fairseq might take for a line end (carriage return, U+2028 …)
    and the no-break spaces, at which fairseq would split a word that the BPE model joins, become plain spaces. So does
    U+2581, as which sentencepiece writes a space.

    Raises:
        UserError: the file is missing, empty, truncated, or not UTF-8 text.
    """
    if not path.is_file():
        raise UserError(
            f"{path} is {'not a file' if path.exists() else 'missing'}: expected a text file, a line a sentence"
        )
    data = path.read_bytes()
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path} is not a whole gzip file ({error}): get it again") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}, line {line}, is not UTF-8 (byte 0x{data[error.start]:02x}): convert the file to UTF-8, "
            "for example with iconv"
        ) from error
    if "\0" in text:
        raise UserError(
            f"{path}, line {text[: text.index(chr(0))].count(chr(10)) + 1}, holds a NUL character: "
            "expected plain UTF-8 text"
        )
    if "\u2581" in text:
        count = text.count("\u2581")
        say(f"{path}: {count} characters U+2581, with which sentencepiece writes a space, are read as spaces")
        text = text.replace("\u2581", " ")
    lines = [" ".join(line.split()) for line in text.removesuffix("\n").split("\n")]
    if all(map(is_blank, lines)):
        raise UserError(f"{path} is empty: expected a text file, a line a sentence")
    return lines


def check_parallel(pairs: Pairs, names: tuple[object, object]) -> Pairs:
    """The pairs without those that have a blank side.

    Args:
        pairs: two sides.
        names: of the two sides, for the messages.

    Raises:
        UserError: the sides differ in length, or nothing is left.
    """
    source, target = pairs
    if len(source) != len(target):
        raise UserError(
            f"{names[0]} has {len(source)} lines and {names[1]} has {len(target)}: the two sides of a parallel text "
            "need the same number of lines, each line the translation of the other"
        )
    kept = [(a, b) for a, b in zip(source, target, strict=True) if not (is_blank(a) or is_blank(b))]
    if not kept:
        raise UserError(f"{names[0]} and {names[1]} have no line with text on both sides")
    if len(kept) < len(source):
        say(f"{names[0]}, {names[1]}: left out {len(source) - len(kept)} pairs with a blank side")
    return [a for a, _ in kept], [b for _, b in kept]


def read_pairs(source: Path, target: Path) -> Pairs:
    """Read the two sides of a parallel text, with all the checks of `read_lines` and `check_parallel`."""
    return check_parallel((read_lines(source), read_lines(target)), (source, target))


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """Write a line a string, UTF-8."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(line + "\n" for line in lines)


def write_pairs(folder: Path, split: str, languages: tuple[str, str], pairs: Pairs) -> None:
    """Write ``folder/SPLIT.SRC`` and ``folder/SPLIT.TGT``."""
    for language, lines in zip(languages, pairs, strict=True):
        write_lines(folder / f"{split}.{language}", lines)


def load_pairs(folder: Path, split: str, languages: tuple[str, str]) -> Pairs:
    """Read back what `write_pairs` wrote."""
    source, target = (read_lines(folder / f"{split}.{language}") for language in languages)
    return source, target


def in_batches(lines: Sequence[str]) -> Iterator[list[str]]:
    """The lines, some thousands at a time."""
    for start in range(0, len(lines), BATCH):
        yield list(lines[start : start + BATCH])


def _tokenise_batch(lines: list[str], *, language: str, lowercase: bool) -> list[str]:
    tokenizer = _moses(language)
    # Moses' own script splits the full stop off the last word whatever the word; sacremoses leaves it with "U.S.".
    out = [FINAL_STOP.sub(r"\1 .", tokenizer.tokenize(line, return_str=True)) for line in lines]
    return [line.lower() for line in out] if lowercase else out


_tokenizers: dict[str, MosesTokenizer] = {}


def _moses(language: str) -> MosesTokenizer:
    """One Moses tokenizer a language and process: making one reads the language's abbreviations."""
    if language not in _tokenizers:
        from sacremoses import MosesTokenizer

        _tokenizers[language] = MosesTokenizer(base(language))
    return _tokenizers[language]


def detokenise(lines: Sequence[str], language: str) -> list[str]:
    """Plain sentences from Moses-tokenised ones; case that is lost stays lost."""
    from sacremoses import MosesDetokenizer

    detokenizer = MosesDetokenizer(base(language))
    return [detokenizer.detokenize(line.split()) for line in lines]


def tokenise(
    lines: Sequence[str], language: str, *, lowercase: bool = False, workers: int = 1, label: str = ""
) -> list[str]:
    """Moses tokenisation, with the escapes that Moses writes (``&apos;`` …), and lower-casing where asked for.

    Args:
        lines: plain sentences.
        language: picks the abbreviations, after which a full stop stays with its word.
        lowercase: lower-case the result.
        workers: processes; small texts use one.
        label: in front of the progress bar.
    """
    work = partial(_tokenise_batch, language=language, lowercase=lowercase)
    done: list[str] = []
    with progress(total=len(lines), desc=label, unit="line", unit_scale=True, disable=len(lines) < BATCH) as bar:
        for batch in in_order(work, in_batches(lines), workers if len(lines) > 5 * BATCH else 1):
            done += batch
            bar.update(len(batch))
    return done
