"""fairseq's beam search over a binarised text, whatever its lengths and paths."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import PACKAGE
from ..model.dictionaries import fitting
from ..model.flat_options import NO_FILES
from .inputs import Sizes, checkpoint_paths, flags_for, positions, without_colons, without_references
from .prepared import PreparedData

MAX_LEN_A, MAX_LEN_B = 0.0, 200  # fairseq's defaults
_SPEED = re.compile(
    r"Translated ([\d,]+) sentences \(([\d,]+) tokens\) in [\d.]+s \(([\d.]+) sentences/s, ([\d.]+) tok"
)


def beam_search(
    checkpoint: str,
    data: PreparedData,
    split: str,
    *,
    overrides: dict[str, Any] | None = None,
    post_process: str | None = None,
    beam: int = 5,
    lenpen: float = 1.0,
    max_len_a: float = MAX_LEN_A,
    max_len_b: int = MAX_LEN_B,
    max_tokens: int = 4096,
    cpu: bool = False,
    best: int = 1,
) -> tuple[dict[int, list[str]], dict[str, float]]:
    """Translate a text of ``data-bin`` by beam search; its progress bar goes to standard error.

    :param overrides: of the model's options.
    :param post_process: how subwords are joined, or None to leave them.
    :param best: how many translations of each sentence to return, *beam* at most.
    :return: by the number of each sentence its translations, the best first, and what `evaluate.translate` says of the
        search.
    """
    from fairseq import options
    from fairseq.dataclass.utils import convert_namespace_to_omegaconf
    from fairseq_cli import generate

    source, target = data.languages
    for language in data.languages:
        data.dictionary(f"dict.{language}.txt")
    paths = checkpoint_paths(checkpoint)
    limits, sizes = positions(paths), Sizes.of(data, split)
    size_flags, cut = flags_for(sizes, limits, max_tokens)
    if cut:
        note = f"{cut} of {len(sizes.source)} sentences are longer than the model's {limits[0]} positions and are cut"
        print(f"{split}: {note}", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        models = ":".join(without_colons(Path(path), here, f"model{i}.pt") for i, path in enumerate(paths))
        beyond = (sizes.target > limits[1]).any()
        data_bin = without_references(data, split, here) if beyond else data.data_bin
        arguments = [
            *(without_colons(data_bin, here, "data-bin"), "--user-dir", str(PACKAGE), "--path", models, *size_flags),
            *("--source-lang", source, "--target-lang", target, "--gen-subset", split),
            *("--beam", str(beam), "--nbest", str(best), "--lenpen", str(lenpen), "--num-workers", "0"),
            *("--max-len-a", str(max_len_a), "--max-len-b", str(max_len_b)),
            # fairseq leaves out the sentences that do not fill the last batch up to such a multiple
            *("--required-batch-size-multiple", "1"),
            *(["--post-process", post_process] if post_process else []),
            *("--model-overrides", repr({**NO_FILES, **(overrides or {})})),
            *("--results-path", folder),
            *(["--cpu"] if cpu else []),
        ]
        args = options.parse_args_and_arch(options.get_generation_parser(), arguments)
        with fitting(checkpoint, data.data_bin), without_chatter(), _listening() as said, _counted() as stopped:
            generate.main(convert_namespace_to_omegaconf(args))
        output = (Path(folder) / f"generate-{split}.txt").read_text(encoding="utf-8")
    found: dict[int, list[str]] = {}
    for line in output.split("\n"):
        if line.startswith("H-"):
            name, _, text = line.split("\t")
            found.setdefault(int(name.removeprefix("H-")), []).append(text)
    speed = {"sentences": float(len(found)), "cut": float(cut), "stopped_at_limit": float(sum(stopped))}
    for match in filter(None, map(_SPEED.search, said)):
        speed |= {"sentences_per_second": float(match[3]), "tokens_per_second": float(match[4])}
    return found, speed


@contextlib.contextmanager
def without_chatter() -> Iterator[None]:
    """Keep all but warnings of fairseq from the screen."""
    chatter = logging.getLogger("fairseq")
    level = chatter.level
    chatter.setLevel(logging.WARNING)
    try:
        yield
    finally:
        chatter.setLevel(level)


@contextlib.contextmanager
def _listening() -> Iterator[list[str]]:
    """Collect what fairseq-generate logs, and keep it from the screen."""
    said: list[str] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(record.getMessage())

    collect = Collect()
    logger = logging.getLogger("fairseq_cli.generate")
    before = logger.level, logger.propagate
    logger.setLevel(logging.INFO)
    logger.propagate = False
    logger.addHandler(collect)
    try:
        yield said
    finally:
        logger.removeHandler(collect)
        logger.setLevel(before[0])
        logger.propagate = before[1]


@contextlib.contextmanager
def _counted() -> Iterator[list[int]]:
    """Collect, batch by batch, how many of the best translations are as long as they may be."""
    from fairseq.sequence_generator import SequenceGenerator

    stopped: list[int] = []
    stock = SequenceGenerator.generate

    def generate(self: Any, models: Any, sample: dict[str, Any], **kwargs: Any) -> Any:
        found = stock(self, models, sample, **kwargs)
        longest = int(self.max_len_a * sample["net_input"]["src_tokens"].shape[1] + self.max_len_b)
        longest = min(longest, self.max_len - 1)  # the positions of the model
        stopped.append(sum(len(best["tokens"]) > longest for best, *_ in found))  # with the end of the sentence
        return found

    SequenceGenerator.generate = generate
    try:
        yield stopped
    finally:
        SequenceGenerator.generate = stock
