"""The compact model computes what the pruned model computes, but has no parameter and no computation of a removed head.
OUT is a fairseq checkpoint, loaded with --user-dir fairseq_dsp alone: the heads are written into its configuration, and
for further training as JSON beside it. The optimiser's state is left out.

examples:
  fairseq-dsp compact checkpoints/checkpoint_best.pt compact.pt
  fairseq-dsp compact checkpoints/checkpoint_best.pt compact8.pt --heads-to-keep 8
  fairseq-dsp compact unpruned.pt compact.pt --kept-heads heads-scored-by-another-method.json
"""

from __future__ import annotations

import argparse
import shlex
from argparse import Namespace
from pathlib import Path

from fairseq.models import ARCH_CONFIG_REGISTRY
from fairseq.models.transformer import TransformerConfig

from ..errors import UserError
from ..model import PrunableTransformer, PruningConfig
from ..model.config import flag, flat_names
from ..model.dictionaries import with_fingerprints
from .checkpoint import TrainedModel, check_target, write_files


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a model trained with --heads-to-keep")
    parser.add_argument("out", metavar="OUT", help="checkpoint to write; must not exist")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--heads-to-keep", type=int, metavar="K", help="keep the best K heads, whatever K was trained")
    which.add_argument("--kept-heads", metavar="FILE", help="keep the heads in this JSON file")


def run(args: argparse.Namespace) -> None:
    """Make the compact checkpoint."""
    out = check_target(args.out)
    heads_file = check_target(out.with_suffix(".heads.json"))
    model = TrainedModel.read(args.checkpoint, heads_to_keep=args.heads_to_keep, kept_heads=args.kept_heads)
    if model.is_compact:
        raise UserError(f"the checkpoint {model.path} is compact already: use it as it is")
    if not model.chosen and not PruningConfig.from_namespace(model.options).has_budget:
        raise UserError(
            f"the checkpoint {model.path} was not trained with pruning, so no heads are chosen: train with "
            "--heads-to-keep K, or give --kept-heads FILE with heads scored by fairseq-dsp score-heads"
        )
    small = with_fingerprints(model.compact_parameters(), model.state["model"])
    write_files({heads_file: model.heads.to_json() + "\n", out: model.state_with(small, model.compact_options())})
    print(report(model, out, heads_file))


def report(model: TrainedModel, out: Path, heads_file: Path) -> str:
    """Return what to tell the user: what was written, and the commands to use it."""
    data = shlex.quote(str(getattr(model.options, "data", "DATA")))
    name, heads = shlex.quote(str(out)), shlex.quote(str(heads_file))
    return (
        f"{out}: {model.heads.kept} of {model.heads.total} heads, {out.stat().st_size:,} bytes; {heads_file}: which\n"
        f"To translate with it:\n  fairseq-generate {data} --user-dir fairseq_dsp --path {name} --beam 5\n"
        f"To train it on, add the usual options of training to:\n  fairseq-train {data} --user-dir fairseq_dsp "
        f"--arch {model.architecture}{_sizes(model)} --compact --kept-heads {heads} --finetune-from-model {name}"
    )


def _sizes(model: TrainedModel) -> str:
    """Return the flags of the model's options that differ from its architecture's, or from fairseq's defaults."""
    usual, defaults = Namespace(), TransformerConfig()
    ARCH_CONFIG_REGISTRY[model.architecture](usual)
    parser = argparse.ArgumentParser()
    PrunableTransformer.add_args(parser)
    flags = {action.dest for action in parser._actions}  # decoder_input_dim, for one, has none
    text = ""
    for name in sorted(flat_names() & flags):
        value = getattr(model.options, name, None)
        if value not in (None, False, getattr(usual, name, getattr(defaults, name))):
            text += f" {flag(name)}" + ("" if value is True else f" {shlex.quote(str(value))}")
    return text
