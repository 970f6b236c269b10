"""What a model has: the number of its parameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from fairseq_dsp.model.units import count_parameters

EMBEDDINGS = "encoder.embed_tokens.weight", "decoder.embed_tokens.weight", "decoder.output_projection.weight"


@pytest.mark.parametrize("flags", [(), ("--share-decoder-input-output-embed",)], ids=["apart", "shared"])
@pytest.mark.parametrize("copied", [False, True], ids=["as trained", "averaged"])
def test_shared_embeddings_count_once(build: Callable[..., Any], flags: tuple[str, ...], copied: bool) -> None:
    stock, model = build(*flags, arch="transformer"), build(*flags, "--heads-to-keep", 5)
    expected = sum(parameter.numel() for parameter in stock.parameters())
    state = {name: tensor.clone() if copied else tensor for name, tensor in model.state_dict().items()}
    assert count_parameters(state) == expected
    assert len(state[EMBEDDINGS[0]]) == len(state[EMBEDDINGS[1]])
    for name in EMBEDDINGS[1:]:  # all three
        state[name] = state[EMBEDDINGS[0]].clone() if copied else state[EMBEDDINGS[0]]
    assert count_parameters(state) == expected - state[EMBEDDINGS[0]].numel() * (1 if flags else 2)
