"""BLEU against decoding speed: the pruned models of a study beside its smaller ones, and all of them in int8.

    python benchmarks/frontier.py results/multi30k-small --data data/multi30k-2k \\
        --methods joint layers-2-2 layers-3-1 --threads 2 --runs 20 --output results/frontier

BLEU is that of the study's report, the mean over the seeds. Speed is of the first seed's models, compact and prepared
as fairseq-generate prepares them; for CTranslate2 the models of every seed are converted to int8, translate the test
set, and are scored anew. All models translate the same random sentences, as long as the average reference, beam 5, and
take turns in one process. A model is on the frontier of a batch size if no other is at least as fast and better, or at
least as good and faster.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from fairseq.data.data_utils import post_process
from tqdm import tqdm

from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation.bench import processor
from fairseq_dsp.evaluation.evaluate import POST_PROCESS
from fairseq_dsp.evaluation.measuring import measure
from fairseq_dsp.evaluation.prepared import PreparedData
from fairseq_dsp.evaluation.runners import EngineRunner, Runner, load
from fairseq_dsp.evaluation.scoring import score
from fairseq_dsp.files import check_target, new_folder
from fairseq_dsp.removal.checkpoint import TrainedModel
from fairseq_dsp.removal.data_bin import task_of
from fairseq_dsp.removal.export_ctranslate2 import convert
from fairseq_dsp.removal.export_fairseq import stock_state
from fairseq_dsp.study.results import BASE, Results, Row, read_results

ENGINE, FAIRSEQ = "CTranslate2 int8", "fairseq"
STOCK = "unpruned, fairseq's transformer"


@dataclass
class Point:
    """A model with its quality and its speed.

    :param bleu: of the test set, one a seed.
    :param speed: sentences a second by batch size.
    """

    name: str
    method: str
    engine: str
    heads: int
    parameters: int
    bleu: list[float]
    speed: dict[int, float] = field(default_factory=dict)
    spread: dict[int, float] = field(default_factory=dict)

    @property
    def mean(self) -> float:
        """Mean BLEU."""
        return statistics.fmean(self.bleu)


def engine_bleu(folder: Path, data: PreparedData, study: dict[str, Any], search: dict[str, Any]) -> float:
    """Return the BLEU of a folder for CTranslate2, with the study's beam search.

    :param search: the scores of the study's own model, which say how it was translated with.
    """
    import ctranslate2

    engine = ctranslate2.Translator(str(folder), intra_threads=torch.get_num_threads())
    if search["max_len_a"]:
        raise UserError("max-len-a is not 0 in the study, but CTranslate2 has one limit for all lengths: leave it out")
    found = engine.translate_batch(
        data.subwords(study["split"], data.languages[0]), beam_size=search["beam"],
        length_penalty=search["lenpen"] or 1e-6, max_decoding_length=search["max_len_b"],
        max_batch_size=4096, batch_type="tokens",
    )  # fmt: skip
    undo = POST_PROCESS[data.summary["bpe"]]
    lines = [post_process(" ".join(one.hypotheses[0]), undo) for one in found]
    return float(score(data, study["split"], lines)["bleu"]["score"])


def title(row: Row) -> str:
    """Return what tables call a row: a smaller model keeps all the heads it has."""
    return row.title if row.runs[0]["method"] in (BASE, "unpruned") else f"{row.title}, K = {row.heads}"


def models(
    results: Results, methods: Sequence[str], data: PreparedData, length: int, folder: Path
) -> Iterator[tuple[Point, Runner]]:
    """Yield every model with what runs it: the unpruned one first, in fairseq's own Transformer.

    :param length: subwords of the sentences to translate.
    :param folder: where the models of other engines may be written.
    """
    rows = [row for row in results.rows() if row.label in (BASE, *methods)]
    for row in tqdm(rows, desc="models", disable=None):
        scores = [run["scores"] for run in row.runs]
        parameters, bleu = scores[0]["parameters"], row.of_seeds("bleu")
        trained = [TrainedModel.read(one["checkpoint"]) for one in scores]
        if row.label == BASE:
            stock = folder / "stock.pt"
            torch.save(stock_state(trained[0]), stock)
            point = Point(STOCK, STOCK, FAIRSEQ, row.heads, parameters, bleu)
            yield point, load(str(stock), results.study["beam"], length, "cpu", "float32")
        point = Point(title(row), row.name, FAIRSEQ, row.heads, parameters, bleu)
        yield point, load(scores[0]["checkpoint"], results.study["beam"], length, "cpu", "float32")
        engines = [folder / f"{run['run']}-int8" for run in row.runs]
        for model, target in zip(trained, engines, strict=True):
            with contextlib.redirect_stdout(io.StringIO()):
                convert(model, task_of(model, str(data.data_bin)), target, "int8")
        point = Point(
            f"{title(row)}, int8", row.name, ENGINE, row.heads, parameters,
            [engine_bleu(target, data, results.study, row.runs[0]["scores"]) for target in engines],
        )  # fmt: skip
        yield point, EngineRunner(engines[0], results.study["beam"], length, "cpu")


def average_length(data: PreparedData, split: str) -> int:
    """Return how many subwords a reference has on average, its end included."""
    return round(statistics.fmean(len(line) + 1 for line in data.subwords(split, data.languages[1])))


def frontier(points: Sequence[Point], batch: int) -> list[Point]:
    """Return the points that no other one beats, the slowest first."""
    best: list[Point] = []
    for point in sorted(points, key=lambda p: (-p.speed[batch], -p.mean)):
        if not best or point.mean > best[-1].mean:
            best.append(point)
    return best[::-1]


def table(points: Sequence[Point], batches: Sequence[int]) -> str:
    """Return the points as a Markdown table; ratios are to the first."""
    sizes = [f"batch {size}: sentences/s | ratio | frontier" for size in batches]
    lines = [
        f"| model | heads | parameters | BLEU | {' | '.join(sizes)} |",
        "|---|--:|--:|--:|" + "--:|--:|:-:|" * len(batches),
    ]
    best = {size: frontier(points, size) for size in batches}
    for p in points:
        spread = f" ± {statistics.stdev(p.bleu):.2f}" if len(p.bleu) > 1 else ""
        cells = [
            f"{p.speed[b]:.1f} ({p.spread[b]:.0%}) | {p.speed[b] / points[0].speed[b]:.2f} "
            f"| {'yes' if p in best[b] else ''}"
            for b in batches
        ]
        lines.append(f"| {p.name} | {p.heads} | {p.parameters:,} | {p.mean:.2f}{spread} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print, and write the files with ``--output``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", help="folder of a sweep's results")
    parser.add_argument("--data", required=True, help="prepared corpus of the study")
    parser.add_argument("--methods", nargs="+", required=True, metavar="NAME", help="methods beside the unpruned model")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--runs", type=int, default=20, help="of one sentence; a quarter as many of larger batches")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--output", type=Path, help="new folder for frontier.json and frontier.md")
    args = parser.parse_args()
    logging.getLogger("fairseq").setLevel(logging.WARNING)
    target = None if args.output is None else check_target(args.output)
    torch.set_num_threads(args.threads)
    results, data = read_results(args.results), PreparedData.read(args.data)
    known = {method["name"] for method in results.study["methods"]}
    for name in args.methods:
        if name not in known:
            raise UserError(f"{args.results} has no method {name}: give some of {', '.join(sorted(known))}")
    length = average_length(data, results.study["split"])
    with tempfile.TemporaryDirectory() as folder:
        found = list(models(results, args.methods, data, length, Path(folder)))
        points = [point for point, _ in found]
        runners = {point.name: runner for point, runner in found}
        for size in args.batch_sizes:
            runs = args.runs if size == 1 else max(1, args.runs // 4)
            measured = {r.model: r for r in measure(runners, [size], length, runs)}
            for point in points:
                point.speed[size] = measured[point.name].sentences_per_second
                point.spread[size] = measured[point.name].spread
    report = table(points, args.batch_sizes)
    print(report)
    if target is not None:
        content = {
            "settings": {"length": length, "runs": args.runs, "threads": args.threads, "split": results.study["split"]},
            "machine": {"processor": processor(), "torch": torch.__version__},
            "points": [asdict(point) for point in points],
        }
        with new_folder(target) as temporary:
            temporary.mkdir()
            (temporary / "frontier.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            (temporary / "frontier.md").write_text(report + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
