#!/usr/bin/env python3
"""How much memory and time does a preparation take as the corpus grows?

    python benchmarks/preprocessing.py FOLDER [--pairs 2000000 5000000] [--way WAY] [--json OUT] [OPTION …]

Generates parallel text of so many pairs in FOLDER: words by Zipf's law, 300,000 kinds a language, 9 a sentence. Text
that is there already is used again. The WAYs to prepare it:

- prepare: `fairseq-dsp prepare custom`, with further OPTIONs given to it;
- fairseq: what fairseq's own scripts do: sentencepiece learns on all text, encodes it line by line, and
  fairseq-preprocess binarises it with two workers;
- sentencepiece: learns on 500,000 sentences that it draws itself and encodes all text with two threads; no data-bin.

Each is measured by the kernel's account of the processes: the memory of the largest one, processor time of all, wall
time. The figures are added to the JSON file OUT.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

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


LEARN = """
import sys, sentencepiece
source, target, model, *options = sys.argv[1:]
options = dict(option.split("=") for option in options)
sentencepiece.SentencePieceTrainer.train(
    input=f"{source},{target}", model_prefix=model, model_type="bpe", vocab_size=8000, minloglevel=2, **options)
"""
ENCODE_LINES = """
import sys, sentencepiece
model = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])
for line in sys.stdin:
    print(" ".join(model.encode(line, out_type=str)))
"""
ENCODE_BATCHES = """
import itertools, sys, sentencepiece
model = sentencepiece.SentencePieceProcessor(model_file=sys.argv[1])
while lines := list(itertools.islice(sys.stdin, 20000)):
    sys.stdout.writelines(" ".join(pieces) + "\\n" for pieces in model.encode(lines, out_type=str, num_threads=2))
"""


class Command(NamedTuple):
    """A command, and the files that are its standard input and output."""

    words: list[str]
    stdin: Path | None = None
    stdout: Path | None = None


def ways(way: str, sides: list[Path], out: Path, options: list[str]) -> Iterator[Command]:
    """The commands of a way to prepare a text, each to be run before the next is asked for."""
    if way == "prepare":
        words = [sys.executable, "-m", "fairseq_dsp.cli", "prepare", "custom", *map(str, sides), str(out), *options]
        yield Command(words)
        return
    out.mkdir()
    alone = way == "sentencepiece"
    drawn = ["input_sentence_size=500000", "shuffle_input_sentence=true"] if alone else []
    yield Command([sys.executable, "-c", LEARN, *map(str, sides), str(out / "bpe"), *drawn])
    encode = [sys.executable, "-c", ENCODE_BATCHES if alone else ENCODE_LINES, str(out / "bpe.model")]
    for side, language in zip(sides, LANGUAGES, strict=True):
        yield Command(encode, side, out / f"train.{language}")
    if alone:
        return
    for language in LANGUAGES:
        for held_out in ("valid", "test"):
            yield Command(["head", "-n", "1000", str(out / f"train.{language}")], None, out / f"{held_out}.{language}")
    texts = [word for split in ("train", "valid", "test") for word in (f"--{split}pref", str(out / split))]
    options = ["--joined-dictionary", "--workers", "2", "--destdir", str(out / "data-bin")]
    languages = ["--source-lang", LANGUAGES[0], "--target-lang", LANGUAGES[1]]
    yield Command([sys.executable, "-m", "fairseq_cli.preprocess", *languages, *texts, *options])


def measure(command: Command) -> dict[str, float]:
    """Run a command to its end; its largest process in MB, processor and wall time in seconds."""
    with ExitStack() as files:
        given = files.enter_context(command.stdin.open("rb")) if command.stdin else subprocess.DEVNULL
        printed = files.enter_context(command.stdout.open("wb")) if command.stdout else subprocess.DEVNULL
        start = time.monotonic()
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command.words, stdin=given, stdout=printed, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.monotonic() - start
    if status:
        raise SystemExit(f"exit status {os.waitstatus_to_exitcode(status)}: {' '.join(command.words)}")
    # of a process and its children the kernel keeps the largest, not the sum
    return {"MB": usage.ru_maxrss / 1024, "cpu_s": usage.ru_utime + usage.ru_stime, "wall_s": wall}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.add_argument("--pairs", type=int, nargs="+", default=[2_000_000, 5_000_000], metavar="N")
    parser.add_argument("--way", choices=["prepare", "fairseq", "sentencepiece"], default="prepare")
    parser.add_argument("--json", type=Path, metavar="OUT", help="also add the figures to this file")
    args, options = parser.parse_known_args()
    print(f"{'pairs':>10} {'text MB':>8} {'largest process MB':>19} {'processor s':>12} {'wall s':>8}")
    for pairs in args.pairs:
        sides = write(args.folder, pairs)
        out = args.folder / f"out-{args.way}"
        shutil.rmtree(out, ignore_errors=True)
        steps = [measure(command) for command in ways(args.way, sides, out, options)]
        found = {"MB": max(step["MB"] for step in steps)}
        found |= {name: sum(step[name] for step in steps) for name in ("cpu_s", "wall_s")}
        size = sum(path.stat().st_size for path in sides) / 1e6
        print(f"{pairs:10,} {size:8.0f} {found['MB']:19.0f} {found['cpu_s']:12.0f} {found['wall_s']:8.0f}", flush=True)
        shutil.rmtree(out)
        if args.json:
            results = json.loads(args.json.read_text(encoding="utf-8")) if args.json.exists() else []
            rounded = {name: round(value, 1) for name, value in found.items()}
            results.append({"way": args.way, "options": options, "pairs": pairs, "text_MB": round(size), **rounded})
            lines = ",\n".join(map(json.dumps, results))
            args.json.write_text(f"[\n{lines}\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
