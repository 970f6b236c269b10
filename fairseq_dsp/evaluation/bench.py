"""Measure models side by side: parameters, bytes, FLOPs, memory, sentences and tokens per second, latency.

Every model translates the same random sentences of --length subwords into as many, prepared as fairseq-generate
prepares it; a folder of export-ctranslate2 runs in that engine. The models take turns in one process, so that whatever
disturbs the machine disturbs all of them. No corpus and no dictionary is needed. Ratios are to the first model. The
spread is the range of the middle half of the runs, as a part of their median. FLOPs are those of matrix products.

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
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from fairseq import checkpoint_utils, models
from fairseq.data import Dictionary
from fairseq.sequence_generator import SequenceGenerator
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from omegaconf import OmegaConf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from tqdm import tqdm

from ..errors import UserError
from ..files import check_target, new_folder
from ..model import modules_of

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PARTS = ("attention", "feed-forward", "vocabulary", "layer norms", "the rest")
"""What the time of a translation is divided into; the rest is embeddings, beam search and Python."""


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
    report = "\n\n".join([table(results), *([profile_table(results)] if args.profile else [])])
    print(report)
    if target is not None:
        settings = {name: value for name, value in vars(args).items() if not callable(value)}
        write_report(target, results, report, settings)


def _check(args: argparse.Namespace) -> None:
    for name in ("beam", "length", "runs", "threads", "batch_sizes"):
        given = getattr(args, name)
        for value in given if isinstance(given, list) else [] if given is None else [given]:
            if value < 1:
                raise UserError(f"--{name.replace('_', '-')} is {value}, but it must be 1 or more")
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


class Runner(Protocol):
    """Something that translates; see :class:`FairseqRunner` and :class:`EngineRunner`."""

    parameters: int | None
    bytes: int
    type: str | None

    def batch(self, size: int, length: int) -> Any:
        """Return random sentences, always the same ones."""

    def __call__(self, batch: Any) -> None:
        """Translate them."""


@dataclass
class Result:
    """What was measured of one model at one batch size.

    Times are in seconds for a batch; the spread is the range of the middle half of the runs, as a part of the median.

    :param precision: what was asked for; an engine has a *type* of its own.
    :param parameters: those that the model translates with.
    :param ratio: tokens a second, as a multiple of those of the first model in the same run.
    :param parts: seconds in each of :data:`PARTS`, measured apart, with what measuring it adds.
    """

    model: str
    device: str
    precision: str
    type: str
    batch: int
    length: int
    runs: int
    parameters: int | None
    bytes: int
    flops: int | None
    peak_memory: int | None
    times: list[float]
    ratio: float = 1.0
    parts: dict[str, float] | None = None

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

    :param model: a model in evaluation mode.
    :param source_words: size of the source dictionary.
    :param words: size of the target dictionary.
    :param size: bytes on disk.
    :param prepare: whether to prepare the model as ``fairseq-generate`` does.
    """

    type: str | None = None

    def __init__(
        self, model: Any, source_words: int, words: int, beam: int, length: int, size: int, *, prepare: bool = True
    ) -> None:
        self.model, self.source_words = model, source_words
        tied = {name for name, _ in model.named_parameters(remove_duplicate=False)}
        tied -= {name for name, _ in model.named_parameters()}
        if prepare:
            model.prepare_for_inference_(OmegaConf.create({"generation": {"beam": beam}}))
        model.requires_grad_(False)
        # a copy made for speed of what was one parameter is none
        self.parameters: int | None = sum(p.numel() for name, p in model.named_parameters() if name not in tied)
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
        try:
            import ctranslate2
        except ImportError as error:
            raise UserError("the package ctranslate2 is not installed: pip install fairseq-dsp[ctranslate2]") from error
        kind = device.partition(":")[0]
        self._engine = ctranslate2.Translator(str(folder), device=kind, intra_threads=torch.get_num_threads())
        self.type: str | None = self._engine.compute_type
        # as many steps as fairseq takes: it counts the end as one more
        self._options = {"beam_size": beam, "min_decoding_length": length + 1, "max_decoding_length": length + 1}
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
    try:
        parameters = dict(state["model"])  # without what it knows of its dictionaries: these are invented
        words = [len(parameters[f"{stack}.embed_tokens.weight"]) for stack in ("encoder", "decoder")]
        task = TranslationTask(TranslationConfig(), *map(dictionary, words))
        config = state["cfg"]["model"] if state.get("cfg") is not None else state["args"]
        model = models.build_model(config, task)
        model.load_state_dict(parameters, strict=True, model_cfg=config)
        list(modules_of(model))
    except UserError:
        raise
    except Exception as error:  # whatever another architecture lacks
        raise UserError(
            f"the model in {path} cannot be built, or its parameters do not fit it: give a checkpoint of an "
            "encoder–decoder Transformer that fairseq-train or fairseq-dsp wrote"
        ) from error
    model.eval().to(device, PRECISIONS[precision])
    return FairseqRunner(model, words[0], words[1], beam, length, Path(path).stat().st_size)


def measure(
    runners: Mapping[str, Runner],
    batch_sizes: Sequence[int],
    length: int,
    runs: int,
    *,
    device: str = "cpu",
    precision: str = "float32",
    profiled: bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> list[Result]:
    """Let models take turns at translating, and return what was measured of each at each batch size.

    :param runners: the models by name; ratios are to the first.
    :param length: subwords of each sentence and translation.
    :param runs: how often each model translates each batch, after once to warm up.
    :param profiled: whether to measure the parts of each model as well, in runs of their own.
    """
    results: list[Result] = []
    progress = tqdm(total=len(batch_sizes) * len(runners) * (runs + 1), desc="bench", disable=None)
    operations = {name: flops(runner, length) for name, runner in runners.items()}
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
        base = statistics.median(next(iter(times.values())))
        for name, runner in runners.items():
            result = Result(
                name, device, precision, runner.type or precision, size, length, runs, runner.parameters, runner.bytes,
                operations[name], memory.get(name), times[name],
            )  # fmt: skip
            result.ratio = base / result.median
            if profiled and isinstance(runner, FairseqRunner):
                result.parts = profile(runner, batches[name], max(1, runs // 4), clock)
            results.append(result)
    progress.close()
    return results


def flops(runner: Runner, length: int) -> int | None:
    """Return the floating-point operations of translating one sentence; None where torch cannot count them."""
    if not isinstance(runner, FairseqRunner):
        return None
    on_cpu = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # torch counts those of GPUs only
    mapping = {on_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        runner(runner.batch(1, length))
    return int(counter.get_total_flops())


def profile(runner: FairseqRunner, batch: Any, runs: int, clock: Callable[[], float]) -> dict[str, float]:
    """Return the seconds that a translation spends in each of :data:`PARTS`; the mean of some runs."""
    spent = dict.fromkeys(PARTS, 0.0)
    with timed(_parts(runner.model), spent, clock):
        start = clock()
        for _ in range(runs):
            runner(batch)
        spent["the rest"] = clock() - start - sum(spent.values())
    return {part: seconds / runs for part, seconds in spent.items()}


def _parts(model: Any) -> dict[str, list[nn.Module]]:
    layers = [*model.encoder.layers, *model.decoder.layers]
    return {
        "attention": [module.module for module in modules_of(model)],
        "feed-forward": [linear for layer in layers for linear in (layer.fc1, layer.fc2)],
        "vocabulary": [model.decoder.output_projection],
        "layer norms": [module for module in model.modules() if isinstance(module, nn.LayerNorm)],
    }


@contextmanager
def timed(parts: Mapping[str, list[nn.Module]], spent: dict[str, float], clock: Callable[[], float]) -> Iterator[None]:
    """Add the time of every forward pass of some modules to *spent*, under the name of their part."""
    started: dict[nn.Module, float] = {}

    def now(inputs: Any) -> float:
        if inputs and inputs[0].is_cuda:
            torch.cuda.synchronize()
        return clock()

    def hooks(part: str, module: nn.Module) -> list[Any]:
        def begin(module: nn.Module, inputs: Any) -> None:
            started[module] = now(inputs)

        def end(module: nn.Module, inputs: Any, _: Any) -> None:
            spent[part] += now(inputs) - started[module]

        return [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]

    handles = [handle for part, modules in parts.items() for module in modules for handle in hooks(part, module)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def peak_memory(path: str, batch: int, beam: int, length: int, device: str, precision: str) -> int:
    """Return the most bytes of memory that a process of its own has while it loads a model and translates a batch."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (path, batch, beam, length, device, precision, torch.get_num_threads()))


def _peak(path: str, batch: int, beam: int, length: int, device: str, precision: str, threads: int) -> int:
    torch.set_num_threads(threads)
    runner = load(path, beam, length, device, precision)
    runner(runner.batch(batch, length))
    # not ru_maxrss: that starts with what the process had that started this one
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))


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
    align = ["---" if i < 3 else "--:" for i in shown]
    lines = [[heads[i] for i in shown], align, *([row[i] for i in shown] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def profile_table(results: Sequence[Result]) -> str:
    """Return where the time goes as a Markdown table: milliseconds for a batch in each part of a model."""
    lines = [
        f"| model | device | precision | batch | {' | '.join(f'{part}, ms' for part in PARTS)} |",
        "|---|---|---|--:|" + "--:|" * len(PARTS),
    ]
    for r in results:
        if r.parts is not None:
            spent = " | ".join(f"{1000 * r.parts[part]:.0f}" for part in PARTS)
            lines.append(f"| {r.model} | {r.device} | {r.type} | {r.batch} | {spent} |")
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
        (folder / "bench.md").write_text(report + "\n", encoding="utf-8")
        picture(results).savefig(folder / "bench.png", format="png", dpi=120)


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
