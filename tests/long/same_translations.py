"""Does every form of a trained model translate a whole test set as the training checkpoint does?

    python tests/long/same_translations.py runs/k3/checkpoint_best.pt --data data/multi30k/data-bin

The checkpoint as it was trained, stock attention with gates, in float32, is what the others are compared with: the
exported folder, from and to raw text, if that is beside the data; the compact checkpoint; that one prepared as
fairseq-generate prepares it; fairseq's own Transformer with the exported weights; and CTranslate2. A translation that
differs is scored by the checkpoint, beside the one it differs from: the same score within 1e-5 is a tie, which rounding
decides. Apart from ties, those are counted that have no end at the longest length: a search that goes on to the limit
ends differently in different tools. The largest difference of the logits is measured on the references. Prints a table
in Markdown; no sentence is printed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sacrebleu
import sentencepiece
import torch
from fairseq import checkpoint_utils
from fairseq.models.transformer import TransformerModel
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import fairseq_dsp
from fairseq_dsp.cli import main as main_command
from fairseq_dsp.model import PrunableTransformer
from fairseq_dsp.removal.checkpoint import TrainedModel
from fairseq_dsp.removal.data_bin import preparation, task_of
from fairseq_dsp.removal.export_ctranslate2 import convert

BEAM, BATCH, TIE, LONGEST = 5, 50, 1e-5, 200


def batches(task: Any, split: str) -> Iterator[dict[str, Any]]:
    """Yield a split's sentences, similar lengths together."""
    data = task.dataset(split)
    order = sorted(range(len(data)), key=lambda i: int(data.src_sizes[i]))
    for start in range(0, len(order), BATCH):
        yield data.collater([data[i] for i in order[start : start + BATCH]])


def translate(task: Any, model: Any, split: str) -> dict[int, list[int]]:
    """Return the best translation of each sentence, its end included."""
    generator = task.build_generator([model], Namespace(beam=BEAM, max_len_b=LONGEST))
    found = {}
    for batch in batches(task, split):
        best = [h[0]["tokens"].tolist() for h in task.inference_step(generator, [model], batch)]
        found |= dict(zip(batch["id"].tolist(), best, strict=True))
    return found


def translate_with_engine(task: Any, folder: Path, split: str) -> dict[int, list[int]]:
    """Return what CTranslate2 finds best for each sentence, the end added."""
    import ctranslate2

    engine = ctranslate2.Translator(str(folder), intra_threads=torch.get_num_threads())
    found = {}
    for batch in batches(task, split):
        source = [
            [task.source_dictionary[i] for i in row if i not in (task.source_dictionary.pad(), 2)]
            for row in batch["net_input"]["src_tokens"].tolist()
        ]
        results = engine.translate_batch(source, beam_size=BEAM, max_decoding_length=LONGEST)
        best = [[task.target_dictionary.index(w) for w in r.hypotheses[0]] + [2] for r in results]
        found |= dict(zip(batch["id"].tolist(), best, strict=True))
    return found


@torch.no_grad()
def logits(model: Any, batch: dict[str, Any]) -> Tensor:
    """Return the logits of the references. *Shape:* (B, T, V)"""
    result: Tensor = model(**batch["net_input"])[0]
    return result


@torch.no_grad()
def score(task: Any, model: Any, split: str, number: int, tokens: list[int]) -> float:
    """Return fairseq's score of a translation: the mean log-probability of its tokens."""
    source = task.dataset(split)[number]["source"]
    target = torch.tensor(tokens)
    previous = torch.cat([target[-1:], target[:-1]])[None]
    output = model(source[None], torch.tensor([len(source)]), previous)
    return float(model.get_normalized_probs(output, True)[0].gather(1, target[:, None]).mean())


def main() -> None:
    """Compare and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--data", required=True, help="the data-bin folder")
    parser.add_argument("--split", default="test")
    args = parser.parse_args()
    trained = TrainedModel.read(args.checkpoint)
    task = task_of(trained, args.data)
    task.load_dataset(args.split)
    state = {"data": args.data, "user_dir": None}

    def masked() -> Any:
        (model,), _ = checkpoint_utils.load_model_ensemble([args.checkpoint], arg_overrides=state)
        return model.eval()

    def compact() -> Any:
        model = PrunableTransformer.build_model(trained.compact_options(), task)
        model.load_state_dict(trained.compact_parameters())
        return model.eval()

    def prepared() -> Any:
        model = compact()
        model.make_generation_fast_(need_attn=False)
        return model

    def stock() -> Any:
        model = TransformerModel.build_model(trained.options, task)
        model.load_state_dict(trained.full_parameters())
        return model.eval()

    reference, small = masked(), compact()
    largest = worst = 0.0
    for batch in batches(task, args.split):
        one, other = logits(reference, batch), logits(small, batch)
        largest, worst = max(largest, float(one.abs().max())), max(worst, float((one - other).abs().max()))
    print(f"{trained.heads.kept} of {trained.heads.total} heads; logits differ by {worst / largest:.1e} of the largest")

    prepare = preparation(args.data)
    bpe = sentencepiece.SentencePieceProcessor(prepare["bpe_model"]) if prepare.get("bpe_model") else None

    def text(tokens: list[int]) -> str:
        words: str = task.target_dictionary.string(torch.tensor(tokens))
        return bpe.decode(words.split()) if bpe else words

    data = task.dataset(args.split)
    references = [text(data[i]["target"].tolist()) for i in range(len(data))]
    expected = translate(task, reference, args.split)
    print("| form | same | of | differ by a tie | differ at the limit | largest difference of score | BLEU |")
    print("|---|--:|--:|--:|--:|--:|--:|")

    def row(name: str, found: dict[int, list[int]]) -> None:
        different = [i for i in expected if found[i] != expected[i]]
        gaps = [
            score(task, reference, args.split, i, found[i]) - score(task, reference, args.split, i, expected[i])
            for i in different
        ]
        ties = [abs(gap) <= TIE for gap in gaps]
        cut = sum(not tie and len(expected[i]) > LONGEST for i, tie in zip(different, ties, strict=True))
        bleu = sacrebleu.corpus_bleu([text(found[i]) for i in range(len(data))], [references]).score
        print(
            f"| {name} | {len(expected) - len(different)} | {len(expected)} | {sum(ties)} | {cut} "
            f"| {max(gaps, key=abs, default=0.0):.1e} | {bleu:.2f} |",
            flush=True,
        )

    row("as trained", expected)
    raw = Path(args.data).absolute().parent / "raw" / f"{args.split}.{task.cfg.source_lang}"
    if raw.is_file():
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
            main_command(["export-folder", args.checkpoint, f"{folder}/model", "--data", args.data])
            model = fairseq_dsp.from_pretrained(f"{folder}/model")
        found = model.translate(raw.read_text(encoding="utf-8").splitlines())
        agree = sum(one == text(expected[i]) for i, one in enumerate(found))
        print(f"| folder, from and to raw text | {agree} | {len(expected)} | – | – | – | – |", flush=True)
    for name, make in {"compact": compact, "compact, prepared": prepared, "stock fairseq": stock}.items():
        row(name, translate(task, make(), args.split))
    for kind in ("float32", "int8"):
        with tempfile.TemporaryDirectory() as folder:
            convert(trained, task, Path(folder), kind)
            row(f"CTranslate2 {kind}", translate_with_engine(task, Path(folder), args.split))


if __name__ == "__main__":
    main()
