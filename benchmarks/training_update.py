"""Time and peak memory of a training update, against stock fairseq's transformer of the same sizes.

    python benchmarks/training_update.py --json docs/results/training-speed.json
    python benchmarks/training_update.py --fp16 --sentences 128 --together 12      (a GPU that trainings share)

Each number of heads is measured while the heads are chosen, once they are fixed, and for a model built compact with the
same heads. These are spread over as many modules as possible, which costs most. All models are in one process and take
turns, update by update, so that a noisy machine harms all alike. The batch is random tokens of the given size; what is
timed is fairseq's trainer: forward, backward, clipping, Adam. Peak memory is measured in a fresh process for each model
(on a GPU: torch's own peak; on the CPU: the process's peak resident set). A whole training is worked out from its two
parts: 30% of the updates choose. On the CPU, the operations are counted that forward and backward are made
of, views aside: a GPU is given about as many, but those of the selection at once.

With --together N, N processes train at the same time on one GPU, a third of them the stock model, a third while the
heads are chosen, a third with fixed heads, and the updates that each makes in the same seconds are counted.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from choosing import Operations
from fairseq import options, utils
from fairseq.data import Dictionary
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq.tasks import setup_task
from fairseq.trainer import Trainer
from tqdm import tqdm

import fairseq_dsp  # noqa: F401 — registers the plugin

RECIPE = (
    "--optimizer adam --lr 5e-4 --lr-scheduler inverse_sqrt --warmup-updates 4000 --weight-decay 1e-4 --dropout 0.3 "
    "--criterion label_smoothed_cross_entropy --label-smoothing 0.1 --share-decoder-input-output-embed --clip-norm 1 "
    "--max-tokens 4096 --initial-temperature 1 --final-temperature 0.05"
).split()


Model = tuple[int, str] | None
"""The heads that a model keeps, and how: one of `WAYS`; None for the stock model."""

WAYS = "choosing", "fixed", "compact"

CHOOSING = 0.3
"""The share of the updates of a whole training in which heads are chosen."""


def make_trainer(model: Model, args: argparse.Namespace, folder: Path) -> Trainer:
    """Return a trainer of a model."""
    flags = list(RECIPE)
    arch = f"transformer_dsp_{args.size}"
    if model is None:
        arch = f"transformer_{args.size}"
        flags = flags[: flags.index("--initial-temperature")]
    else:
        kept, way = model
        flags += ["--heads-to-keep", str(kept), "--cooldown-updates", "10000" if way == "choosing" else "0"]
    if model is not None and model[1] == "compact":
        fixed = make_trainer((model[0], "fixed"), args, folder)
        heads = folder / f"{model[0]}.json"
        heads.write_text(fixed.get_model().pruner.kept().to_json(), encoding="utf-8")
        flags = [*RECIPE[: RECIPE.index("--initial-temperature")], "--compact", "--kept-heads", str(heads)]
    flags += ["--cpu"] if args.device == "cpu" else ["--fp16"] if args.fp16 else []
    parser = options.get_training_parser()
    parsed = options.parse_args_and_arch(parser, [str(folder), "--arch", arch, "-s", "x", "-t", "y", *flags])
    cfg = convert_namespace_to_omegaconf(parsed)
    task = setup_task(cfg.task)
    utils.set_torch_seed(1)
    built = task.build_model(cfg.model)
    if getattr(built, "pruner", None) is not None:
        spread(built.pruner, model[0])
    return Trainer(cfg, task, built, task.build_criterion(cfg.criterion))


def spread(pruner: Any, kept: int) -> None:
    """Make heads of as many modules as possible the most important ones."""
    firsts = list(accumulate([module.units for module in pruner.modules], initial=0))
    modules = len(pruner.modules)
    at_once = min(kept, modules)
    with torch.no_grad():
        for i in range(kept):
            turn, place = divmod(i, at_once)
            pruner.importance[firsts[place * modules // at_once] + turn] = 1.0


def make_batch(args: argparse.Namespace) -> dict[str, Any]:
    """Return a batch of random sentences of equal length."""
    draw = torch.Generator().manual_seed(1)
    source = torch.randint(4, args.vocabulary, (args.sentences, args.length), generator=draw)
    target = torch.randint(4, args.vocabulary, (args.sentences, args.length), generator=draw)
    lengths = torch.full((args.sentences,), args.length)
    net_input = {"src_tokens": source, "src_lengths": lengths, "prev_output_tokens": target.roll(1, 1)}
    return {
        "id": torch.arange(args.sentences), "nsentences": args.sentences, "ntokens": target.numel(),
        "net_input": net_input, "target": target,
    }  # fmt: skip


def make_dictionaries(args: argparse.Namespace, folder: Path) -> None:
    """Write the two dictionaries that the task reads."""
    for language in "xy":
        dictionary = Dictionary()
        for i in range(args.vocabulary - len(dictionary)):
            dictionary.add_symbol(f"{language}{i}")
        dictionary.save(str(folder / f"dict.{language}.txt"))


def update(trainer: Trainer, batch: dict[str, Any]) -> float:
    """Make one update; return its time in seconds."""
    if trainer.cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    trainer.train_step([batch])
    if trainer.cuda:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def operations(trainer: Trainer, batch: dict[str, Any]) -> int:
    """Return the number of operations of the forward and the backward pass of an update on the CPU."""
    trainer.zero_grad()
    trainer.model.train()
    with Operations("cpu") as counted:
        trainer.task.train_step(
            batch, trainer.model, trainer.criterion, trainer.optimizer, trainer.get_num_updates(), ignore_grad=False
        )
    return counted.number


def name_of(model: Model) -> str:
    """Return how a model is called in the table."""
    return "stock" if model is None else f"K = {model[0]}, {model[1]}"


def measure_memory(model: Model, args: argparse.Namespace, folder: Path) -> float:
    """Return the peak memory in MiB of a few updates in this process."""
    trainer, batch = make_trainer(model, args, folder), make_batch(args)
    for _ in range(4):
        update(trainer, batch)
    if trainer.cuda:
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def about(args: argparse.Namespace) -> dict[str, Any]:
    """Return what figures depend on."""
    machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor() or platform.machine()
    return {
        "machine": machine, "threads": args.threads, "torch": torch.__version__, "updates": args.updates,
        "size": args.size, "sentences": args.sentences, "length": args.length, "vocabulary": args.vocabulary,
        "fp16": args.fp16, "device": args.device,
    }  # fmt: skip


def write(args: argparse.Namespace, **figures: Any) -> None:
    """Write figures, and what they depend on, where --json says."""
    if args.json:
        args.json.write_text(json.dumps({"about": about(args), **figures}, indent=1) + "\n", encoding="utf-8")


def read_model(text: str) -> Model:
    """Return the model that another process was asked for."""
    found = json.loads(text)
    return (found[0], found[1]) if found else None


def train_for(model: Model, args: argparse.Namespace) -> int:
    """Train from the time --start to --seconds later; return the number of updates."""
    trainer, batch = make_trainer(model, args, args.folder), make_batch(args)
    for _ in range(5):
        update(trainer, batch)
    if time.time() > args.start:
        raise SystemExit(f"not ready {time.time() - args.start:.0f} s after the start: give a longer --ready")
    time.sleep(args.start - time.time())
    done = 0
    while time.time() < args.start + args.seconds:
        update(trainer, batch)
        done += 1
    return done


def measure_together(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Return the updates a second of each model, while --together processes train on one GPU."""
    models: list[Model] = [None, (args.heads[-1], "choosing"), (args.heads[-1], "fixed")]
    start = time.time() + args.ready

    def count(i: int) -> int:
        of = ["--train-of", json.dumps(models[i % len(models)]), "--start", str(start), "--folder", str(folder)]
        output = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], *of], check=True, capture_output=True, text=True
        )
        return int(output.stdout.rsplit("UPDATES", 1)[1])

    with ThreadPoolExecutor(args.together) as pool:
        done = list(pool.map(count, range(args.together)))
    rows = []
    for i, model in enumerate(models):
        counts = done[i :: len(models)]
        rows.append({
            "model": name_of(model), "updates": counts, "updates_per_second": statistics.mean(counts) / args.seconds,
            "ratio": statistics.mean(done[:: len(models)]) / statistics.mean(counts),
        })  # fmt: skip
    return rows


def main() -> None:
    """Measure, print a table and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="iwslt_de_en", help="architecture: transformer_dsp_SIZE and transformer_SIZE")
    parser.add_argument("--heads", type=int, nargs="+", default=[36, 12, 6], help="numbers of heads to keep")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--fp16", action="store_true", help="train in half precision (GPU)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--sentences", type=int, default=64)
    parser.add_argument("--length", type=int, default=32, help="tokens a sentence")
    parser.add_argument("--vocabulary", type=int, default=8000)
    parser.add_argument("--updates", type=int, default=20, help="timed updates of each, after three to warm up")
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--together", type=int, metavar="N", help="let N processes train on one GPU at the same time")
    parser.add_argument("--seconds", type=float, default=20, help="of --together (default: %(default)s)")
    parser.add_argument("--ready", type=float, default=60, help="seconds that processes need to start")
    parser.add_argument("--memory-of", help=argparse.SUPPRESS)
    parser.add_argument("--train-of", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.updates < 2:
        parser.error(f"--updates is {args.updates}, but quartiles need 2 or more")
    torch.set_num_threads(args.threads)
    if args.memory_of:
        print("MEMORY", measure_memory(read_model(args.memory_of), args, args.folder))
        return
    if args.train_of:
        print("UPDATES", train_for(read_model(args.train_of), args))
        return

    import tempfile

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dictionaries(args, folder)
        if args.together:
            rows = measure_together(args, folder)
            for row in rows:
                speed = row["updates_per_second"]
                print(f"{row['model']:>16} {speed:7.2f} updates/s, {row['ratio']:.3f} times stock's time")
            write(args, rows=rows)
            return
        batch = make_batch(args)
        models: list[Model] = [None, *((kept, way) for kept in args.heads for way in WAYS)]

        def memory_of(kept: Model) -> float:
            command = [sys.executable, __file__, *sys.argv[1:], "--memory-of", json.dumps(kept), "--folder", name]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            return float(output.rsplit("MEMORY", 1)[1])

        # a GPU's peak is each process's own
        with ThreadPoolExecutor(5 if args.device == "cuda" else 1) as pool:
            memory = dict(zip(models, tqdm(pool.map(memory_of, models), "memory", len(models)), strict=True))
        trainers = {kept: make_trainer(kept, args, folder) for kept in models}
        times: dict[Model, list[float]] = {kept: [] for kept in models}
        for i in tqdm(range(args.updates + 3), desc="updates"):
            # every model goes first in turn: what ran before changes the state of the caches
            for kept in models[i % len(models) :] + models[: i % len(models)]:
                seconds = update(trainers[kept], batch)
                if i >= 3:
                    times[kept].append(seconds)

    rows = []
    for kept in models:
        ratios = [a / b for a, b in zip(times[kept], times[None], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
        rows.append({
            "model": name_of(kept), "seconds": statistics.median(times[kept]), "ratio": middle,
            "ratio_quartiles": [low, high], "peak_mib": memory[kept], "memory_ratio": memory[kept] / memory[None],
            "operations": operations(trainers[kept], batch) if args.device == "cpu" else None,
        })  # fmt: skip
    ratios = {row["model"]: row["ratio"] for row in rows}
    whole = {
        kept: CHOOSING * ratios[name_of((kept, "choosing"))] + (1 - CHOOSING) * ratios[name_of((kept, "fixed"))]
        for kept in args.heads
    }
    print(f"{'model':>16} {'seconds':>9} {'ratio (quartiles)':>22} {'peak MiB':>9} {'ratio':>6} operations")
    for row in rows:
        low, high = row["ratio_quartiles"]
        print(
            f"{row['model']:>16} {row['seconds']:9.4f} {row['ratio']:8.3f} ({low:.3f}–{high:.3f}) "
            f"{row['peak_mib']:9.0f} {row['memory_ratio']:6.3f} {row['operations'] or '':>10}"
        )
    for kept, ratio in whole.items():
        print(f"K = {kept}: a whole training, {CHOOSING:.0%} of it choosing, takes {ratio:.3f} times stock's time")
    write(args, rows=rows, whole=whole)


if __name__ == "__main__":
    main()
