"""FOLDER is a model for CTranslate2, the C++ engine: ctranslate2.Translator(FOLDER), or one of the servers built on it.
The engine takes one number of heads for the encoder and one for the decoder, so each module is padded with heads of
zeros up to the largest of its stack. Needs the package: pip install -e '.[ctranslate2]' -c constraints.txt

The engine computes what fairseq's Transformer does, with all options but --adaptive-softmax-cutoff,
--cross-self-attention, --activation-fn linear, and --quant-noise-pq together with --layernorm-embedding: models with
these are refused. FOLDER is put in place once the engine, in float32, has given the words of two sentences the
log-probabilities that the model gives them, within 0.001. Positions that the model does not have go on as sinusoids do,
or repeat the last learned one, up to 1,024, so that one long sentence does not cost the engine a whole batch.

FOLDER also has the subword model, and text.json, which says what raw text goes through, by default as the corpus was
prepared: fairseq-dsp translate FOLDER and fairseq_dsp.from_pretrained(FOLDER) take raw text.

examples:
  fairseq-dsp export-ctranslate2 compact.pt engine --data data-bin
  fairseq-dsp export-ctranslate2 compact.pt engine-int8 --data data-bin --quantization int8
"""

from __future__ import annotations

import argparse
import inspect
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from .. import extras
from ..corpus import data_bin_of
from ..deployment import engine
from ..errors import UserError
from ..files import check_target, new_folder
from ..model import HEADS
from . import text_options
from .checkpoint import TrainedModel, add_budgets, budgets
from .ctranslate2_spec import check_options, largest, specification
from .data_bin import preparation, task_of
from .export_check import TOLERANCE, Pairs, check_same, log_probabilities, original, sentences

LONGEST_TRANSLATION = 256
"""The engine's max_decoding_length, unless it is given another one."""

QUANTIZATIONS = ["int8", "int8_float32", "int16", "float16", "bfloat16", "float32"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a pruned model, compact or not")
    parser.add_argument("folder", metavar="FOLDER", help="folder to write; must not exist")
    about = "the model's corpus, for its dictionaries (default: training's)"
    parser.add_argument("--data", metavar="DATA", type=data_bin_of, help=about)
    parser.add_argument("--quantization", choices=QUANTIZATIONS, help="type of the weights (default: float32)")
    text_options.add_arguments(parser)
    add_budgets(parser)


def run(args: argparse.Namespace) -> None:
    """Write the folder."""
    ctranslate2 = extras.ctranslate2()
    from ctranslate2.specs.transformer_spec import TransformerEncoderSpec

    if "head_dim" not in inspect.signature(TransformerEncoderSpec.__init__).parameters:
        raise UserError(
            f"ctranslate2 {ctranslate2.__version__} is installed, which is too old for models with pruned heads: "
            "pip install 'ctranslate2>=4.6.3'"
        )
    target = check_target(args.folder)
    model = TrainedModel.read(args.checkpoint, **budgets(args))
    task = task_of(model, args.data)
    text, subwords = _text(args, task, model)
    with new_folder(target) as temporary:
        positions = convert(model, task, temporary, args.quantization)
        if subwords:
            text_options.copy_subwords(subwords, temporary)
        if text:
            engine.write(temporary, text, positions)
    print(f"{target}: for CTranslate2 {ctranslate2.__version__}; {_padding(model)}")
    if positions[1] < LONGEST_TRANSLATION:
        most = positions[1]
        print(f"The model has {most} positions: translate with max_decoding_length={most - 1}, as fairseq does")


def convert(model: TrainedModel, task: Any, folder: Path, quantization: str | None = None) -> tuple[int, int]:
    """Write a model as a folder for CTranslate2.

    :param folder: to be made.
    :return: the number of positions that a source and a translation can have.
    :raises UserError: if the engine cannot express the model, or computes something else.
    """
    check_options(model.options)
    network = original(model, task)
    pairs = sentences(task)
    expected = log_probabilities(network, task, pairs)
    alignment_heads = model.alignment_heads("the engine's return_attention")
    for kind in dict.fromkeys([None, quantization]):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        spec = specification(model, network, task, alignment_heads)
        spec.validate()
        with np.errstate(divide="ignore", invalid="ignore"):  # zeros for padding, as int16, have an infinite scale
            spec.optimize(quantization=kind)
        spec.save(str(folder))
        # a coarser type computes something else, but no NaN
        check_same(_scores(folder, pairs), expected, "CTranslate2", math.inf if kind else TOLERANCE)
    source, target = network.max_positions()
    return int(source), int(target)


def _text(args: argparse.Namespace, task: Any, model: TrainedModel) -> tuple[dict[str, Any] | None, Path | None]:
    """Return what raw text goes through, and the file of the subword model, None where there is none.

    The first is None, too, and told, where the subword model of the preparation is gone.
    """
    prepared = preparation(task.cfg.data)
    try:
        bpe, subwords = text_options.subwords(args, prepared)
    except UserError as error:
        if args.bpe or args.bpe_model:
            raise
        print(f"The folder will translate subwords only, not raw text: {error}")
        return None, None
    own = {"bpe": bpe, "bpe_model": subwords.name if subwords else None}
    return own | text_options.text_settings(args, prepared, task), subwords


def _scores(folder: Path, pairs: Pairs) -> list[float]:
    """Return what the engine gives where `log_probabilities` says what fairseq does."""
    import ctranslate2

    try:
        engine = ctranslate2.Translator(str(folder), compute_type="float32", intra_threads=1)
        results = engine.score_batch([source for source, _ in pairs], [target for _, target in pairs])
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"CTranslate2 {ctranslate2.__version__} cannot run the converted model ({error}), so nothing was written: "
            "use fairseq-dsp export-folder or export-fairseq instead"
        ) from error
    return [score for result in results for score in result.log_probs]


def _padding(model: TrainedModel) -> str:
    sizes = largest(model)
    computed = sum(sizes[module.stack] for module in model.modules if module.kind is HEADS)
    others = "".join(f", {units.kept} {units.kind.units}" for units in model.heads.others)
    added = computed - model.heads.kept
    numbers = {(module.stack, len(kept)) for module, kept in model.kept_by_module() if module.kind is HEADS}
    uneven = len(numbers) > len(sizes)
    advice = "; padding costs time"
    if model.range is None:  # with which --uniform-heads does not go
        advice += ": --uniform-heads in pruning needs none"
    return f"{model.heads.kept} heads and {added} of zeros for padding{others}{advice if uneven else ''}"
