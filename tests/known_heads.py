"""A Transformer of which it is known which heads matter, and whether a method finds them.

Its weights are random. In each attention module two of eight heads, at random places, are loud, and they alone make the
targets; all other heads are noise. The student has the same weights and all the heads. Its weights are frozen, and each
method chooses as many heads as matter (6 of 24). The hit rate is the share found.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from fairseq.data import Dictionary
from fairseq.models.transformer import transformer_legacy
from torch import Tensor

from fairseq_dsp.importance import choose, score
from fairseq_dsp.model import PrunableTransformer

HEADS, WIDTH, WORDS = 8, 32, 30
N, M = 3 * HEADS, 6
LOUD = 4.0
"""How much more a head that matters says than one that is noise."""

METHODS: dict[str, dict[str, Any]] = {
    "gumbel": {},
    "gumbel, the paper's temperatures": {"initial_temperature": 0.1, "final_temperature": 1e-8, "cooldown": 0.25},
    "ste": {"head_selection": "ste"},
    "simple": {"head_selection": "simple"},
    "hard_concrete at K": {"head_selection": "hard_concrete", "shrinking": 0.5},
    "michel, one shot": {"steps": 1},
    "michel, greedy in 6 steps": {"steps": 6},
}


def build(seed: int, **options: Any) -> PrunableTransformer:
    """A small Transformer with the same random weights for the same seed."""
    words = Dictionary()
    for i in range(WORDS):
        words.add_symbol(f"w{i}")
    sizes = {
        "layers": 1,
        "attention_heads": HEADS,
        "embed_dim": WIDTH,
        "ffn_embed_dim": WIDTH,
        "normalize_before": True,
    }
    args = Namespace(**{f"{side}coder_{k}": v for side in ("en", "de") for k, v in sizes.items()}, dropout=0.0)
    transformer_legacy.base_architecture(args)
    vars(args).update(options)
    torch.manual_seed(seed)
    task: Any = SimpleNamespace(source_dictionary=words, target_dictionary=words)
    model = PrunableTransformer.build_model(args, task)
    with torch.no_grad():
        model.decoder.output_projection.weight.mul_(3)  # targets that can be told apart
        for module in model.pruner.modules:
            module.module.q_proj.weight.mul_(6)  # heads that look at different words, and so differ in what they say
    return model


def truth(seed: int) -> Tensor:
    """0/1 for each head: whether it matters. *Shape:* (N)"""
    draw = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(HEADS, generator=draw) < 2 for _ in range(3)]).float()


def make_loud(model: PrunableTransformer, matters: Tensor) -> None:
    """Have all heads that matter say equally much, and all that are noise; module by module, the first ones first."""
    inputs = sentences(torch.Generator().manual_seed(0), 64)
    for attention, values in zip(model.pruner.gated, matters.split(HEADS), strict=True):
        heard: list[Tensor] = []
        gate = attention.out_proj
        handle = gate.register_forward_pre_hook(lambda _, args, heard=heard: heard.append(args[0]))
        with torch.no_grad(), plain_attention(model):
            model.eval()(**inputs)
            weight = gate.weight
            for h, matter in enumerate(values.tolist()):
                columns = slice(h * WIDTH // HEADS, (h + 1) * WIDTH // HEADS)
                size = F.linear(heard[0][..., columns], weight[:, columns]).square().mean().sqrt()
                weight[:, columns] *= (LOUD if matter else 1.0) / 3 / size
        handle.remove()


class plain_attention:  # noqa: N801 — a context manager
    """While in the block, the attention modules hand their head outputs to the output projection, where hooks see."""

    def __init__(self, model: PrunableTransformer) -> None:
        self.attentions = model.pruner.gated

    def __enter__(self) -> None:
        for attention in self.attentions:
            attention.skip_embed_dim_check = True

    def __exit__(self, *_: object) -> None:
        for attention in self.attentions:
            attention.skip_embed_dim_check = False


def sentences(draw: torch.Generator, size: int) -> dict[str, Any]:
    """Random source and previous target words."""
    source, previous = torch.randint(4, 4 + WORDS, (2, size, 8), generator=draw)  # after fairseq's own symbols
    return {"src_tokens": source, "src_lengths": torch.full((size,), 8), "prev_output_tokens": previous}


def batch(teacher: PrunableTransformer, matters: Tensor, draw: torch.Generator, size: int) -> dict[str, Any]:
    """Random sentences, and the words that the heads that matter answer with."""
    net_input = sentences(draw, size)
    words = torch.multinomial(logits(teacher, net_input, matters).flatten(0, 1).softmax(-1), 1, generator=draw)
    return {"net_input": net_input, "target": words.view(size, 8)}


def logits(teacher: PrunableTransformer, net_input: dict[str, Any], gates: Tensor) -> Tensor:
    """What a model without a budget answers with the given gates."""
    with torch.no_grad():
        for attention, values in zip(teacher.pruner.gated, gates.split(HEADS), strict=True):
            attention.gate = values.repeat_interleave(attention.head_dim)
        answer: Tensor = teacher(**net_input)[0]
        for attention in teacher.pruner.gated:
            attention.gate = None
    return answer


def make_teacher(seed: int) -> tuple[PrunableTransformer, Tensor, torch.Generator]:
    """The truth: a model, the heads of it that matter, and where its sentences are drawn from."""
    matters, teacher = truth(seed), build(seed)
    make_loud(teacher, matters)
    return teacher, matters, torch.Generator().manual_seed(seed + 1)


def margin(seed: int) -> float:
    """How much the loss grows at least when one head that matters is exchanged for one that does not."""
    teacher, matters, draw = make_teacher(seed)
    sample = batch(teacher, matters, draw, 256)

    def loss(gates: Tensor) -> float:
        answer = logits(teacher, sample["net_input"], gates)
        return F.cross_entropy(answer.flatten(0, 1), sample["target"].flatten()).item()

    swapped = []
    for out in matters.nonzero().flatten():
        for into in (1 - matters).nonzero().flatten():
            swapped.append(loss(matters.index_fill(0, out, 0).index_fill(0, into, 1)))
    return min(swapped) - loss(matters)


def hit_rate(method: str, seed: int, *, updates: int = 100) -> float:
    """The share of the heads that matter which *method* finds."""
    options = dict(METHODS[method])
    teacher, matters, draw = make_teacher(seed)
    choosing: Callable[..., Tensor] = by_scores if "steps" in options else by_training
    kept = choosing(teacher, matters, draw, seed=seed, updates=updates, **options)
    assert kept.sum() == M
    return float((kept * matters).sum() / M)


def by_scores(teacher: PrunableTransformer, matters: Tensor, draw: torch.Generator, *, steps: int, **_: Any) -> Tensor:
    """The heads that scoring chooses."""
    batches = [batch(teacher, matters, draw, 64) for _ in range(20)]
    shape = {kind: [HEADS] for kind in ("encoder_self", "decoder_self", "cross")}
    chosen, _scores = choose(
        lambda g: score(teacher, batches, gates=g if g.dim() else torch.ones(N)), shape, M, steps=steps
    )
    return chosen.to_gates(shape)


def by_training(
    teacher: PrunableTransformer, matters: Tensor, draw: torch.Generator,
    *, seed: int, updates: int, cooldown: float = 0.9, shrinking: float | None = None, **options: Any,
) -> Tensor:  # fmt: skip
    """The heads that training the importance chooses, with this package's defaults where nothing else is given.

    :param cooldown: the share of the updates in which the temperature falls.
    :param shrinking: the share of the updates in which the budget falls.
    """
    if shrinking:
        options["heads_to_keep_updates"] = int(shrinking * updates)
    model = build(seed, heads_to_keep=M, cooldown_updates=int(cooldown * updates), **options)
    model.load_state_dict(teacher.state_dict())
    pruner = model.pruner
    rate = pruner.plan.config.pruning_lr
    optimizer = torch.optim.Adam([pruner.importance], lr=rate, betas=(0.9, 0.98), eps=1e-12)
    for update in range(updates):
        model.set_num_updates(update)
        model.train()
        sample = batch(teacher, matters, draw, 32)
        answer = model(**sample["net_input"])[0]
        loss = F.cross_entropy(answer.flatten(0, 1), sample["target"].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return pruner.plan.keep(pruner.importance.detach())
