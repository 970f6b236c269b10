"""Faults to inject into a process that runs fairseq: the argument ``before`` of support.start_fairseq.

Imports no plugin, so that stock fairseq can be tried too.
"""

from __future__ import annotations

import os
import resource
import shutil
import time
from pathlib import Path

import torch


def limit_file_size() -> None:
    """Fail the same system calls as a full disk, without a disk to fill: no file may grow beyond 50 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))


def slow_down_writing(what: str, marker: Path) -> None:
    """Make the writing of the first file whose name contains *what* stop half way, in this process.

    Only the writing is slowed, whether by torch or as a copy: which files are written, and under which names, is up to
    fairseq and its plugins. The name is written to *marker*, and then the process waits to be killed.
    """
    stock_copyfile, stock_save = shutil.copyfile, torch.save

    def stop_half_way(path: str) -> None:
        if what in os.path.basename(path):
            os.truncate(path, os.path.getsize(path) // 2)
            marker.with_suffix(".new").write_text(os.path.basename(path))
            os.rename(marker.with_suffix(".new"), marker)
            time.sleep(600)

    def slow_copyfile(source, target, **options):
        stock_copyfile(source, target, **options)
        stop_half_way(target)
        return target

    def slow_save(obj, file, *args, **options):
        stock_save(obj, file, *args, **options)
        file.flush()
        stop_half_way(file.name)

    shutil.copyfile, torch.save = slow_copyfile, slow_save
