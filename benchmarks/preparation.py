#!/usr/bin/env python3
"""How much memory and time does a preparation take as the corpus grows?

    python benchmarks/preparation.py FOLDER [--pairs 1000000 2000000 5000000] [--shard-size N] [--json OUT] [OPTION …]

Generates parallel text of so many pairs in FOLDER: words by Zipf's law, 300,000 kinds a language, 9 a sentence. Each is
prepared by `fairseq-dsp prepare custom`, with further OPTIONs given to it, and measured by the kernel's account of the
processes: the memory of the largest one, processor time of all, wall time. Text that is there already is used again.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

KINDS, EXPONENT, MEAN_LENGTH, BLOCK = 300_000, 1.05, 9, 50_000
LANGUAGES = ("xx", "yy")


def vocabulary(seed: int) -> np.ndarray:
    """Invented words, a short one first, no two alike. *Shape:* (KINDS)"""
    draw = np.random.default_rng(seed)
    syllables = np.array([c + v + e for c in "bdfghklmnprstvz" for v in "aeiou" for e in ("", "n", "r", "s")])
    words: dict[str, None] = {}
    while len(words) < KINDS:
        length = 1 + (len(words) > 150) + (len(words) > 20_000)
        words.setdefault("".join(draw.choice(syllables, length)))
    return np.array(list(words))


def write(folder: Path, pairs: int) -> list[Path]:
    """Write the two sides of a text, or find them written."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{pairs}.{language}" for language in LANGUAGES]
    if all(path.exists() for path in paths):
        return paths
    draw = np.random.default_rng(pairs)
    weights = 1 / np.arange(1, KINDS + 1) ** EXPONENT
    cumulated = np.cumsum(weights / weights.sum())
    words = [vocabulary(seed) for seed in (1, 2)]
    partial = [path.with_suffix(path.suffix + ".partial") for path in paths]
    with partial[0].open("w", encoding="utf-8") as source, partial[1].open("w", encoding="utf-8") as target:
        for start in range(0, pairs, BLOCK):
            lengths = 2 + draw.poisson(MEAN_LENGTH - 2, min(BLOCK, pairs - start))
            kinds = np.searchsorted(cumulated, draw.random(lengths.sum()))
            ends = np.cumsum(lengths)
            for file, side in ((source, words[0]), (target, words[1])):
                text = side[kinds].tolist()
                file.writelines(
                    " ".join(text[end - n : end]) + ".\n"
                    for n, end in zip(lengths.tolist(), ends.tolist(), strict=True)
                )
    for old, new in zip(partial, paths, strict=True):
        old.rename(new)
    return paths


def measure(command: list[str]) -> dict[str, float]:
    """Run a command to its end; its largest process in MB, processor and wall time in seconds."""
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - start
    if status:
        raise SystemExit(f"exit status {os.waitstatus_to_exitcode(status)}: {' '.join(command)}")
    # of a process and its children the kernel keeps the largest, not the sum
    return {"MB": usage.ru_maxrss / 1024, "cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": wall}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1_000_000, 2_000_000, 5_000_000], metavar="N")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also write the figures to this file")
    args, options = parser.parse_known_args()
    results: list[dict[str, Any]] = []
    print(f"{'pairs':>10} {'text MB':>8} {'largest process MB':>19} {'processor s':>12} {'wall s':>8}")
    for pairs in args.pairs:
        paths = write(args.folder, pairs)
        out = args.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        prepare = [sys.executable, "-m", "fairseq_dsp.cli", "prepare", "custom", *map(str, paths), str(out), *options]
        found = measure(prepare)
        size = sum(path.stat().st_size for path in paths) / 1e6
        results.append({"pairs": pairs, "text_MB": size, "options": options, **found})
        print(f"{pairs:10,} {size:8.0f} {found['MB']:19.0f} {found['cpu_s']:12.0f} {found['wall_s']:8.0f}", flush=True)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
