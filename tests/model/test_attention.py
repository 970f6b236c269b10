"""Compact attention against fairseq's attention with the other heads' outputs thrown away."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from fairseq.modules import MultiheadAttention

from fairseq_dsp.model.attention import PrunableAttention
from fairseq_dsp.model.attention_heads import attention_module

WIDTH, HEADS, STEPS, SOURCE = 24, 4, 9, 6


def pair(kept, *, cross):
    """Stock attention in which only the *kept* heads have an effect, and the compact one made of it."""
    torch.manual_seed(len(kept))
    options = {"encoder_decoder_attention": True} if cross else {"self_attention": True}
    stock = MultiheadAttention(WIDTH, HEADS, kdim=WIDTH, vdim=WIDTH, **options).eval().requires_grad_(False)
    torch.nn.init.normal_(stock.out_proj.bias)
    size = WIDTH // HEADS
    for head in set(range(HEADS)) - set(kept):
        stock.out_proj.weight[:, head * size : (head + 1) * size] = 0
    small = PrunableAttention.of(copy.deepcopy(stock))
    small.remove(attention_module("cross" if cross else "encoder_self", 0, "", HEADS, size, WIDTH, WIDTH), kept)
    return stock, small


def orders(sentences, beams, draw):
    """Beam search's orders of rows: beams mixed within their sentence, sentences that end, once one row of each."""
    alive = sentences
    for step in range(STEPS):
        rows = [s * beams + draw.randrange(beams) for s in range(alive) for _ in range(beams)]
        if step in (2, 5):  # the last sentence, or the first, is finished
            rows = rows[:-beams] if step == 2 else rows[beams:]
            alive -= 1
        yield torch.tensor(rows)
    yield torch.tensor([0])


@torch.no_grad()
@pytest.mark.parametrize("kept", [(), (2,), (0, 3), (0, 1, 2, 3)])
@pytest.mark.parametrize("beams", [1, 4])
def test_decoding_with_reordered_beams(kept, beams):
    draw, sentences = random.Random(1), 4
    both = {cross: pair(kept, cross=cross) for cross in (False, True)}
    encoded = torch.randn(SOURCE, sentences, WIDTH)
    padding = torch.zeros(sentences, SOURCE, dtype=torch.bool)
    padding[1, :2] = padding[3, :1] = True
    copies = torch.arange(sentences).repeat_interleave(beams)
    states = {model: {} for models in both.values() for model in models}
    rows = sentences * beams
    for step, order in enumerate(orders(sentences, beams, draw)):
        query = torch.randn(1, rows, WIDTH)
        for cross, (stock, small) in both.items():
            common = {"need_weights": False, "static_kv": cross}
            for model in (stock, small):
                key, mask = query, None
                if cross:  # stock has a copy of the source for each beam
                    key = encoded[:, copies] if model is stock else encoded
                    mask = padding[copies] if model is stock else padding
                result, _ = model(query, key, key, mask, incremental_state=states[model], **common)
                if model is stock:
                    expected = result
            torch.testing.assert_close(result, expected, msg=lambda text, s=step, c=cross: f"step {s}, {c}: {text}")
            for model in (stock, small):
                model.reorder_incremental_state(states[model], order)
        rows = len(order)


@pytest.mark.parametrize("kept", [(1,), (0, 2, 3)])
def test_probabilities_are_those_of_the_kept_heads(kept):
    stock, small = pair(kept, cross=True)
    query, key = torch.randn(3, 2, WIDTH), torch.randn(SOURCE, 2, WIDTH)
    _, every = stock(query, key, key, need_weights=True, need_head_weights=True, static_kv=True)  # not the fused path
    _, heads = small(query, key, key, need_weights=True, need_head_weights=True)
    torch.testing.assert_close(heads, every[list(kept)])
    _, mean = small(query, key, key, need_weights=True)
    torch.testing.assert_close(mean, every[list(kept)].mean(0))
