"""Resuming and fine-tuning with more than one process.

Broken: in ve-fairseq 0.12.3 the first process reads the checkpoint and sends it to the others, which read what they get
with ``torch.load``: since torch 2.6 that refuses fairseq's place holders for tensors and omegaconf's configurations.
Tensors travel as their memory lies, so that a transposed one arrives scrambled. What a state dict says of itself, such
as its dictionaries, is lost, in the first process too. And a process that does not see the file waits for no
checkpoint, so that all of them hang.

Fix: configurations travel as plain values, place holders are let through while they travel, tensors are laid out row
by row before, the state dict of the model gets back what it said, and processes of which only some see the checkpoint
end with one sentence. Can go when fairseq sends plain values.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.trainer import Trainer
from omegaconf import OmegaConf
from torch import Tensor

from fairseq_dsp.errors import UserError
from fairseq_dsp.wrapping import wrap

_CONFIG = "an omegaconf configuration"
_METADATA = "what the state dict of the model says of itself"


def apply() -> None:
    """Wrap the functions that send objects and tensors, and the method that loads checkpoints."""
    wrap(distributed_utils, "broadcast_object", _with_metadata)
    wrap(distributed_utils, "broadcast_tensors", _row_by_row)
    wrap(distributed_utils, "_broadcast_object_slow", _sending_plain_values)
    wrap(Trainer, "load_checkpoint", _seen_by_all)


def _with_metadata(stock: Callable[..., Any], obj: Any, *args: Any, **kwargs: Any) -> Any:
    if isinstance(obj, dict) and (metadata := getattr(obj.get("model"), "_metadata", None)) is not None:
        obj = {**obj, _METADATA: metadata}
    received = stock(obj, *args, **kwargs)
    if isinstance(received, dict) and _METADATA in received:
        received["model"] = OrderedDict(received["model"])
        received["model"]._metadata = OrderedDict(received.pop(_METADATA))
    return received


def _sending_plain_values(stock: Callable[..., Any], obj: Any, *args: Any, **kwargs: Any) -> Any:
    with torch.serialization.safe_globals([distributed_utils._TensorPlaceholder]):
        return _with_configs(stock(_plain(obj), *args, **kwargs))


def _plain(value: Any) -> Any:
    """Return a value with its configurations as plain ones."""
    if OmegaConf.is_config(value):
        return {_CONFIG: OmegaConf.to_container(value, enum_to_str=True)}
    return _mapped(_plain, value)


def _with_configs(value: Any) -> Any:
    """Return what :func:`_plain` was made from."""
    if isinstance(value, dict) and set(value) == {_CONFIG}:
        return OmegaConf.create(value[_CONFIG], flags={"allow_objects": True})
    return _mapped(_with_configs, value)


def _mapped(function: Callable[[Any], Any], value: Any) -> Any:
    if isinstance(value, dict):
        return {key: function(inner) for key, inner in value.items()}
    return type(value)(map(function, value)) if type(value) in (list, tuple) else value


def _row_by_row(
    stock: Callable[..., list[Tensor]], tensors: list[Tensor] | None, *args: Any, **kwargs: Any
) -> list[Tensor]:
    return stock(None if tensors is None else [t.contiguous() for t in tensors], *args, **kwargs)


def _seen_by_all(stock: Callable[..., Any], self: Any, filename: str, *args: Any, **kwargs: Any) -> Any:
    processes = self.data_parallel_world_size
    if processes > 1:
        seen = torch.tensor(float(PathManager.isfile(filename)), device=self.device)
        distributed_utils.all_reduce(seen, self.data_parallel_process_group)
        if 0 < seen < processes:
            raise UserError(
                f"Only {seen:.0f} of {processes} processes see the checkpoint {filename}: put it where all "
                "machines read it under this name, such as a shared file system."
            )
    return stock(self, filename, *args, **kwargs)
