"""Packages that only some commands need, and that an optional extra of this package installs."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from .errors import UserError


def optional(package: str, extra: str, what: str) -> Any:
    """Import a package and return it.

    :param extra: the name of the extra that installs it.
    :param what: what needs it, with its verb.
    :raises UserError: if it is not installed, or cannot be loaded.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        what_is = f"cannot be loaded ({error})" if importlib.util.find_spec(package) else "is not installed"
        raise UserError(
            f"{what} the package {package}, which {what_is}: pip install -e '.[{extra}]' -c constraints.txt in the "
            "folder of this package's source"
        ) from error


def ctranslate2() -> Any:
    """The engine."""
    return optional("ctranslate2", "ctranslate2", "a folder for CTranslate2 needs")


def tokenizers() -> Any:
    """What knows the subwords of published encoders."""
    return optional("tokenizers", "nli", "the subwords of BERT and RoBERTa need")
