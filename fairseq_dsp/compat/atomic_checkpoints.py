"""Checkpoints that survive a kill and a full disk.

Broken: ve-fairseq 0.12.3 writes the first file of a save to a temporary name, but ``checkpoint_last.pt``, which resume
reads, is a plain copy of it: a kill or a full disk in the copy leaves it truncated. A failed ``torch.save`` is tried
again on the same open file, behind the bytes already written, so that a passing fault leaves garbage.

Fix: every file of a save is written under a temporary name in the same folder, brought to the disk, and renamed;
leftovers of a killed run are removed at the next save; a failure ends the training with one sentence and leaves the
checkpoints as they were. Can go when fairseq copies atomically.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import logging
import os
import shutil
import time
from collections.abc import Callable
from typing import Any

import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager

from fairseq_dsp.errors import UserError, find_in_chain
from fairseq_dsp.files import TEMPORARY, replacing
from fairseq_dsp.wrapping import wrap

logger = logging.getLogger(__name__)

ATTEMPTS = 3  # as in fairseq: a network file system may fail for a moment
PAUSE = 2.5  # seconds between them

# Trying again does not help against these.
_LASTING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT}


def remove_leftovers(folder: str, suffix: str) -> None:
    """Remove the temporary files that a killed run left in *folder*; *suffix* is the one of this rank's checkpoints.

    Only files of this very suffix: other ranks may be writing theirs at this moment.
    """
    for path in glob.glob(os.path.join(glob.escape(folder), f"checkpoint*{glob.escape(suffix)}.pt{TEMPORARY}")):
        logger.info(f"removing {path}, left by a run that was killed")
        with contextlib.suppress(FileNotFoundError):
            os.remove(path)


def apply() -> None:
    """Replace fairseq's saving and copying of checkpoints; remote paths and asynchronous saves stay fairseq's."""
    wrap(checkpoint_utils, "torch_persistent_save", _saving_atomically)
    wrap(checkpoint_utils, "save_checkpoint", _clearing_leftovers)
    wrap(PathManager, "copy", _copying_atomically)


def _saving_atomically(stock_save: Callable[..., None], obj: Any, filename: str, async_write: bool = False) -> None:
    if async_write or not PathManager.supports_rename(filename):
        return stock_save(obj, filename, async_write=async_write)

    def save() -> None:
        with replacing(filename, filename + TEMPORARY) as temporary, open(temporary, "wb") as file:
            torch.save(obj, file)

    return _persistently(save, filename)


def _copying_atomically(stock_copy: Callable[..., bool], src_path: str, dst_path: str, overwrite: bool = False) -> bool:
    if PathManager.path_requires_pathmanager(src_path) or PathManager.path_requires_pathmanager(dst_path):
        return stock_copy(src_path, dst_path, overwrite=overwrite)

    def copy_file() -> None:
        with replacing(dst_path, dst_path + TEMPORARY) as temporary:
            shutil.copyfile(src_path, temporary)

    _persistently(copy_file, dst_path)
    return True


def _clearing_leftovers(
    stock_save: Callable[..., str | None], cfg: Any, trainer: Any, *args: Any, **kwargs: Any
) -> str | None:
    if trainer.should_save_checkpoint_on_current_rank and not cfg.no_save:
        remove_leftovers(cfg.save_dir, trainer.checkpoint_suffix)
    return stock_save(cfg, trainer, *args, **kwargs)


def _persistently(write: Callable[[], None], path: str) -> None:
    """Call *write*, again when the file system fails for a moment; raise a `UserError` when it goes on failing."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return write()
        except Exception as error:
            failure = find_in_chain(error, OSError)  # torch wraps it in an error about its own file format
            if failure is None:
                raise
            if attempt == ATTEMPTS or failure.errno in _LASTING:
                raise UserError(
                    f"The checkpoint {path} could not be written ({failure.strerror or failure}), so training stops; "
                    "the checkpoints already there are whole: fix that, then run the same command to continue from the "
                    "last one."
                ) from error
            logger.warning(f"writing {path} failed ({failure}); trying again")
            time.sleep(PAUSE)
    raise AssertionError("unreachable: the last attempt returns or raises")
