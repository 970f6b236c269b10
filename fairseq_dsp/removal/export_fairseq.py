"""OUT is a checkpoint of fairseq's own `transformer` or `roberta`, for fairseq without this plugin, with the same
results: the gates are in the weights, and the heads that are not kept are zeros. So it is as large and as slow as an
unpruned model. Its configuration is plain values, so torch's safe loading accepts it in any fairseq.

example:
  fairseq-dsp export-fairseq checkpoints/checkpoint_best.pt stock.pt
  fairseq-generate data-bin --path stock.pt --beam 5 --required-batch-size-multiple 1

Without --required-batch-size-multiple 1, this fairseq leaves out up to seven of the longest sentences.
"""

from __future__ import annotations

import argparse
from argparse import Namespace
from collections import OrderedDict
from typing import Any

from fairseq.criterions import CRITERION_DATACLASS_REGISTRY

from ..errors import UserError
from ..files import check_target, write_files
from ..model.bert_options import EncoderConfig
from ..model.kinds import flag
from .checkpoint import TrainedModel, add_budgets, budgets
from .data_bin import position_flags, post_process_flags, subwords_of

ALL_SENTENCES = "--required-batch-size-multiple 1"
"""Or fairseq without the plugin leaves out the last sentences, whose number is no multiple of 8."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("checkpoint", metavar="CKPT", help="checkpoint of a pruned model, compact or not")
    parser.add_argument("out", metavar="OUT", help="checkpoint to write; must not exist")
    add_budgets(parser)


def run(args: argparse.Namespace) -> None:
    """Make the stock checkpoint."""
    out = check_target(args.out)
    model = TrainedModel.read(args.checkpoint, **budgets(args))
    write_files({out: stock_state(model)})
    if model.classifies:
        use = f"fairseq-validate DATA --path {out} {ALL_SENTENCES} --task sentence_prediction …"
        print(f"{out}: a stock roberta; {use}")
    else:
        model.alignment_heads("fairseq-generate --print-alignment")
        joined = post_process_flags(subwords_of(str(getattr(model.options, "data", "DATA"))))
        more = " ".join([ALL_SENTENCES, *position_flags(model.state), *joined])
        print(f"{out}: a stock transformer; fairseq-generate DATA --path {out} --beam 5 {more}")


def stock_state(model: TrainedModel) -> dict[str, Any]:
    """Return the state of a stock checkpoint that computes the same.

    :raises UserError: if a weight is not finite, or the model has what fairseq's own does not have.
    """
    usual = EncoderConfig()
    for name in (n for n in EncoderConfig.__dataclass_fields__ if not n.startswith("_")):
        if model.classifies and getattr(model.options, name, getattr(usual, name)) != getattr(usual, name):
            raise UserError(
                f"{model.path} has {flag(name)} {getattr(model.options, name)}, as a BERT has, but fairseq's own "
                "roberta cannot have it: use fairseq-dsp export-folder instead"
            )
    own = {name for part in model.model_class.own_options for name in part.__dataclass_fields__}
    known = model.model_class.known_options() - own
    options = {name: value for name, value in vars(model.options).items() if name in known}
    stock = model.model_class.architecture.stock
    state = model.state_with(model.full_parameters(), {**options, "_name": stock, "arch": stock})
    config = state["cfg"] = {part: _plain(settings) for part, settings in state["cfg"].items()}
    for part, name in (("task", "_name"), ("task", "task"), ("criterion", "_name"), ("criterion", "criterion")):
        if config.get(part) and config[part].get(name):
            config[part][name] = config[part][name].removesuffix("_dsp")
    criterion = config.get("criterion")
    if criterion and (stock := CRITERION_DATACLASS_REGISTRY.get(criterion.get("_name"))):
        config["criterion"] = {k: v for k, v in criterion.items() if k in stock.__dataclass_fields__}
    if config.get("common"):
        config["common"]["user_dir"] = None
    # programs that expect a Namespace, such as ct2-fairseq-converter, find there what fairseq-train puts into one
    task = config.get("task") or {}
    config["model"] = OrderedDict(config["model"])
    vars(config["model"]).update({**task, **config["model"], "task": task.get("_name") or task.get("task")})
    return {**state, "criterion": None}


def _plain(settings: Any) -> Any:
    """Return settings without the classes that torch's safe loading does not take."""
    if isinstance(settings, Namespace):  # of a task or criterion that has no dataclass
        settings = vars(settings)
    if isinstance(settings, dict):
        return {name: _plain(value) for name, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [_plain(value) for value in settings]
    return settings if isinstance(settings, (str, int, float, bool, type(None))) else str(settings)
