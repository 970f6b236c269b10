"""Prune the heads of a fairseq Transformer or RoBERTa down to exactly K: ``fairseq-train --user-dir fairseq_dsp``.

Importing this package registers its architectures, its tasks and its criteria with fairseq: at once where fairseq is
imported already, and otherwise when it is.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import plugin
from .version import __version__

if TYPE_CHECKING:
    from . import compat, model, training
    from .deployment.classifier import Classifier
    from .deployment.translator import Translator

plugin.load_when_needed()


def from_pretrained(folder: str | Path, *, device: str = "cpu", threads: int | None = None) -> Translator | Classifier:
    """Read a folder that ``fairseq-dsp export-folder`` or ``fairseq-dsp export-ctranslate2`` wrote.

    ``from_pretrained(folder).translate([...])``, or ``.predict([(premise, hypothesis), ...])`` where it classifies. For
    a folder of CTranslate2, neither torch nor fairseq is imported.

    :param device: ``cpu``, ``cuda`` or, of several GPUs, ``cuda:1``.
    :param threads: of the processor; by default as many as torch or CTranslate2 chooses.
    :raises UserError: if the folder is neither, or a file is missing or not as it was written, or there is no such
        device.
    """
    from .deployment import reading

    return reading.read(Path(folder), device, threads)


def __getattr__(name: str) -> Any:
    if name in plugin.PARTS:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["__version__", "compat", "from_pretrained", "model", "training"]
