"""Prune the attention heads of a fairseq translation model down to exactly K: ``fairseq-train --user-dir fairseq_dsp``.

Importing this package registers its architectures, its task and its criterion with fairseq.
"""

from __future__ import annotations

import gc
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .compact.folder import Translator

# importing fairseq and torch makes many objects and no garbage: looking for some takes a sixth of the time
_collecting = gc.isenabled()
gc.disable()
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)  # it asks for tensorboardX at every start

from . import compat  # noqa: E402
from .version import __version__  # noqa: E402

compat.apply_all()

from . import model, training  # noqa: E402 — fairseq is mended before anything is registered with it

training.optimizer.install()
training.distillation.install()
if _collecting:
    gc.enable()


def from_pretrained(folder: str) -> Translator:
    """Read a folder that ``fairseq-dsp export-folder`` wrote: ``from_pretrained(folder).translate([...])``.

    :raises UserError: if the folder is not one, or a file is missing or not as it was written.
    """
    from .compact import folder as pretrained  # not needed to train

    return pretrained.from_pretrained(folder)


__all__ = ["__version__", "compat", "from_pretrained", "model", "training"]
