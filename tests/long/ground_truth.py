"""Do the methods find the heads that matter, where it is known which do?

    python tests/long/ground_truth.py --seeds 20

A small Transformer with random weights is the truth: in each attention module two of eight heads, at random places, are
loud, and they alone made the targets; all other heads are noise. The student has the same weights and all the heads.
Its weights are frozen, and each method chooses as many heads as matter (6 of 24). The hit rate is the share found.

With --anywhere the heads that matter lie anywhere, not two in each module.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from argparse import Namespace
from pathlib import Path
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
LOUD = 6.0
"""How much more a head that matters says than one that is noise."""
RATE = 0.2
"""Of the importance variables."""

METHODS: dict[str, dict[str, Any]] = {
    "gumbel": {"initial_temperature": 1.0, "final_temperature": 0.05},
    "gumbel, the paper's temperatures": {"initial_temperature": 0.1, "final_temperature": 1e-8, "cooldown": 0.25},
    "ste": {"head_selection": "ste"},
    "simple": {"head_selection": "simple", "initial_temperature": 1.0, "final_temperature": 0.05},
    "hard_concrete, λ adapted to K": {"head_selection": "hard_concrete"},
    "michel, one shot": {},
    "michel, greedy in 6 steps": {},
}


def build(seed: int, **options: Any) -> PrunableTransformer:
    """A small Transformer whose heads are all alike, with the same weights for the same seed."""
    words = Dictionary()
    for i in range(WORDS):
        words.add_symbol(f"w{i}")
    sizes = {"layers": 1, "attention_heads": HEADS, "embed_dim": WIDTH, "ffn_embed_dim": WIDTH}
    args = Namespace(**{f"{side}coder_{k}": v for side in ("en", "de") for k, v in sizes.items()}, dropout=0.0)
    transformer_legacy.base_architecture(args)
    vars(args).update(options)
    torch.manual_seed(seed)
    task: Any = SimpleNamespace(source_dictionary=words, target_dictionary=words)
    model = PrunableTransformer.build_model(args, task)
    with torch.no_grad():
        model.decoder.output_projection.weight.mul_(6)  # targets that can be told apart
    return model


def truth(seed: int, anywhere: bool) -> Tensor:
    """0/1 for each head: whether it matters. *Shape:* (N)"""
    draw = torch.Generator().manual_seed(seed)
    if anywhere:
        return torch.zeros(N).index_fill(0, torch.randperm(N, generator=draw)[:M], 1)
    return torch.cat([torch.randperm(HEADS, generator=draw) < 2 for _ in range(3)]).float()


def make_loud(model: PrunableTransformer, matters: Tensor) -> None:
    """Multiply what the heads that matter say."""
    with torch.no_grad():
        for gate, values in zip(model.pruner.gates, matters.split(HEADS), strict=True):
            gate._parameters["weight"].mul_((1 + (LOUD - 1) * values).repeat_interleave(WIDTH // HEADS))


def batch(teacher: PrunableTransformer, matters: Tensor, draw: torch.Generator, size: int) -> dict[str, Any]:
    """Random sentences, and the words that the heads that matter answer with."""
    first = 4  # after fairseq's own symbols
    source = torch.randint(first, first + WORDS, (size, 8), generator=draw)
    previous = torch.randint(first, first + WORDS, (size, 8), generator=draw)
    net_input = {"src_tokens": source, "src_lengths": torch.full((size,), 8), "prev_output_tokens": previous}
    for gate, values in zip(teacher.pruner.gates, matters.split(HEADS), strict=True):
        gate.gate = values
    with torch.no_grad():
        logits = teacher(**net_input)[0]
    for gate in teacher.pruner.gates:
        gate.gate = None
    words = torch.multinomial(logits.flatten(0, 1).softmax(-1), 1, generator=draw)
    return {"net_input": net_input, "target": words.view(size, 8)}


def hit_rate(method: str, seed: int, *, updates: int = 150, anywhere: bool = False) -> float:
    """The share of the heads that matter which *method* finds."""
    options = dict(METHODS[method])
    cooldown, rate = int(updates * options.pop("cooldown", 0.9)), options.pop("rate", RATE)
    matters = truth(seed, anywhere)
    teacher = build(seed)
    make_loud(teacher, matters)
    draw = torch.Generator().manual_seed(seed + 1)
    if method.startswith("michel"):
        batches = [batch(teacher, matters, draw, 64) for _ in range(20)]
        steps = 6 if "greedy" in method else 1
        chosen, _ = choose(lambda g: score(teacher, batches, gates=g if g.dim() else torch.ones(N)), M, steps=steps)
        kept = chosen.to_gates({kind: [HEADS] for kind in ("encoder_self", "decoder_self", "cross")})
        return float((kept * matters).sum() / M)
    model = build(seed, heads_to_keep=M, cooldown_updates=cooldown, **options)
    make_loud(model, matters)
    pruner = model.pruner
    optimizer = torch.optim.Adam([gate.importance for gate in pruner.gates], lr=rate, betas=(0.9, 0.98), eps=1e-12)
    for update in range(updates):
        model.set_num_updates(update)
        model.train()
        sample = batch(teacher, matters, draw, 32)
        logits = model(**sample["net_input"])[0]
        loss = F.cross_entropy(logits.flatten(0, 1), sample["target"].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    kept = pruner.plan.keep(pruner.importance)
    assert kept.sum() == M
    return float((kept * matters).sum() / M)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--updates", type=int, default=150, help="of the methods that train")
    parser.add_argument("--anywhere", action="store_true", help="the heads that matter lie anywhere")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--json", type=Path, help="where the hit rate of every seed goes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, list[float]] = {}
    print(
        "| method | mean hit rate | seeds with all found | lowest | seconds a seed |\n|---|---|---|---|---|", flush=True
    )
    for method in args.methods:
        start = time.perf_counter()
        seeds = range(args.first_seed, args.first_seed + args.seeds)
        rates = results[method] = [hit_rate(method, s, updates=args.updates, anywhere=args.anywhere) for s in seeds]
        seconds = (time.perf_counter() - start) / len(rates)
        mean, full = statistics.mean(rates), sum(rate == 1 for rate in rates)
        print(f"| {method} | {mean:.3f} | {full} of {len(rates)} | {min(rates):.2f} | {seconds:.1f} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(vars(args) | {"json": None, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
