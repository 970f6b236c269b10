"""Plain text: lines of which nothing would be seen in print, white space, Unicode normalisation."""

from __future__ import annotations

import re
import unicodedata

_VISIBLE = re.compile(
    "[^"
    r"\x00-\x20\x7f-\xa0\xad\u1680\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ufeff\ufff9-\ufffb"  # control, spaces
    r"\u034f\u061c\u17b4\u17b5\u180b-\u180f\ufe00-\ufe0f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"  # joiners, variants
    r"\U000e0000-\U000e0fff"  # tags and more variants
    r"\u115f\u1160\u2581\u2800\u3164\uffa0"  # fillers: Hangul, braille, and sentencepiece's sign for a space
    "]"
)


def is_blank(text: str) -> bool:
    """Whether a text has no visible character: only spaces, control characters, byte-order marks, joiners …"""
    return not _VISIBLE.search(text)


def plain(line: str) -> str:
    """A line with its white space normalised; U+2581, with which sentencepiece writes a space, is one, too."""
    return " ".join(line.replace("\u2581", " ").split())


def normalised(line: str, form: str | None) -> str:
    """A plain line in a Unicode normalisation form, ``nfc`` or ``nfkc``; as it is with None."""
    if form is None or line.isascii():
        return line
    return plain(unicodedata.normalize("NFC" if form == "nfc" else "NFKC", line))
