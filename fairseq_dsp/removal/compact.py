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
from typing import Any

from fairseq.models import ARCH_CONFIG_REGISTRY, ARCH_MODEL_REGISTRY
from fairseq.models.transformer import TransformerConfig

from ..errors import UserError
from ..files import PACKAGE, check_target, write_files
from ..model import PruningConfig
from ..model.bert_options import EncoderConfig
from ..model.dictionaries import with_fingerprints
from ..model.kinds import flag
from .checkpoint import TrainedModel, add_budgets, budgets
from .data_bin import language_flags, position_flags, subwords_of, translating


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a model trained with --heads-to-keep")
    parser.add_argument("out", metavar="OUT", help="checkpoint to write; must not exist")
    add_budgets(parser)
    parser.add_argument(
        "--kept-heads",
        metavar="FILE",
        help="keep the heads, and feed-forward units if there are any, of this JSON file",
    )


def run(args: argparse.Namespace) -> None:
    """Make the compact checkpoint."""
    out = check_target(args.out)
    heads_file = check_target(out.with_name(f"{out.name.removesuffix('.pt')}.heads.json"))
    model = TrainedModel.read(args.checkpoint, kept_heads=args.kept_heads, **budgets(args))
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
    folder = str(getattr(model.options, "data", "DATA"))
    data = shlex.quote(folder)
    name, heads, plugin = (shlex.quote(str(path)) for path in (out, heads_file, PACKAGE))
    own = "".join(
        f" {name}" + ("" if value is True else f" {shlex.quote(str(value))}")
        for name, value in sizes(model.options, model.architecture).items()
    )
    languages = language_flags(model.state)
    if not model.classifies:
        how = translating(folder, out, languages + position_flags(model.state), subwords_of(folder))
        use = f"To translate with it (fairseq-dsp evaluate scores it):\n  {how}"
    else:
        use = (
            f"To evaluate it, add the task's options to:\n  fairseq-validate {data} --user-dir {plugin} "
            f"--path {name} --valid-subset test"
        )
    train = shlex.join(["fairseq-train", folder, *languages])
    return (
        f"{out}: {model.heads.counts()}, {out.stat().st_size:,} bytes; {heads_file}: which\n"
        f"{use}\nTo train it on, add the usual options of training to:\n  {train} --user-dir {plugin} "
        f"--arch {model.architecture}{own} --compact --kept-heads {heads} --finetune-from-model {name}"
    )


def sizes(options: Namespace, architecture: str) -> dict[str, Any]:
    """Return the options of a model that differ from its architecture's, by their flags; True for one without a value.

    :param options: the model's.
    :param architecture: one of this package's.
    """
    model_class, parser = ARCH_MODEL_REGISTRY[architecture], argparse.ArgumentParser(add_help=False)
    model_class.add_args(parser)
    # decoder_input_dim, for one, has no flag
    defaults = {action.dest: action.default for action in parser._actions if action.default != argparse.SUPPRESS}
    usual, stock = Namespace(), {**defaults, **vars(TransformerConfig()), **vars(EncoderConfig())}
    ARCH_CONFIG_REGISTRY[architecture](usual)
    found = {}
    for name in sorted(defaults.keys() - set(PruningConfig.__dataclass_fields__)):
        value = getattr(options, name, None)
        # 0 is a value: it switches off a dropout that the architecture has
        if value is not None and value is not False and value != getattr(usual, name, stock.get(name)):
            found[flag(name)] = value
    return found
