"""What choosing the heads costs: a sample of the gates, forward and backward, against a training update.

    python benchmarks/selection.py --json docs/results/selection-cost.json

The update is that of transformer_dsp_wmt_en_de, which has 144 heads, without pruning, as training_update.py makes it.
The selections run on the CPU wherever the model is; on a GPU the copies to and fro are part of their time. Updates and
samples take turns, so that a noisy machine harms both alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import training_update
from tqdm import tqdm

from fairseq_dsp.subset import SELECTIONS, Annealing, Budget

Kind = tuple[str, int, int, float]
"""Selection, N, K and temperature."""


def sample(kind: Kind, device: str) -> float:
    """Draw one sample of the gates and go backward through it; return the time in seconds."""
    name, n, k, temperature = kind
    selection, budget = SELECTIONS[name](Annealing(temperature, temperature, 1)), Budget.top(k, n)
    generator = torch.Generator().manual_seed(1)
    scores = torch.randn(n, device=device, requires_grad=True)
    incoming = torch.randn(n, device=device)
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    selection.sample(scores, budget, 0, generator).backward(incoming)
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--length", type=int, default=32, help="tokens a sentence")
    parser.add_argument("--updates", type=int, default=8, help="timed updates, after two to warm up")
    parser.add_argument("--samples", type=int, default=30, help="samples of each kind between two updates")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    args.size, args.vocabulary, args.fp16 = "wmt_en_de", 8000, args.device == "cuda"
    kinds: list[Kind] = [
        (name, n, k, t)
        for name in ("simple", "gumbel")
        for n, k, t in [*((144, k, t) for k in (4, 72, 136) for t in (1.0, 0.05)), (72, 36, 0.05)]
    ]
    times: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    updates = []
    with tempfile.TemporaryDirectory() as folder:
        training_update.make_dictionaries(args, Path(folder))
        trainer = training_update.make_trainer(144, args, Path(folder))
        batch = training_update.make_batch(args)
        for i in tqdm(range(args.updates + 2), desc="updates"):
            seconds = training_update.update(trainer, batch)
            drawn = {kind: [sample(kind, args.device) for _ in range(args.samples)] for kind in kinds}
            if i >= 2:
                updates.append(seconds)
                for kind in kinds:
                    times[kind] += drawn[kind]
    update = statistics.median(updates)
    print(f"a training update of transformer_dsp_wmt_en_de (144 heads): {update:.3f} s")
    print("| selection | N | K | temperature | ms, forward and backward | of an update |\n|---|---|---|---|---|---|")
    rows = []
    for (name, n, k, temperature), values in times.items():
        seconds = statistics.median(values)
        row = {"selection": name, "n": n, "k": k, "temperature": temperature}
        rows.append({**row, "seconds": seconds, "share": seconds / update})
        print(f"| {name} | {n} | {k} | {temperature:g} | {1000 * seconds:.2f} | {100 * seconds / update:.2f}% |")
    if args.json:
        about = {name: str(value) for name, value in vars(args).items() if name != "json"}
        args.json.write_text(json.dumps({"about": about, "update_seconds": update, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
