"""What choosing the heads costs: a sample of the gates and its gradient, in milliseconds and in operations.

    python benchmarks/choosing.py --json docs/results/selection-cost.json

On the CPU the time is that of the processor, which other programs on the machine do not lengthen; on a GPU it is the
time until the GPU is done. The operations are those that a device other than the CPU is given: of all that torch
dispatches, forward and backward, what computes and so is launched there, which views and the making of empty tensors
are not. The selections take turns, so that a noisy machine harms all alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from tqdm import tqdm

from fairseq_dsp.subset import SELECTIONS, Annealing, Budget, Draw


@dataclass(frozen=True)
class Kind:
    """What is sampled."""

    selection: str
    n: int
    k: int
    floors: bool = False

    def sample(self, device: str) -> None:
        """Draw one sample of the gates and go backward through it."""
        third = self.n // 3
        floors = [Draw(tuple(range(2 * third, self.n)), 1), Draw(tuple(range(third)), round(self.k / 9))]
        budget = Budget.grouped([range(self.n)], [self.k], floors if self.floors else ())
        selection = SELECTIONS[self.selection](Annealing(0.2, 0.2, 1))
        importance = torch.linspace(-1, 1, self.n, device=device).requires_grad_()
        incoming = torch.ones(self.n, device=device)
        selection.sample(importance, budget, 0, torch.Generator().manual_seed(1)).backward(incoming)

    def seconds(self, device: str) -> float:
        """Return the time of a sample."""
        clock = time.process_time if device == "cpu" else time.perf_counter
        if device == "cuda":
            torch.cuda.synchronize()
        start = clock()
        self.sample(device)
        if device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    def operations(self) -> int:
        """Return how many operations a device is given for a sample; those on ``meta`` have no values to compute."""
        self.sample("meta")  # makes the tensors that are kept for later
        with Operations() as counted:
            self.sample("meta")
        return counted.number


class Operations(TorchDispatchMode):
    """Counts the operations on a device, where none has another thread for the backward pass."""

    def __init__(self, device: str = "meta") -> None:
        super().__init__()
        self.device = device
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        view = any(one.alias_info and not one.alias_info.is_write for one in func._schema.returns)
        made = result[0] if isinstance(result, tuple | list) else result
        computes = not view and not any(word in func.__name__ for word in ("empty", "_unsafe_view", "detach"))
        self.number += computes and isinstance(made, torch.Tensor) and made.device.type == self.device
        return result


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--samples", type=int, default=50, help="timed samples of each kind, after one to warm up")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    names, sizes = ("simple", "gumbel", "hard_concrete", "ste"), (36, 72, 144, 3072)
    kinds = [Kind(name, n, n // 2) for name in names for n in sizes]
    kinds += [Kind("simple", 144, 72, floors=True), Kind("simple", 144, 24), Kind("gumbel", 144, 24)]
    times: dict[Kind, list[float]] = {kind: [] for kind in kinds}
    for i in tqdm(range(args.samples + 1), desc="samples"):
        for kind in kinds:
            if kind.n < 1000 or i <= max(1, args.samples // 5):
                times[kind].append(kind.seconds(args.device))
    print("| selection | N | K | floors | ms, sample and gradient | operations |\n|---|---|---|---|---|---|")
    rows = []
    for kind in sorted(kinds, key=lambda kind: names.index(kind.selection)):
        seconds, operations = statistics.median(times[kind][1:]), kind.operations()
        rows.append({**asdict(kind), "seconds": seconds, "operations": operations})
        floors = "two" if kind.floors else "none"
        print(f"| {kind.selection} | {kind.n} | {kind.k} | {floors} | {1000 * seconds:.2f} | {operations} |")
    if args.json:
        about = {name: str(value) for name, value in vars(args).items() if name != "json"}
        args.json.write_text(json.dumps({"about": about, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
