"""Every sentence is in a batch, and the limits of a batch hold."""

from __future__ import annotations

import numpy as np
import pytest
from fairseq.data import data_utils

import fairseq_dsp  # noqa: F401 — fixes fairseq


@pytest.mark.parametrize("sentences", [1, 7, 8, 20, 1014])
@pytest.mark.parametrize(("max_tokens", "max_sentences"), [(None, 1), (None, 8), (40, None), (400, 50)])
@pytest.mark.parametrize("multiple", [1, 8])
def test_no_sentence_is_lost(sentences: int, max_tokens: int, max_sentences: int, multiple: int) -> None:
    lengths = np.sort(np.random.RandomState(1).randint(2, 12, sentences)).astype(np.int64)
    indices = np.arange(sentences)
    for vector in (lengths, None):
        batches = data_utils.batch_by_size(
            indices, lambda i: int(lengths[i]), vector, max_tokens, max_sentences, multiple
        )
        assert [i for batch in batches for i in batch] == list(indices)
        for batch in batches:
            assert max_sentences is None or len(batch) <= max_sentences
            assert max_tokens is None or len(batch) * lengths[batch].max() <= max_tokens
