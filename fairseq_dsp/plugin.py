"""When this package registers itself with fairseq: as soon as torch or fairseq is imported, and not before.

Importing fairseq takes seconds, and what prepares text or translates with another engine does without it.
"""

from __future__ import annotations

import copy
import gc
import importlib
import logging
import sys
from collections.abc import Sequence
from functools import cache
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

PARTS = ("compat", "subset", "model", "training")
"""What the plugin consists of; each needs fairseq or torch."""

_AWAITED = {"torch", "fairseq", *(f"{__package__}.{part}" for part in PARTS)}


@cache
def load() -> None:
    """Fix fairseq, and register the architectures, tasks and criteria with it; further calls do nothing."""
    # importing fairseq and torch makes many objects and no garbage: looking for some takes a sixth of the time
    collecting = gc.isenabled()
    gc.disable()
    # it asks for tensorboardX at every start
    logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)
    try:
        from . import compat

        compat.apply_all()

        from . import model, training  # noqa: F401 — fairseq is fixed before anything is registered with it

        training.optimizer.install()
        training.distillation.install()
    finally:
        if collecting:
            gc.enable()


def load_when_needed() -> None:
    """Have `load` called when one of the modules that it needs is imported: now, if one is already."""
    if _AWAITED & set(sys.modules):
        load()
    else:
        sys.meta_path.insert(0, _Awaiting())


class _Awaiting(MetaPathFinder, Loader):
    """Calls `load` at the first import that needs it, and hands over the module that `load` imported itself."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None for every module but the first one that is awaited."""
        if name not in _AWAITED:
            return None
        sys.meta_path.remove(self)
        load()
        self._module = importlib.import_module(name)
        self._own = self._module.__spec__
        spec = copy.copy(self._own)
        assert spec is not None
        spec.loader = self
        self._module.__spec__ = spec  # of a module that is there meanwhile, this is what is imported, again
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """Return the module that is imported already."""
        return self._module

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing but to give it back what describes it."""
        module.__spec__ = self._own
