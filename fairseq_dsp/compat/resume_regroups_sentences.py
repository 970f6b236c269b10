"""A training that was interrupted sees other batches than one that was not.

Broken: ve-fairseq 0.12.3 groups the sentences into batches once per process, drawing the order of equally long
sentences from ``seed + epoch`` of the epoch it starts at. A training resumed in epoch 3 groups them as of epoch 3, a
training straight through as of epoch 1: from there on they see different batches and end with different weights.

Fix: a resumed training groups them as of epoch 1 too. Where fairseq groups anew each epoch (sharded data,
``--update-epoch-batch-itr``), nothing changes. Can go when fairseq draws the grouping from the seed alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from fairseq.tasks.fairseq_task import FairseqTask

from fairseq_dsp.wrapping import wrap


def apply() -> None:
    """Wrap the method with which every task makes its batches."""
    wrap(FairseqTask, "get_batch_iterator", _grouping_as_of_epoch_1)


def _grouping_as_of_epoch_1(stock: Callable[..., Any], self: Any, *args: Any, **kwargs: Any) -> Any:
    bound = inspect.signature(stock).bind(self, *args, **kwargs)
    bound.apply_defaults()
    given = bound.arguments
    dataset, epoch = given["dataset"], given["epoch"]
    grouped_once = (
        self.can_reuse_epoch_itr(dataset)
        and not given["disable_iterator_cache"]
        and not given["update_epoch_batch_itr"]
    )
    if epoch <= 1 or not grouped_once or dataset in self.dataset_to_epoch_iter:
        return stock(*bound.args, **bound.kwargs)
    given["epoch"] = 1
    iterator = stock(*bound.args, **bound.kwargs)
    iterator.epoch = epoch
    dataset.set_epoch(epoch)
    return iterator
