"""What would make a GPU wait for the CPU, or the CPU for it, found without a GPU.

Tensors on torch's device ``meta`` have no values: whatever needs one on the CPU fails there, and so would wait for a
GPU. What is left to watch is the copies to the device.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class NothingWaits(TorchDispatchMode):
    """Fails where a GPU would wait for the CPU, or the CPU for it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)  # on the device meta, what reads a value fails here
        given = [leaf.device.type for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        made = [leaf.device.type for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        copies = "cpu" in given and "meta" in made
        assert not copies or args[-1] is True or kwargs.get("non_blocking"), f"{func} waits for its copy"
        assert "meta" not in given or "cpu" not in made, f"{func} copies to the CPU"
        return result
