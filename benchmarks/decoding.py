"""Decoding speed at IWSLT'14 sizes: masked, compact and CTranslate2 models against stock fairseq and the ceiling.

    python benchmarks/decoding.py --threads 2 --runs 10 --output results/speed    # about 10 minutes
    python benchmarks/decoding.py --kept 72 8 --batch-sizes 1 --runs 3                 # a quick look

The weights are random: the time depends on the sizes and on which heads are left, not on what they learned. All models
translate the same 25 random subwords into 25, beam 5, prepared as fairseq-generate prepares them, taking turns in one
process. "Masked" is stock attention with gates, which computes all heads and throws most results away. The ceiling is
stock fairseq with every attention module replaced by its bias: what removing all attention gives, and nothing else.
Models that save elsewhere too can be above it.

Three tables: speed; where the time of each model goes, measured apart; and the time in attention by heads kept.

Which heads are left: as in joint runs on Multi30k (3 + 3 layers, 36 heads), each layer of which stands for two of the
6 + 6 here: no joint run at IWSLT'14 sizes was at hand. The hard case has one head in each of 8 modules.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer import transformer_legacy as stock
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from torch import Tensor, nn

from fairseq_dsp.evaluation import bench
from fairseq_dsp.evaluation.measuring import Result, measure
from fairseq_dsp.evaluation.runners import EngineRunner, FairseqRunner, Runner, dictionary
from fairseq_dsp.files import check_target
from fairseq_dsp.markdown import markdown_table
from fairseq_dsp.model import HEADS as KIND
from fairseq_dsp.model import TYPES, HeadSet, PrunableTransformer, modules_of
from fairseq_dsp.model.units import modules_in
from fairseq_dsp.removal.checkpoint import TrainedModel
from fairseq_dsp.removal.export_ctranslate2 import convert

WORDS = (8848, 6632)  # German and English with 10,000 joint BPE merges
BEAM, LENGTH, HEADS, LAYERS = 5, 25, 4, 6
STOCK, CEILING = "stock fairseq", "ceiling: no attention"
TASK: Any = TranslationTask(TranslationConfig(), *map(dictionary, WORDS))

# Heads kept of the 4 in each of 3 layers: by the run with 18 of 36 heads for 36 and 18 (its best half), by the run with
# 6 of 36 heads for 8 and 4 (its best four and two).
PATTERNS = {
    "72": {"encoder_self": [4, 4, 4], "decoder_self": [4, 4, 4], "cross": [4, 4, 4]},
    "36": {"encoder_self": [2, 0, 1], "decoder_self": [4, 1, 1], "cross": [4, 3, 2]},
    "18": {"encoder_self": [2, 0, 0], "decoder_self": [2, 0, 0], "cross": [2, 1, 2]},
    "8": {"encoder_self": [0, 0, 0], "decoder_self": [1, 0, 0], "cross": [2, 1, 0]},
    "4": {"encoder_self": [0, 0, 0], "decoder_self": [1, 0, 0], "cross": [1, 0, 0]},
}
HARD = {"encoder_self": [1, 0, 0, 1, 0, 0], "decoder_self": [1, 0, 1, 0, 0, 1], "cross": [0, 1, 1, 0, 1, 0]}


class Bias(nn.Module):
    """An attention module that gives its output bias."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        self.bias, self.num_heads, self.head_dim = attention.out_proj.bias, attention.num_heads, attention.head_dim
        self.embed_dim, self.kdim = attention.embed_dim, attention.kdim

    def forward(self, query: Tensor, **_: Any) -> tuple[Tensor, None]:
        """Return the bias for each row."""
        return self.bias.expand_as(query), None

    def _get_input_buffer(self, _: Any) -> dict[str, Any]:
        return {}


def head_set(name: str) -> HeadSet:
    """Return a set of heads: a number of heads in :data:`PATTERNS`, or ``8, one a module`` for the hard case."""
    counts = (
        HARD if "," in name else {kind: [n for n in layers for _ in "12"] for kind, layers in PATTERNS[name].items()}
    )
    layers = {kind: tuple(tuple(range(n)) for n in counts[kind]) for kind in TYPES}
    return HeadSet(KIND, LAYERS * HEADS * len(TYPES), tuple(layers[kind] for kind in TYPES))


def options() -> Namespace:
    """Return the options of the architecture."""
    result = Namespace(share_decoder_input_output_embed=True, share_all_embeddings=False)
    stock.transformer_iwslt_de_en(result)
    return result


def stock_model() -> TransformerModel:
    """Return stock fairseq's model with random weights."""
    return TransformerModel.build_model(options(), TASK).eval()


def bare() -> TransformerModel:
    """Return stock fairseq's model without attention: the ceiling."""
    model = stock_model()
    for module in list(modules_of(model)):
        parent, _, name = module.name.rpartition(".")
        setattr(model.get_submodule(parent), name, Bias(module.module))
    return model


def compact(kept: HeadSet) -> PrunableTransformer:
    """Return a compact model with random weights."""
    settings = options()
    settings.compact, settings.kept_heads = True, kept.to_json()
    return PrunableTransformer.build_model(settings, TASK).eval()


def masked(kept: HeadSet) -> PrunableTransformer:
    """Return a model whose gates are set for good: stock attention, prepared to generate like stock fairseq."""
    model = PrunableTransformer.build_model(options(), TASK).eval()
    assert model.pruner is not None
    gates = kept.to_gates(model.pruner.plan.shape).split(HEADS)
    for attention, values in zip(model.pruner.gated, gates, strict=True):
        attention.gate = values.repeat_interleave(attention.head_dim)
    model.encoder.pruners = {}
    for layer in model.decoder.layers:
        layer.make_generation_fast_(need_attn=False)
    return model


def runner(model: Any, device: str, *, prepare: bool = True) -> FairseqRunner:
    """Return a runner for a model."""
    return FairseqRunner(model.to(device), *WORDS, BEAM, LENGTH, prepare=prepare)


def engine(model: PrunableTransformer, kept: HeadSet, folder: Path, kind: str, device: str) -> EngineRunner:
    """Return a runner of CTranslate2 for a compact model."""
    state = model.state_dict()
    trained = TrainedModel("", {"model": state}, options(), kept, modules_in(state, options()), None, True)
    with contextlib.redirect_stdout(io.StringIO()):
        convert(trained, TASK, folder, kind)
    return EngineRunner(folder, BEAM, LENGTH, device)


def runners(kept: Sequence[str], device: str, folder: Path, *, engines: bool) -> dict[str, Runner]:
    """Return the models to measure by name, the one that ratios are to first.

    :param kept: names of sets of heads.
    :param folder: where the engine's models may be written.
    :param engines: whether to measure CTranslate2.
    """
    found: dict[str, Runner] = {STOCK: runner(stock_model(), device), CEILING: runner(bare(), device)}
    for name in kept:
        heads, label = head_set(name), f"K = {name}"
        found[f"{label}: masked"] = runner(masked(heads), device, prepare=False)
        model = compact(heads)
        for kind in ("float32", "int8") if engines else ():
            found[f"{label}: CTranslate2 {kind}"] = engine(model, heads, folder / f"{len(found)}", kind, device)
        found[f"{label}: compact"] = runner(model, device)
    return found


def attention_table(results: Sequence[Result], kept: Sequence[str]) -> str:
    """Return the time in attention by heads kept as a Markdown table, for stock fairseq and the compact models."""
    sizes = list(dict.fromkeys(r.batch for r in results))
    titles = [title for size in sizes for title in (f"batch {size}, ms", "ms a head", "of stock's")]
    spent = {(r.model, r.batch): r.parts["attention"] for r in results if r.parts is not None}
    every = LAYERS * HEADS * len(TYPES)
    body = []
    for model, heads in [(STOCK, every), *((f"K = {name}: compact", head_set(name).kept) for name in kept)]:
        body.append([model, str(heads)])
        for size in sizes:
            seconds = spent[model, size]
            body[-1] += [
                f"{1000 * seconds:.1f}",
                f"{1000 * seconds / heads:.2f}",
                f"{seconds / spent[STOCK, size]:.1%}",
            ]
    return markdown_table(["model", "heads", *titles], body)


def main() -> None:
    """Measure and print, and write the files with ``--output``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*PATTERNS, "8, one a module"]
    parser.add_argument("--kept", nargs="+", choices=every, default=every, help="numbers of heads (default: all)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--runs", type=int, default=10, help="of one sentence; half as many of larger batches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--cpu-time", action="store_true", help="measure processor time: for a machine that is not quiet"
    )
    parser.add_argument("--no-engine", action="store_true", help="leave CTranslate2 out")
    parser.add_argument("--output", type=Path, help="new folder for bench.json, bench.md and bench.png")
    args = parser.parse_args()
    target = None if args.output is None else check_target(args.output)
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    clock = time.process_time if args.cpu_time else time.perf_counter
    results: list[Result] = []
    with tempfile.TemporaryDirectory() as folder:
        models = runners(args.kept, args.device, Path(folder), engines=not args.no_engine)
        for size in args.batch_sizes:
            runs = args.runs if size == 1 else max(1, args.runs // 2)
            results += measure(models, [size], LENGTH, runs, device=args.device, profiled=True, clock=clock)
    sets = "\n".join(f"K = {name}: `{head_set(name).to_json()}`  " for name in args.kept) + "\n"
    tables = [bench.table(results, CEILING), bench.profile_table(results), attention_table(results, args.kept), sets]
    report = "\n".join(tables)
    print(report, end="")
    if target is not None:
        bench.write_report(target, results, report, {name: str(value) for name, value in vars(args).items()})


if __name__ == "__main__":
    main()
