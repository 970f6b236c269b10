"""Run fairseq-train so that the writing of one file stops half way, for somebody to kill it there.

    python slow_writes.py MARKER NAME ARGUMENTS-OF-FAIRSEQ-TRAIN…

The first file whose name contains NAME, whether saved by torch or copied, gets half of its bytes; then its name is
written to MARKER and the process waits. Only the writing is slowed: which files are written, and under which names, is
up to fairseq and its plugins.
"""

import os
import runpy
import shutil
import sys
import time

import torch

marker, wanted, *arguments = sys.argv[1:]
stock_copyfile, stock_save = shutil.copyfile, torch.save


def stop_half_way(path: str) -> None:
    os.truncate(path, os.path.getsize(path) // 2)
    with open(marker + ".new", "w") as file:
        file.write(os.path.basename(path))
    os.rename(marker + ".new", marker)
    time.sleep(600)


def slow_copyfile(source, target, **options):
    stock_copyfile(source, target, **options)
    if wanted in os.path.basename(target):
        stop_half_way(target)
    return target


def slow_save(obj, file, *args, **options):
    stock_save(obj, file, *args, **options)
    if wanted in os.path.basename(file.name):
        file.flush()
        stop_half_way(file.name)


shutil.copyfile, torch.save = slow_copyfile, slow_save
sys.argv[1:] = arguments
runpy.run_module("fairseq_cli.train", run_name="__main__", alter_sys=True)
