"""When this package registers itself with fairseq: as soon as fairseq is imported, and not before.

Importing fairseq takes seconds, and what prepares text or translates with another engine does without it.
"""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .compat import unasked_messages

PARTS = ("compat", "subset", "model", "training")
"""What the plugin consists of."""

_AWAITED = {"torch", "fairseq", f"{__package__}.model", f"{__package__}.training"}

_begun = threading.Lock()
"""Held from when the plugin is loaded; never waited for, since another thread may wait for the modules of this one."""


class _Depth(threading.local):
    """How many imports of awaited modules this thread is in."""

    value = 0


_depth = _Depth()


def load() -> None:
    """Fix fairseq, and register the architectures, tasks and criteria with it; further calls do nothing.

    If that fails, the next call tries it again.
    """
    if not _begun.acquire(blocking=False):
        return
    try:
        with _without_garbage():
            from . import compat

            compat.apply_all()

            from . import model, training  # noqa: F401 — registered by importing them

            for part in (training.optimizer, training.distillation, training.training_checks, training.averages):
                part.install()
    except BaseException:
        _begun.release()
        raise


def allow_checkpoints() -> None:
    """Have torch read fairseq's checkpoints, without fairseq too."""
    from .compat import safe_loading

    safe_loading.allow()


def load_when_needed() -> None:
    """Have `load` called once fairseq has been imported, and `allow_checkpoints` once torch has; now, if it has."""
    unasked_messages.apply()
    if "torch" in sys.modules:
        allow_checkpoints()
    if "fairseq" in sys.modules:
        load()
    elif _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


@contextmanager
def _without_garbage() -> Iterator[None]:
    """Importing fairseq and torch makes many objects and no garbage: looking for some takes a sixth of the time."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Finder(MetaPathFinder):
    """Finds awaited modules where others find them, and has something done after them.

    It stays in ``sys.meta_path``, for taking it out would disturb imports of other threads.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return None for modules that are not awaited, and for all of them once the plugin is loaded."""
        if name not in _AWAITED or _begun.locked():
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(name, path, target)):
                if spec.loader:
                    spec.loader = _Loader(spec.loader)
                return spec
        return None


_finder = _Finder()


class _Loader(Loader):
    """Another loader, with the plugin loaded after the outermost of the awaited modules.

    Not earlier: from a module that is half imported, the plugin could not import.
    """

    def __init__(self, own: Any) -> None:
        self._own = own

    def __getattr__(self, name: str) -> Any:
        return getattr(self._own, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Create the module as its own loader does."""
        found: ModuleType | None = self._own.create_module(spec)
        return found

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, which keeps its own loader, then do what it was awaited for."""
        assert module.__spec__
        module.__loader__ = module.__spec__.loader = self._own
        _depth.value += 1
        try:
            with _without_garbage(), unasked_messages.level_kept():
                self._own.exec_module(module)
        finally:
            _depth.value -= 1
        if module.__name__ == "torch":
            allow_checkpoints()
        elif not _depth.value:
            load()
