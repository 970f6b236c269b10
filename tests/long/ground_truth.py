"""Do the methods find the heads that matter, where it is known which do?

    python tests/long/ground_truth.py --seeds 20 --margins

The setting is described in tests/known_heads.py. With --margins it is checked first that the heads that matter are the
best: the loss with them is below the loss with every set that differs in one head.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from known_heads import METHODS, hit_rate, margin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--updates", type=int, default=100, help="of the methods that train (default: 100)")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--margins", action="store_true", help="check that the heads that matter are the best ones")
    parser.add_argument("--json", type=Path, help="where the hit rate of every seed goes")
    args = parser.parse_args()
    torch.set_num_threads(1)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    if args.margins:
        margins = [margin(seed) for seed in seeds]
        print(f"exchanging one head costs at least {min(margins):.3f} (median of the seeds: "
              f"{statistics.median(margins):.3f}) nats a word", flush=True)  # fmt: skip
    results: dict[str, list[float]] = {}
    print(
        "| method | mean hit rate | seeds with all found | lowest | seconds a seed |\n|---|---|---|---|---|", flush=True
    )
    for method in args.methods:
        start = time.process_time()
        rates = results[method] = [hit_rate(method, seed, updates=args.updates) for seed in seeds]
        seconds = (time.process_time() - start) / len(rates)
        mean, full = statistics.mean(rates), sum(rate == 1 for rate in rates)
        print(f"| {method} | {mean:.3f} | {full} of {len(rates)} | {min(rates):.2f} | {seconds:.1f} |", flush=True)
    if args.json:
        args.json.write_text(json.dumps(vars(args) | {"json": None, "results": results}, indent=1) + "\n")


if __name__ == "__main__":
    main()
