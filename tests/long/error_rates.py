"""How often the report's statistics are wrong, where it is known that nothing differs.

    python tests/long/error_rates.py --studies 1000

The first table is of simulated studies, described in tests/simulated.py: an unpruned model and six methods that are as
good, each with so many seeds, on a new test set each time. A p-value below 0.05, an interval of a difference that
leaves 0 out, a star in a table of six comparisons, and an interval of a mean that leaves the true mean out should come
in 5% of cases (a star in 5% at most). With one seed the interval is of the sentences only: its errors are those with
seeds that do not matter.

The second table needs no simulation: the errors for every ratio of what the seeds make of the variance to what the
sentences make of it, by integration over what may be measured of it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from simulated import SENTENCES, Setting, error_rate, rates

SETTINGS = {
    "seeds, sentences for each run": Setting(0.4, 0.0, 0.35),
    "seeds, sentences for all seeds": Setting(0.4, 0.35, 0.1),
    "seeds, sentences both ways": Setting(0.4, 0.25, 0.25),
    "seeds a little": Setting(0.1, 0.35, 0.1),
    "sentences for each run only": Setting(0.0, 0.0, 0.35),
}
RATIOS = (0.0, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 1e4)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=1000, help="for each row of the first table (default: 1000)")
    parser.add_argument("--methods", type=int, default=6, help="beside the unpruned model (default: 6)")
    parser.add_argument("--seeds", type=int, nargs="*", default=[1, 2, 3, 5])
    args = parser.parse_args()
    start = time.time()
    print(f"{args.studies} studies of {args.methods} methods, {SENTENCES} test sentences\n")
    print(
        "| what varies | SD by seeds, shared, own | seeds | SD of Δ | p < 0.05 | Δ without 0 | any star | mean missed |"
    )
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    for name, setting in SETTINGS.items():
        for seeds in args.seeds:
            found = rates(setting, seeds, args.methods, args.studies)
            cells = (found.significant, found.without_0, found.any_star, found.wrong_means)
            sizes = f"{setting.seeds:g}, {setting.shared:g}, {setting.own:g}"
            shares = " | ".join(f"{100 * one:.1f}%" for one in cells)
            print(f"| {name} | {sizes} | {seeds} | {found.deviation:.2f} | {shares} |", flush=True)
    print("\n| seeds' part : sentences' part | " + " | ".join(f"{ratio:g}" for ratio in RATIOS) + " |")
    print("|---|" + "--:|" * len(RATIOS))
    for level in (0.05, 0.01, 0.002):
        for seeds in (2, 3, 4, 5, 10):
            found_rates = [100 * error_rate(seeds, ratio, level) for ratio in RATIOS]
            shares = " | ".join(f"{one:.2f}%" for one in found_rates)
            print(f"| {seeds} seeds, level {100 * level:g}% | {shares} |", flush=True)
    print(f"\n{(time.time() - start) / 60:.0f} minutes")


if __name__ == "__main__":
    main()
