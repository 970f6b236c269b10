"""Reading an exported folder of either kind."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from . import engine

if TYPE_CHECKING:
    from .classifier import Classifier
    from .translator import Translator

CONFIG = "config.json"


def read(folder: Path, device: str, threads: int | None) -> Translator | Classifier:
    """Read a folder; see `fairseq_dsp.from_pretrained`."""
    if threads is not None and (type(threads) is not int or threads < 1):
        raise UserError(f"the number of threads is {threads!r}, but a whole number from 1 is expected")
    if any((folder / name).is_file() for name in (engine.WEIGHTS, engine.TEXT)):
        return engine.read(folder, device, threads)
    if not folder.is_dir():
        raise UserError(
            f"there is no folder {folder}: give one that fairseq-dsp export-folder wrote, or export-ctranslate2"
        )
    if not (folder / CONFIG).is_file():
        raise UserError(
            f"{folder} is neither a folder that fairseq-dsp export-folder wrote nor one of fairseq-dsp "
            f"export-ctranslate2 (it has no {CONFIG} and no {engine.WEIGHTS}): give one"
        )
    try:
        import torch

        from .folder import from_pretrained
    except ModuleNotFoundError as error:
        raise UserError(
            f"the model in {folder} needs torch and fairseq, and {error.name} is not installed: install it, or give a "
            "folder of fairseq-dsp export-ctranslate2, which needs neither"
        ) from error

    model = from_pretrained(folder)
    if threads is not None:
        torch.set_num_threads(threads)
    try:
        return model.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:  # torch raises either, by the kind of device
        raise UserError(
            f"the device {device} cannot be used ({str(error).splitlines()[0]}): give cpu, or cuda on a machine with a "
            "GPU"
        ) from error
