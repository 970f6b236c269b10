"""Measure models side by side: parameters, bytes, FLOPs, memory, sentences and tokens per second, latency.

Every model translates the same random sentences of --length subwords into as many, prepared as fairseq-generate
prepares it; a folder of export-ctranslate2 runs in that engine. The models take turns in one process, so that whatever
disturbs the machine disturbs all of them. No corpus and no dictionary is needed. Ratios are to the first model.

examples:
  fairseq-dsp bench unpruned.pt pruned.pt compact.pt --batch-sizes 1 64 --output bench
  fairseq-dsp bench unpruned.pt compact.pt engine engine-int8 --threads 2 --runs 10
  fairseq-dsp bench unpruned.pt compact.pt --devices cuda --precisions float32 float16
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import platform
import random
import resource
import statistics
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from fairseq import checkpoint_utils, models
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import OmegaConf
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from ..errors import UserError
from .atomic import write_json, write_text

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("models", nargs="+", metavar="MODEL", help="checkpoint, or folder of export-ctranslate2")
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 64], metavar="B", help="default: 1 64")
    parser.add_argument("--devices", nargs="+", default=["cpu"], metavar="DEVICE", help="cpu, cuda … (default: cpu)")
    parser.add_argument(
        "--precisions", nargs="+", choices=list(PRECISIONS), default=["float32"], help="default: float32"
    )
    parser.add_argument("--beam", type=int, default=5, help="size of the beam (default: 5)")
    parser.add_argument(
        "--length", type=int, default=25, help="subwords of each sentence and translation (default: 25)"
    )
    parser.add_argument("--runs", type=int, default=5, help="runs of each model, after one to warm up (default: 5)")
    parser.add_argument("--threads", type=int, help="threads on the CPU (default: torch's)")
    parser.add_argument("--no-memory", action="store_true", help="leave out peak memory: it takes a process for each")
    parser.add_argument("--output", metavar="FOLDER", help="write bench.json, bench.md and bench.png there")


def run(args: argparse.Namespace) -> None:
    """Measure, print the table, write the files."""
    for name in ("beam", "length", "runs"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}, but it must be 1 or more")
    for device in args.devices:
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"--devices {device} is asked for, but torch sees no such device: leave it out")
    if args.threads:
        torch.set_num_threads(args.threads)
    results: list[Result] = []
    for device in args.devices:
        for precision in args.precisions:
            runners = {path: load(path, args.beam, args.length, device, precision) for path in args.models}
            results += measure(runners, args.batch_sizes, args.length, args.runs, device=device, precision=precision)
    if not args.no_memory:
        for result in tqdm(results, desc="memory", disable=None):
            if result.device == "cpu":
                options = (args.beam, args.length, result.device, result.precision)
                result.peak_memory = peak_memory(result.model, result.batch, *options)
    report = table(results)
    print(report)
    if args.output:
        write_report(Path(args.output), results, report, args)


class Runner(Protocol):
    """Something that translates; see :class:`FairseqRunner` and :class:`EngineRunner`."""

    parameters: int | None
    bytes: int

    def batch(self, size: int, length: int) -> Any:
        """Return random sentences, always the same ones."""

    def __call__(self, batch: Any) -> None:
        """Translate them."""


@dataclass
class Result:
    """What was measured of one model at one batch size.

    Times are in seconds for a batch; the spread is the range of the middle half of the runs, as a part of the median.
    """

    model: str
    device: str
    precision: str
    batch: int
    length: int
    runs: int
    parameters: int | None
    bytes: int
    flops: int | None
    peak_memory: int | None
    times: list[float]

    @property
    def median(self) -> float:
        """Median time; the latency's p50."""
        return statistics.median(self.times)

    @property
    def p95(self) -> float:
        """95th percentile of the time: with few runs, the longest."""
        return sorted(self.times)[min(len(self.times) - 1, int(0.95 * len(self.times)))]

    @property
    def spread(self) -> float:
        """Range of the middle half of the times, as a part of their median."""
        if len(self.times) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.times, n=4)
        return (high - low) / self.median

    @property
    def sentences_per_second(self) -> float:
        """Sentences translated in a second."""
        return self.batch / self.median

    @property
    def tokens_per_second(self) -> float:
        """Target tokens generated in a second."""
        return self.batch * self.length / self.median

    def as_dict(self) -> dict[str, Any]:
        """Return everything, what is computed included, for JSON."""
        names = ("median", "p95", "spread", "sentences_per_second", "tokens_per_second")
        return {**asdict(self), **{name: getattr(self, name) for name in names}}


class FairseqRunner:
    """Beam search over one model with fairseq's generator.

    :param model: a model prepared for generation.
    :param words: size of the target dictionary.
    :param source_words: size of the source dictionary.
    :param size: bytes on disk.
    """

    def __init__(self, model: Any, source_words: int, words: int, beam: int, length: int, size: int) -> None:
        self.model, self.source_words = model.requires_grad_(False), source_words
        self.parameters: int | None = sum({p.data_ptr(): p.numel() for p in model.parameters()}.values())
        self.bytes = size
        self._generator = SequenceGenerator(
            [model], dictionary(words), beam_size=beam, max_len_a=0, max_len_b=length, min_len=length
        )

    def batch(self, size: int, length: int) -> dict[str, Any]:
        """Return random sentences. *Shape of ``src_tokens``:* (size, length)"""
        draw = torch.Generator().manual_seed(1)
        tokens = torch.randint(4, self.source_words, (size, length), generator=draw)
        tokens[:, -1] = 2  # the end of a sentence
        device = next(self.model.parameters()).device
        return {"net_input": {"src_tokens": tokens.to(device), "src_lengths": torch.full((size,), length).to(device)}}

    def __call__(self, batch: dict[str, Any]) -> None:
        """Translate."""
        self._generator.generate([self.model], batch)
        if batch["net_input"]["src_tokens"].is_cuda:
            torch.cuda.synchronize()


class EngineRunner:
    """CTranslate2 over one of its folders."""

    def __init__(self, folder: Path, beam: int, length: int, device: str) -> None:
        import ctranslate2

        kind = device.partition(":")[0]
        self._engine = ctranslate2.Translator(str(folder), device=kind, intra_threads=torch.get_num_threads())
        self._options = {"beam_size": beam, "min_decoding_length": length, "max_decoding_length": length}
        self.parameters: int | None = None
        self.bytes = (folder / "model.bin").stat().st_size
        files = [folder / "source_vocabulary.json", folder / "shared_vocabulary.json"]
        self._words = json.loads(next(f for f in files if f.is_file()).read_text(encoding="utf-8"))[4:]

    def batch(self, size: int, length: int) -> list[list[str]]:
        """Return random sentences."""
        draw = random.Random(1)
        return [draw.choices(self._words, k=length - 1) for _ in range(size)]  # the engine adds the end

    def __call__(self, batch: list[list[str]]) -> None:
        """Translate."""
        self._engine.translate_batch(batch, **self._options)


def dictionary(words: int) -> Dictionary:
    """Return a dictionary of so many invented words."""
    result = Dictionary()
    for i in range(words - len(result)):
        result.add_symbol(f"w{i}")
    return result


def load(path: str, beam: int, length: int, device: str, precision: str) -> Runner:
    """Return a runner for a checkpoint or a CTranslate2 folder.

    :raises UserError: if it is neither.
    """
    if Path(path).is_dir():
        if not (Path(path) / "model.bin").is_file():
            raise UserError(f"the folder {path} is not one of CTranslate2: give a checkpoint, or such a folder")
        return EngineRunner(Path(path), beam, length, device)
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist: give a checkpoint, or a folder of fairseq-dsp export-ctranslate2")
    state = checkpoint_utils.load_checkpoint_to_cpu(path)
    parameters = state["model"]
    words = [len(parameters[f"{stack}.embed_tokens.weight"]) for stack in ("encoder", "decoder")]
    task = TranslationTask(TranslationConfig(), *map(dictionary, words))
    config = state["cfg"]["model"] if state.get("cfg") is not None else state["args"]
    model = models.build_model(config, task)
    model.load_state_dict(parameters, strict=True, model_cfg=config)
    model.eval().to(device, PRECISIONS[precision])
    model.prepare_for_inference_(OmegaConf.create({"generation": {"beam": beam}}))
    return FairseqRunner(model, words[0], words[1], beam, length, Path(path).stat().st_size)


def measure(
    runners: Mapping[str, Runner],
    batch_sizes: Sequence[int],
    length: int,
    runs: int,
    *,
    device: str = "cpu",
    precision: str = "float32",
    clock: Callable[[], float] = time.perf_counter,
) -> list[Result]:
    """Let models take turns at translating, and return what was measured of each at each batch size.

    :param runners: the models by name.
    :param length: subwords of each sentence and translation.
    :param runs: how often each model translates each batch, after once to warm up.
    """
    results = []
    progress = tqdm(total=len(batch_sizes) * len(runners) * (runs + 1), desc="bench", disable=None)
    for size in batch_sizes:
        batches = {name: runner.batch(size, length) for name, runner in runners.items()}
        times: dict[str, list[float]] = {name: [] for name in runners}
        memory: dict[str, int] = {}
        for turn in range(runs + 1):
            for name, runner in runners.items():
                if turn == 0 and device.startswith("cuda"):
                    torch.cuda.reset_peak_memory_stats()
                start = clock()
                runner(batches[name])
                if turn > 0:
                    times[name].append(clock() - start)
                elif device.startswith("cuda"):
                    memory[name] = torch.cuda.max_memory_allocated()
                progress.update()
        for name, runner in runners.items():
            results.append(
                Result(name, device, precision, size, length, runs, runner.parameters, runner.bytes,
                       flops(runner, length), memory.get(name), times[name])
            )  # fmt: skip
    progress.close()
    return results


def flops(runner: Runner, length: int) -> int | None:
    """Return the floating-point operations of translating one sentence; None where torch cannot count them."""
    if not isinstance(runner, FairseqRunner):
        return None
    with FlopCounterMode(display=False) as counter:
        runner(runner.batch(1, length))
    return int(counter.get_total_flops())


def peak_memory(path: str, batch: int, beam: int, length: int, device: str, precision: str) -> int:
    """Return the most bytes of memory that a process of its own has while it loads a model and translates a batch."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (path, batch, beam, length, device, precision, torch.get_num_threads()))


def _peak(path: str, batch: int, beam: int, length: int, device: str, precision: str, threads: int) -> int:
    torch.set_num_threads(threads)
    runner = load(path, beam, length, device, precision)
    runner(runner.batch(batch, length))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def table(results: Sequence[Result]) -> str:
    """Return the results as a Markdown table; ratios are to the first model of the same setting."""
    lines = [
        "| model | device | precision | batch | parameters | MB | GFLOPs/sentence | peak MB | sentences/s | tokens/s "
        "| ratio | p50 ms | p95 ms | runs | spread |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    first: dict[tuple[str, str, int], float] = {}
    for r in results:
        base = first.setdefault((r.device, r.precision, r.batch), r.tokens_per_second)
        parameters = "–" if r.parameters is None else f"{r.parameters:,}"
        operations = "–" if r.flops is None else f"{r.flops / 1e9:.2f}"
        memory = "–" if r.peak_memory is None else f"{r.peak_memory / 1e6:.0f}"
        lines.append(
            f"| {r.model} | {r.device} | {r.precision} | {r.batch} | {parameters} | {r.bytes / 1e6:.1f} | {operations} "
            f"| {memory} | {r.sentences_per_second:.2f} | {r.tokens_per_second:.0f} | {r.tokens_per_second / base:.2f} "
            f"| {1000 * r.median:.0f} | {1000 * r.p95:.0f} | {r.runs} | {r.spread:.0%} |"
        )
    return "\n".join(lines)


def picture(results: Sequence[Result]) -> Any:
    """Return tokens per second as a matplotlib figure: one plot for each setting, a bar for each model."""
    import logging

    logging.getLogger("matplotlib").setLevel(logging.WARNING)  # fairseq turns everybody's debugging messages on
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


def write_report(folder: Path, results: Sequence[Result], report: str, args: Namespace | None = None) -> None:
    """Write ``bench.json``, ``bench.md`` and ``bench.png``.

    :raises UserError: if they cannot be written.
    """
    write_json(
        folder / "bench.json",
        {
            "settings": {k: v for k, v in vars(args or Namespace()).items() if not callable(v)},
            "machine": {"processor": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__},
            "results": [r.as_dict() for r in results],
        },
    )
    write_text(folder / "bench.md", report + "\n")
    temporary = folder / ".bench.png.tmp"
    try:
        picture(results).savefig(temporary, format="png", dpi=120)
        temporary.replace(folder / "bench.png")
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(f"{folder / 'bench.png'} cannot be written ({error.strerror}): mend that") from error


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
