"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Sequence


def as_text(text: str) -> str:
    """Return a text of which Markdown makes no markup."""
    return text.replace("<", "&lt;").replace("*", "\\*")


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]], *, left: int = 1) -> str:
    """Return a table that ends with a line feed.

    :param left: how many columns are aligned to the left; the others are to the right.
    """
    align = "|".join("---" if i < left else "--:" for i in range(len(header)))
    rows = [" | ".join(as_text(cell).replace("|", "\\|") for cell in row) for row in body]
    return "".join([f"| {' | '.join(header)} |\n", f"|{align}|\n", *(f"| {row} |\n" for row in rows)])
