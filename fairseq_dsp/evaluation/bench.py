"""Measure models side by side: parameters, bytes, FLOPs, memory, sentences and tokens per second, latency.

Every model translates the same random sentences of --length subwords into as many, prepared as fairseq-generate
prepares it; a classifier reads random pairs of --length subwords; a folder of export-ctranslate2 runs in that
engine. The models take turns in one process, so that a busy machine slows all of them alike. No corpus and
no dictionary is needed. Ratios are to the first model. The spread is the range of the middle half of the runs, as a
part of their median. FLOPs are those of matrix products. MB are those of the weights that the model computes with;
peak MB those of a process, with the packages that it loads: torch and fairseq take about 370 of them.

examples:
  fairseq-dsp bench unpruned.pt pruned.pt compact.pt --batch-sizes 1 64 --output bench
  fairseq-dsp bench unpruned.pt compact.pt engine engine-int8 --threads 2 --runs 10
  fairseq-dsp bench unpruned.pt compact.pt --devices cuda --precisions float32 float16
"""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..errors import UserError
from ..files import check_target, new_folder
from ..markdown import markdown_table
from ..model.kinds import BEAM, LENGTH, flag
from .measuring import PARTS, Result, measure, peak_memory
from .runners import PRECISIONS, load


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="checkpoint, or folder of export-ctranslate2")
    parser.add_argument(
        "--batch-sizes", nargs="+", type=int, default=[1, 64], metavar="B", help="batch sizes (default: 1 64)"
    )
    parser.add_argument(
        "--devices", nargs="+", default=["cpu"], metavar="DEVICE", help="devices: cpu, cuda … (default: cpu)"
    )
    parser.add_argument(
        "--precisions", nargs="+", choices=list(PRECISIONS), default=["float32"], help="precisions (default: float32)"
    )
    parser.add_argument("--beam", type=int, default=BEAM, help="beam size (default: %(default)s)")
    parser.add_argument(
        "--length", type=int, default=LENGTH, help="subwords of each sentence and translation (default: %(default)s)"
    )
    parser.add_argument(
        "--runs", type=int, default=5, help="measured runs of each model, after one for warm-up (default: 5)"
    )
    parser.add_argument("--threads", type=int, help="threads on the CPU (default: torch's)")
    parser.add_argument(
        "--no-memory", action="store_true", help="do not measure peak memory, which takes a process for each model"
    )
    parser.add_argument("--profile", action="store_true", help="show which parts of each model take how much time")
    parser.add_argument("--output", metavar="FOLDER", help="new folder for bench.json, bench.md and bench.png")


def run(args: argparse.Namespace) -> None:
    """Measure, print the table, write the files."""
    _check(args)
    target = None if args.output is None else check_target(args.output)
    if args.threads:
        torch.set_num_threads(args.threads)
    results: list[Result] = []
    for device in args.devices:
        for precision in args.precisions:
            runners = {path: load(path, args.beam, args.length, device, precision) for path in args.models}
            results += measure(
                runners, args.batch_sizes, args.length, args.runs,
                device=device, precision=precision, profiled=args.profile,
            )  # fmt: skip
    if not args.no_memory:
        for result in tqdm(results, desc="memory", disable=None):
            if result.device == "cpu":
                options = (args.beam, args.length, result.device, result.precision)
                result.peak_memory = peak_memory(result.model, result.batch, *options)
    report = "\n".join([table(results), *([profile_table(results)] if args.profile else [])])
    print(report, end="")
    if target is not None:
        settings = {name: value for name, value in vars(args).items() if not callable(value)}
        write_report(target, results, report, settings)


def _check(args: argparse.Namespace) -> None:
    for name in ("beam", "length", "runs", "threads", "batch_sizes"):
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [] if given is None else [given]:
            if value < 1:
                raise UserError(f"{flag(name)} is {value}, but it must be 1 or more")
    if args.length < 2:
        raise UserError("--length is 1, which leaves a sentence its end alone: give 2 or more")
    for device in args.devices:
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:  # torch raises either, by the kind of device
            raise UserError(f"torch cannot use the device {device} of --devices here: leave it out") from error
    for name in ("models", "batch_sizes", "devices", "precisions"):
        values = getattr(args, name)
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise UserError(f"{twice} is given twice: give each model, batch size, device and precision once")


def table(results: Sequence[Result], ceiling: str | None = None) -> str:
    """Return the results as a Markdown table; ratios are to the first model of the same setting.

    :param ceiling: a model to show the speed of the others as a part of.
    """
    heads = ["model", "device", "precision", "batch", "parameters", "MB", "GFLOPs/sentence", "peak MB", "sentences/s",
             "tokens/s", "ratio", "of the ceiling", "p50 ms", "p95 ms", "runs", "spread"]  # fmt: skip
    highest = {(r.device, r.precision, r.batch): r.ratio for r in results if r.model == ceiling}
    rows = []
    for r in results:
        top = highest.get((r.device, r.precision, r.batch))
        rows.append([
            r.model, r.device, r.type, str(r.batch),
            "–" if r.parameters is None else f"{r.parameters:,}", f"{r.bytes / 1e6:.1f}",
            "–" if r.flops is None else f"{r.flops / 1e9:.2f}",
            "–" if r.peak_memory is None else f"{r.peak_memory / 1e6:.0f}",
            f"{r.sentences_per_second:.2f}", f"{r.tokens_per_second:.0f}", f"{r.ratio:.2f}",
            "–" if top is None else f"{r.ratio / top:.0%}",
            f"{1000 * r.median:.0f}", f"{1000 * r.p95:.0f}", str(r.runs), f"{r.spread:.0%}",
        ])  # fmt: skip
    shown = [i for i in range(len(heads)) if any(row[i] != "–" for row in rows)]
    return markdown_table([heads[i] for i in shown], [[row[i] for i in shown] for row in rows], left=3)


def profile_table(results: Sequence[Result]) -> str:
    """Return where the time goes as a Markdown table: milliseconds for a batch in each part of a model."""
    header = ["model", "device", "precision", "batch", *(f"{part}, ms" for part in PARTS)]
    body = [
        [r.model, r.device, r.type, str(r.batch), *(f"{1000 * r.parts[part]:.0f}" for part in PARTS)]
        for r in results
        if r.parts is not None
    ]
    return markdown_table(header, body, left=3)


def picture(results: Sequence[Result]) -> Any:
    """Return tokens per second as a matplotlib figure: one plot for each setting, a bar for each model."""
    from matplotlib.figure import Figure

    settings = list(dict.fromkeys((r.device, r.precision, r.batch) for r in results))
    bars = max(sum((r.device, r.precision, r.batch) == s for r in results) for s in settings)
    figure = Figure(figsize=(5.5 * len(settings), 0.38 * bars + 1.4), layout="constrained")
    for axes, setting in zip(figure.subplots(1, len(settings), squeeze=False)[0], settings, strict=True):
        own = [r for r in results if (r.device, r.precision, r.batch) == setting]
        speeds = [r.tokens_per_second for r in own]
        rates = [[r.batch * r.length / t for t in r.times] for r in own]
        errors = [
            [s - min(rate) for s, rate in zip(speeds, rates, strict=True)],
            [max(rate) - s for s, rate in zip(speeds, rates, strict=True)],
        ]
        axes.barh([r.model for r in own], speeds, xerr=errors, color="C0", ecolor="C1")
        axes.invert_yaxis()
        axes.set_xlabel("target tokens per second (lines: slowest and fastest run)")
        axes.set_title(f"{setting[0]}, {setting[1]}, batch {setting[2]}")
    return figure


def write_report(target: Path, results: Sequence[Result], report: str, settings: Mapping[str, Any]) -> None:
    """Write a new folder with ``bench.json``, ``bench.md`` and ``bench.png``.

    :raises UserError: if it cannot be written; nothing is left of it then.
    """
    content = {
        "settings": dict(settings),
        "machine": {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "results": [r.as_dict() for r in results],
    }
    with new_folder(target) as folder:
        folder.mkdir()
        (folder / "bench.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        (folder / "bench.md").write_text(report, encoding="utf-8")
        picture(results).savefig(folder / "bench.png", format="png", dpi=120)


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
