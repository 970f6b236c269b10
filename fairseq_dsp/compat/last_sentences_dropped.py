"""Translation and validation leave out the longest sentences.

Broken: ve-fairseq 0.12.3 drops the last batch when its size is no multiple of ``--required-batch-size-multiple``, 8 by
default. The batches go by length, so up to 7 of the longest sentences are missing from the validation loss and from
what fairseq-generate prints and scores, without a word.

Fix: the sentences left over make batches of their own, whatever their number. Can go when fairseq keeps them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from fairseq.data import data_utils

from fairseq_dsp.wrapping import wrap


def apply() -> None:
    """Wrap the function with which every data set makes batches."""
    wrap(data_utils, "batch_by_size", _keeping_all)


def _keeping_all(
    stock: Callable[..., Any],
    indices: Any,
    num_tokens_fn: Callable[[int], int],
    num_tokens_vec: Any = None,
    max_tokens: int | None = None,
    max_sentences: int | None = None,
    required_batch_size_multiple: int = 1,
    fixed_shapes: Any = None,
) -> list[Any]:
    indices = np.asarray(indices if isinstance(indices, np.ndarray) else list(indices), dtype=np.int64)
    given = (max_tokens, max_sentences, required_batch_size_multiple, fixed_shapes)
    batches = list(stock(indices, num_tokens_fn, num_tokens_vec, *given)) if len(indices) else []
    rest = sum(map(len, batches))
    if fixed_shapes is None and rest < len(indices):
        vector = None if num_tokens_vec is None else num_tokens_vec[rest:]
        batches += stock(indices[rest:], num_tokens_fn, vector, max_tokens, max_sentences, 1)
    return batches
