"""Importing fairseq and reading its command lines prints some thirty lines that no user can do anything about.

Broken: ve-fairseq 0.12.3 calls hydra in ways that hydra 1.3 calls deprecated; one of its models turns everybody's
debugging messages on when it is imported; one of its tasks asks for tensorboardX; and torch warns of what it does: it
pins memory where there is no GPU, gives attention masks of two types, and calls autocast by an old name.

Fix: just these warnings are not shown, and the level of logging is after the import of fairseq what it was before. Can
go with what fairseq does.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

MESSAGES = (
    r"hydra\.experimental\.\w+\(\) is no longer experimental",
    r"\s*The version_base parameter is not specified",
    r"In 'config': Usage of deprecated keyword in package header",
    r"\s*'config' is validated against ConfigStore schema with the same name",
    r"\s*The strict flag in the compose API is deprecated",
    r"'pin_memory' argument is set as true but no accelerator is found",
    r"Support for mismatched key_padding_mask and attn_mask is deprecated",
    r"`torch\.cuda\.amp\.\w+\(args\.\.\.\)` is deprecated",
)
"""How the warnings begin; ``config`` is fairseq's own configuration."""


def apply() -> None:
    """Show none of these messages; done before fairseq is imported, where that is possible."""
    for message in MESSAGES:
        warnings.filterwarnings("ignore", message)
    for name in ("fairseq.tasks.text_to_speech", "matplotlib"):  # the latter where fairseq came first
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def level_kept() -> Iterator[None]:
    """Put the level of the root logger back to what it was."""
    level = logging.getLogger().level
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)
