"""Decoding speed at IWSLT'14 sizes: masked, compact and CTranslate2 models against stock fairseq and the ceiling.

    python benchmarks/decoding.py --output docs/results/speed        # all numbers of heads; about half an hour
    python benchmarks/decoding.py --kept 72 8 --runs 3               # a quick look

The weights are random: the time depends on the sizes and on which heads are left, not on what they learned. All models
translate the same 25 random subwords into 25, beam 5, prepared as fairseq-generate prepares them, taking turns in one
process. The ceiling is stock fairseq with every attention module replaced by its bias: what removing all attention
gives, and nothing else. Models that save elsewhere too can be above it.

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
from pathlib import Path
from typing import Any

import torch
from fairseq.models.transformer import TransformerModel
from fairseq.models.transformer import transformer_legacy as stock
from fairseq.tasks.translation import TranslationConfig, TranslationTask
from torch import Tensor, nn

from fairseq_dsp.compact.checkpoint import TrainedModel
from fairseq_dsp.compact.export_ctranslate2 import converter
from fairseq_dsp.model import TYPES, HeadSet, PrunableTransformer, attention_modules
from fairseq_dsp.study import bench

WORDS = (8848, 6632)  # German and English with 10,000 joint BPE merges
BEAM, LENGTH, HEADS, LAYERS = 5, 25, 4, 6

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
    return HeadSet(total=LAYERS * HEADS * len(TYPES), **layers)


def options() -> Namespace:
    """Return the options of the architecture."""
    result = Namespace(share_decoder_input_output_embed=True, share_all_embeddings=False)
    stock.transformer_iwslt_de_en(result)
    return result


def build(task: Any, kept: HeadSet | None) -> PrunableTransformer:
    """Return a model with all heads, or a compact one, with random weights."""
    settings = options()
    if kept is not None:
        settings.compact, settings.kept_heads = True, kept.to_json()
    return PrunableTransformer.build_model(settings, task).eval()


def masked(model: PrunableTransformer, kept: HeadSet) -> PrunableTransformer:
    """Set a model's gates for good: stock attention, all heads computed, the others' results thrown away."""
    assert model.pruner is not None
    gates = kept.to_gates(model.pruner.plan.shape).split(HEADS)
    for gate, values in zip(model.pruner.gates, gates, strict=True):
        gate.gate = values
    model.encoder.pruner = None
    for layer in model.decoder.layers:
        layer.make_generation_fast_(need_attn=False)
    return model


def runner(model: Any, *, prepared: bool = True) -> bench.FairseqRunner:
    """Return a runner for a model, prepared as fairseq-generate prepares it."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    if prepared:
        model.make_generation_fast_(beamable_mm_beam_size=BEAM, need_attn=False)
    return bench.FairseqRunner(model, *WORDS, BEAM, LENGTH, file.tell())


def engine(model: PrunableTransformer, kept: HeadSet, task: Any, folder: Path, kind: str) -> bench.EngineRunner:
    """Return a runner of CTranslate2 for a compact model."""
    shape = {t: [HEADS] * LAYERS for t in TYPES}
    trained = TrainedModel("", {"model": model.state_dict()}, options(), kept, None, shape, True)
    with contextlib.redirect_stdout(io.StringIO()):
        converter(trained, task).convert(str(folder), quantization=kind, force=True)
    return bench.EngineRunner(folder, BEAM, LENGTH, "cpu")


def main() -> None:
    """Measure and print, and write the files with ``--output``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = [*PATTERNS, "8, one a module"]
    parser.add_argument("--kept", nargs="+", choices=every, default=every, help="numbers of heads (default: all)")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--cpu-time", action="store_true", help="measure processor time: for a machine that is not quiet"
    )
    parser.add_argument("--no-engine", action="store_true", help="leave CTranslate2 out")
    parser.add_argument("--output", type=Path, help="folder for bench.json, bench.md and bench.png")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    task = TranslationTask(TranslationConfig(), *map(bench.dictionary, WORDS))
    runners: dict[str, bench.Runner] = {}
    runners["stock fairseq"] = runner(TransformerModel.build_model(options(), task).eval().to(args.device))
    ceiling = TransformerModel.build_model(options(), task).eval()
    for module in list(attention_modules(ceiling)):
        parent, _, name = module.name.rpartition(".")
        setattr(ceiling.get_submodule(parent), name, Bias(module.attention))
    runners["ceiling: no attention"] = runner(ceiling.to(args.device))
    with tempfile.TemporaryDirectory() as folder:
        for kept in args.kept:
            heads, label = head_set(kept), f"K = {kept}"
            runners[f"{label}: masked"] = runner(masked(build(task, None), heads).to(args.device), prepared=False)
            model = build(task, heads)
            if not args.no_engine:
                for kind in ("float32", "int8"):
                    target = Path(folder) / f"{len(runners)}"
                    runners[f"{label}: CTranslate2 {kind}"] = engine(model, heads, task, target, kind)
            runners[f"{label}: compact"] = runner(model.to(args.device))
        clock = time.process_time if args.cpu_time else time.perf_counter
        results = bench.measure(runners, args.batch_sizes, LENGTH, args.runs, device=args.device, clock=clock)
    report = bench.table(results)
    print(report)
    for kept in args.kept:
        print(f"{kept}: {head_set(kept).to_json()}")
    if args.output:
        bench.write_report(args.output, results, report, Namespace(**{k: str(v) for k, v in vars(args).items()}))


if __name__ == "__main__":
    main()
