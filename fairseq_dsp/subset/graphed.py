"""A fixed sequence of operations as one launch: instead of hundreds of launches at every update of a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


class Graphed:
    """A function of tensors of fixed shapes as a CUDA graph.

    The CPU launches each operation by itself, which takes longer than the GPU needs for one on small tensors. A graph
    is recorded once and then launched whole. So what the function does must depend on the shapes of its inputs alone,
    and it may neither read a value nor bring one from the CPU, except when it is run for the first time.

    :param function: maps the inputs to a tensor.
    :param inputs: of the shapes, types and device of all inputs to come; their values do not matter but must be valid.
    """

    def __init__(self, function: Callable[..., Tensor], *inputs: Tensor) -> None:
        self._inputs = [torch.clone(tensor) for tensor in inputs]
        self._graph = torch.cuda.CUDAGraph()
        stream = torch.cuda.Stream(inputs[0].device)
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function(*self._inputs)  # constants are made and libraries are loaded
            # other threads, such as those that pin batches, go on meanwhile
            self._graph.capture_begin(capture_error_mode="thread_local")
            self._output = function(*self._inputs)
            self._graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the function's value, which the next call overwrites."""
        torch._foreach_copy_(self._inputs, list(inputs))
        self._graph.replay()
        return self._output
