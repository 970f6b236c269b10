"""Time, memory and operations of models that take turns at translating."""

from __future__ import annotations

import gc
import logging
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from tqdm import tqdm

from ..model import modules_of
from .runners import FairseqRunner, Runner, load

logger = logging.getLogger(__name__)

PARTS = ("attention", "feed-forward", "vocabulary", "layer norms", "the rest")
"""What the time of a translation is divided into; the rest is embeddings, beam search and Python."""


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
        low, _, high = statistics.quantiles(self.times, n=4, method="inclusive")
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
                of_torch = turn == 0 and device.startswith("cuda") and isinstance(runner, FairseqRunner)
                before = _reset_peak(device) if of_torch else 0
                start = clock()
                runner(batches[name])
                if turn > 0:
                    times[name].append(clock() - start)
                if of_torch:
                    memory[name] = torch.cuda.max_memory_allocated(device) - before + _held(runner)
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


def _reset_peak(device: str) -> int:
    """Begin to measure the peak memory of a GPU, and return the bytes that are in use: those of all models."""
    torch.cuda.reset_peak_memory_stats(device)
    return torch.cuda.memory_allocated(device)


def _held(runner: Any) -> int:
    """Return the bytes of a model's parameters and buffers; what several modules share counts once."""
    model = runner.model
    storages = [tensor.untyped_storage() for tensor in (*model.parameters(), *model.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


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
    """Return the modules of each part but the rest; an adaptive softmax has no projection, and counts as the rest."""
    decoder = getattr(model, "decoder", None)
    encoder = model.encoder if decoder else model.encoder.sentence_encoder
    layers = [*encoder.layers, *(decoder.layers if decoder else ())]
    return {
        "attention": [module.module for module in modules_of(model)],
        "feed-forward": [linear for layer in layers for linear in (layer.fc1, layer.fc2)],
        "vocabulary": [decoder.output_projection] if decoder and decoder.output_projection is not None else [],
        "layer norms": [module for module in model.modules() if isinstance(module, nn.LayerNorm)],
    }


@contextmanager
def timed(parts: Mapping[str, list[nn.Module]], spent: dict[str, float], clock: Callable[[], float]) -> Iterator[None]:
    """Add the time of every forward pass of some modules to *spent*, under the name of their part."""
    started: dict[nn.Module, float] = {}

    def now(inputs: Any) -> float:
        if inputs and inputs[0].is_cuda:
            torch.cuda.synchronize(inputs[0].device)
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


def peak_memory(path: str, batch: int, beam: int, length: int, device: str, precision: str) -> int | None:
    """Return the most bytes of memory that a process of its own, with a model loaded, has while it translates a batch.

    :return: None if that process was killed, as for want of memory.
    """
    options = (path, batch, beam, length, device, precision, torch.get_num_threads())
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_peak, *options).result()
        except BrokenProcessPool:
            logger.warning("the process that measures the memory of %s in batches of %d was killed", path, batch)
            return None


def _peak(path: str, batch: int, beam: int, length: int, device: str, precision: str, threads: int) -> int:
    torch.set_num_threads(threads)
    runner = load(path, beam, length, device, precision)
    gc.collect()
    with suppress(OSError):  # what reading the optimiser's state took is not the model's; some systems keep it in
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
    runner(runner.batch(batch, length))
    # not ru_maxrss: that starts with what the process had that started this one
    status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
