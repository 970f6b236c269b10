"""BLEU and chrF of translation models, by fairseq's own generation and sacrebleu.

Each CKPT is translated with and scored in turn; several checkpoints joined by ':' are an ensemble, as in fairseq.

  tokenised BLEU    of the recipe's tokens (Moses tokens for a recipe without tokenisation): comparable with papers
                    that report tokenised BLEU, not with anything else
  BLEU, chrF        of detokenised text, with sacrebleu's signature

examples:
  fairseq-dsp evaluate runs/joint/checkpoint_best.pt --data data/multi30k
  fairseq-dsp evaluate base.pt pruned.pt --data data/multi30k --split test1 --json scores.json
  fairseq-dsp evaluate pruned.pt --data data/multi30k --heads-to-keep 6
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .atomic import write_json, write_text
from .prepared import PreparedData
from .scoring import detokenised, score

PACKAGE = Path(__file__).resolve().parents[1]
POST_PROCESS = {"sentencepiece": "sentencepiece", "subword-nmt": "subword_nmt"}  # how fairseq undoes a BPE
_OTHER_BUDGETS = (
    "encoder_heads_to_keep", "decoder_heads_to_keep", "cross_heads_to_keep", "heads_to_keep_start",
    "heads_to_keep_updates", "heads_to_keep_low", "heads_to_keep_high",
)  # fmt: skip
_SPEED = re.compile(
    r"Translated ([\d,]+) sentences \(([\d,]+) tokens\) in [\d.]+s \(([\d.]+) sentences/s, ([\d.]+) tok"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("checkpoints", metavar="CKPT", nargs="+", help="checkpoint of fairseq, compact or not")
    parser.add_argument(
        "--data", metavar="DATA", required=True, help="folder made by scripts/preprocess.sh, with prepare.json in it"
    )
    parser.add_argument("--split", default="test", help="which text: valid, test, test1 … (default: %(default)s)")
    parser.add_argument(
        "--heads-to-keep", type=int, metavar="K", help="evaluate with so many heads (default: as it was trained)"
    )
    parser.add_argument("--beam", type=int, default=5, metavar="N", help="beam size (default: %(default)s)")
    parser.add_argument("--lenpen", type=float, default=1.0, help="length penalty (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=4096, metavar="N", help="of a batch (default: %(default)s)")
    parser.add_argument("--cpu", action="store_true", help="use no GPU")
    parser.add_argument("--json", metavar="OUT", type=Path, help="also write the scores to this file")
    parser.add_argument(
        "--translations", metavar="OUT", type=Path,
        help="also write the detokenised translations to this file, a line a sentence; for one CKPT",
    )  # fmt: skip


def run(args: argparse.Namespace) -> None:
    """Translate, score and print.

    :raises UserError: if the data, a checkpoint or the number of heads cannot be used.
    """
    data = PreparedData.read(args.data)
    data.check_split(args.split)
    if args.beam < 1:
        raise UserError(f"--beam is {args.beam}, but it must be 1 or more")
    if args.translations and len(args.checkpoints) > 1:
        raise UserError(f"--translations takes the output of one CKPT, but {len(args.checkpoints)} are given")
    for path in (path for checkpoint in args.checkpoints for path in checkpoint.split(":")):
        if not Path(path).is_file():
            raise UserError(f"the checkpoint {path} is missing: give a file that fairseq-train wrote")
        if args.heads_to_keep is not None:
            check_heads(path, args.heads_to_keep)
    results = []
    for checkpoint in args.checkpoints:
        tokens, speed = translate(
            checkpoint, data, args.split, heads_to_keep=args.heads_to_keep, beam=args.beam, lenpen=args.lenpen,
            max_tokens=args.max_tokens, cpu=args.cpu,
        )  # fmt: skip
        results.append(
            {"checkpoint": checkpoint, "corpus": data.summary.get("corpus"), "split": args.split}
            | {"heads_to_keep": args.heads_to_keep, "beam": args.beam, "lenpen": args.lenpen}
            | score(data, args.split, tokens)
            | speed
        )
        print(_text(results[-1]), flush=True)
        if args.translations:
            write_text(args.translations, "".join(line + "\n" for line in detokenised(data, tokens)))
    if args.json:
        write_json(args.json, results)


def check_heads(path: str, heads_to_keep: int) -> None:
    """Raise a `UserError` unless the model in a checkpoint can be evaluated with so many heads."""
    from fairseq import checkpoint_utils

    state = checkpoint_utils.load_checkpoint_to_cpu(path)["model"]
    total = sum(value.numel() for name, value in state.items() if name.endswith("out_proj.importance"))
    if not total:
        raise UserError(
            f"--heads-to-keep {heads_to_keep} cannot be applied to {path}: it holds no importance of heads, because it "
            "is compact or of fairseq's own transformer; leave the option out, or train with --arch transformer_dsp"
        )
    if not 0 <= heads_to_keep <= total:
        raise UserError(f"--heads-to-keep is {heads_to_keep}, but {path} has {total} heads: give 0 to {total}")


def translate(
    checkpoint: str,
    data: PreparedData,
    split: str,
    *,
    heads_to_keep: int | None = None,
    beam: int = 5,
    lenpen: float = 1.0,
    max_tokens: int = 4096,
    cpu: bool = False,
) -> tuple[list[str], dict[str, float]]:
    """Translate a text with fairseq-generate; its progress goes to standard error.

    :return: the translations in the order of the text, BPE undone, tokens left; and the ``sentences``, their
        ``sentences_per_second`` and ``tokens_per_second`` while translating, and all the ``seconds`` it took.
    :raises UserError: if fairseq-generate fails.
    """
    source, target = data.languages
    overrides = {}
    if heads_to_keep is not None:
        overrides = {"heads_to_keep": heads_to_keep, **dict.fromkeys(_OTHER_BUDGETS)}
    with tempfile.TemporaryDirectory() as folder:
        command = [
            *(sys.executable, "-m", "fairseq_cli.generate", str(data.data_bin), "--user-dir", str(PACKAGE)),
            *("--source-lang", source, "--target-lang", target, "--gen-subset", split, "--path", checkpoint),
            *("--beam", str(beam), "--lenpen", str(lenpen), "--max-tokens", str(max_tokens), "--num-workers", "0"),
            # fairseq leaves out the sentences that do not fill the last batch up to such a multiple
            *("--required-batch-size-multiple", "1"),
            *("--post-process", POST_PROCESS[data.summary["bpe"]], "--model-overrides", repr(overrides)),
            *("--results-path", folder),
            *(["--cpu"] if cpu else []),
        ]
        start = time.monotonic()
        status, last = _run_showing_errors(command)
        if status:
            raise UserError(f"fairseq-generate failed on {checkpoint} (exit status {status}): {last}")
        output = (Path(folder) / f"generate-{split}.txt").read_text(encoding="utf-8")
    speed = {"seconds": round(time.monotonic() - start, 2)}
    found: dict[int, str] = {}
    for line in output.split("\n"):
        if line.startswith("H-"):
            name, _, text = line.split("\t")
            found[int(name.removeprefix("H-"))] = text
        elif match := _SPEED.search(line):
            speed |= {"sentences_per_second": float(match[1]), "tokens_per_second": float(match[2])}
    expected = len(data.references(split))
    if sorted(found) != list(range(expected)):
        raise UserError(
            f"fairseq-generate translated {len(found)} sentences of {split}, but its references are {expected}: the "
            f"data in {data.folder} do not belong together, so run scripts/preprocess.sh again"
        )
    return [found[i] for i in range(expected)], {"sentences": expected, **speed}


def _run_showing_errors(command: Sequence[str]) -> tuple[int, str]:
    """Run a command and pass on what it writes to standard error; return its exit status and the last line."""
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    tail = b""
    with process:
        assert process.stderr is not None
        while chunk := process.stderr.read1():  # type: ignore[attr-defined]
            tail = (tail + chunk)[-4096:]
            sys.stderr.buffer.write(chunk)
            sys.stderr.flush()
    lines = [line for line in re.split(r"[\r\n]+", tail.decode(errors="replace")) if line.strip()]
    return process.returncode, lines[-1].strip() if lines else "no message"


def _text(result: dict[str, Any]) -> str:
    """The scores of one checkpoint for people."""
    heads = "" if result["heads_to_keep"] is None else f", {result['heads_to_keep']} heads"
    lines = [
        f"{result['checkpoint']}: {result['split']}, {result['sentences']} sentences, beam {result['beam']}{heads}"
    ]
    for key, name in (("tokenised_bleu", "tokenised BLEU"), ("bleu", "BLEU"), ("chrf", "chrF")):
        lines.append(f"  {name:<15} {result[key]['score']:6.2f}   {result[key]['signature']}")
    if "sentences_per_second" in result:
        lines.append(f"  {'speed':<15} {result['sentences_per_second']:6.1f}   sentences a second")
    return "\n".join(lines)
