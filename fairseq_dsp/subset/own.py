"""Selections of the user's own, which come from a file and not from this package."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from ..errors import UserError

OWN = "FAIRSEQ_DSP_SELECTIONS"
"""The environment variable with the path of a Python file that calls :func:`~.selection.register_selection`."""


HINT = f"if it is one of your own, name the file that registers it in the environment variable {OWN}"
"""What to say to a user of a selection that is not registered."""


def load_own() -> None:
    """Run the file that :data:`OWN` names, if any.

    :raises UserError: if it cannot be read or fails.
    """
    if not os.environ.get(OWN):
        return
    path = Path(os.environ[OWN]).absolute()
    os.environ[OWN] = str(path)  # commands that this one starts may do so in another folder
    spec = importlib.util.spec_from_file_location("fairseq_dsp_selections", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"{OWN} is {path}, but the path of a Python file is expected: correct it, or unset it")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses and pickle look for a class's module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[spec.name]
        raise UserError(
            f"{path}, which {OWN} names, failed ({type(error).__name__}: {error}): correct the file"
        ) from error
