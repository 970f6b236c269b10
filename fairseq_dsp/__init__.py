"""Prune the attention heads of a fairseq translation model down to exactly K: ``fairseq-train --user-dir fairseq_dsp``.

Importing this package registers its architectures, its task and its criterion with fairseq.
"""

from . import compat

compat.apply_all()

from . import model, training  # noqa: E402 — fairseq is mended before anything is registered with it

training.optimizer.install()

__all__ = ["compat", "model", "training"]
