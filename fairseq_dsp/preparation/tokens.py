"""Moses tokenisation of a text, spread over processes, and back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial

from .. import moses
from .lines import in_batches
from .stages import progress
from .workers import in_order


def tokenise(
    lines: Iterable[str], language: str, *, lowercase: bool = False, workers: int = 1, label: str = ""
) -> Iterator[str]:
    """Moses tokenisation, with the escapes that Moses writes (``&apos;`` …), and lower-casing where asked for.

    :param lines: plain sentences.
    :param language: picks the abbreviations, after which a full stop stays with its word.
    :param lowercase: lower-case the result.
    :param workers: processes; small texts use one.
    :param label: in front of the progress bar.
    """
    work = partial(_tokenise_batch, language=language, lowercase=lowercase)
    with progress(desc=label, unit="line", unit_scale=True) as bar:
        for batch in in_order(work, in_batches(lines), workers):
            yield from batch
            bar.update(len(batch))


def _tokenise_batch(lines: list[str], *, language: str, lowercase: bool) -> list[str]:
    return [moses.tokenised(line, language, lowercase=lowercase) for line in lines]


def detokenise(lines: Iterable[str], language: str) -> Iterator[str]:
    """Plain sentences from Moses-tokenised ones; case that is lost stays lost."""
    for line in lines:
        yield moses.detokenised(line, language)
