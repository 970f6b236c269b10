"""Prune the heads of a fairseq Transformer or RoBERTa down to exactly K: ``fairseq-train --user-dir fairseq_dsp``.

Importing this package registers its architectures, its task and its criterion with fairseq; only where this process is
one of the commands of ``fairseq-dsp`` that do without fairseq, it does not import fairseq at all.
"""

from __future__ import annotations

import gc
import logging
import os
import sys
from typing import TYPE_CHECKING

from .version import __version__

if TYPE_CHECKING:
    from .deployment.classifier import Classifier
    from .deployment.translator import Translator

WITHOUT_FAIRSEQ = {"prepare"}
"""Commands of ``fairseq-dsp`` that start in a moment, since they import neither fairseq nor torch."""


def _is_without_fairseq() -> bool:
    """Whether the program of this process is one of these commands."""
    own = os.path.basename(sys.argv[0]) == "fairseq-dsp"
    own |= sys.argv[0] == "-m" and "fairseq_dsp.cli" in sys.orig_argv  # python -m imports the package first
    return own and sys.argv[1:2] != [] and sys.argv[1] in WITHOUT_FAIRSEQ


if not _is_without_fairseq():
    # importing fairseq and torch makes many objects and no garbage: looking for some takes a sixth of the time
    _collecting = gc.isenabled()
    gc.disable()
    # it asks for tensorboardX at every start
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)

    from . import compat

    compat.apply_all()

    from . import model, training  # fairseq is fixed before anything is registered with it

    training.optimizer.install()
    training.distillation.install()
    if _collecting:
        gc.enable()


def from_pretrained(folder: str) -> Translator | Classifier:
    """Read a folder that ``fairseq-dsp export-folder`` wrote.

    ``from_pretrained(folder).translate([...])``, or ``.predict([(premise, hypothesis), ...])`` where it classifies.

    :raises UserError: if the folder is not one, or a file is missing or not as it was written.
    """
    from .deployment import folder as pretrained  # not needed to train

    return pretrained.from_pretrained(folder)


__all__ = ["__version__", "compat", "from_pretrained", "model", "training"]
