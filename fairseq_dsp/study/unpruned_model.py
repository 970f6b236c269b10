"""A trained model that is to be pruned, stock or this package's: what its checkpoint says, and what does not fit it."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evaluation.beam_search import without_chatter
from ..evaluation.prepared import PreparedData
from ..model import HEADS, KINDS, PrunableTransformer, PruningConfig, PruningPlan
from ..model.dictionaries import check_words, direction
from ..model.finite import check_finite
from ..model.flat_options import NO_FILES, config_of, positions_of
from ..model.units import ROBERTA, TRANSFORMER, model_of, modules_in, shape_of
from ..removal.compact import sizes
from ..removal.data_bin import check_task
from .options import Options

MODEL, STOCK = TRANSFORMER.model, TRANSFORMER.stock
PRECISIONS = "fp16", "bf16", "amp"


@dataclass(frozen=True)
class UnprunedModel:
    """An unpruned model.

    :param path: its checkpoint.
    :param state: what fairseq loaded from there.
    :param sizes: its options, architecture included, as a pruning training needs them.
    :param shape: for each attention type, the number of heads of each layer.
    """

    path: Path
    state: dict[str, Any]
    sizes: Options
    shape: dict[str, list[int]]

    @staticmethod
    def read(path: str | Path) -> UnprunedModel:
        """Read a checkpoint.

        :raises UserError: if it is none, or its model is no plain Transformer for translation, or pruned already.
        """
        from fairseq import checkpoint_utils

        path = Path(path).absolute()
        state = checkpoint_utils.load_checkpoint_to_cpu(str(path))
        config = config_of(state)
        given = architecture_in(state)
        if model_of(given) in (ROBERTA.model, ROBERTA.stock):
            raise UserError(
                f"the checkpoint {path} is of the architecture {given}, but this command is for translation: fine-tune "
                f"from it with fairseq-train --arch {ROBERTA.model} --heads-to-keep K, or in a study"
            )
        if model_of(given) not in (MODEL, STOCK):
            raise UserError(
                f"the checkpoint {path} is of the architecture {given}, whose heads cannot be pruned: give one of "
                f"fairseq's {STOCK} or of {MODEL}, of any size"
            )
        check_task(state, str(path))
        try:
            options = PrunableTransformer.namespace(config)
            given = str(getattr(options, "arch", None) or given)
            vars(options).update(NO_FILES)
            if getattr(options, "adaptive_softmax_cutoff", None) is not None:
                raise ValueError(
                    "it has an adaptive softmax, which this command does not train: use fairseq-train --criterion "
                    "adaptive_loss --ddp-backend legacy_ddp --heads-to-keep K --finetune-from-model CKPT"
                )
            pruning = PruningConfig.from_namespace(options)
            if pruning.compact:
                raise ValueError("it is compact already: give the unpruned model that it was made from")
            shapes = {
                kind: shape_of(modules_in(state["model"], options, KINDS[kind]), KINDS[kind])
                for kind in KINDS
                if KINDS[kind].is_chosen(options)
            }
            shape = shapes[HEADS.name]
            if any(PruningPlan(pruning, own, KINDS[kind]).prunes for kind, own in shapes.items()):
                raise ValueError(
                    "it is pruned already: give the unpruned model, or make it small with fairseq-dsp compact"
                )
            architecture = TRANSFORMER.sized(given)
            own = {flag.removeprefix("--"): value for flag, value in sizes(options, architecture).items()}
            for name in ("max-source-positions", "max-target-positions"):  # the task's
                own.pop(name, None)
        except KeyError as error:
            raise UserError(
                f"the checkpoint {path} has no {error.args[0]}: give one that fairseq-train wrote"
            ) from error
        except (ValueError, AttributeError) as error:
            raise UserError(f"the checkpoint {path} cannot be pruned: {error}") from error
        check_finite(state["model"], f"the checkpoint {path}")
        return UnprunedModel(path, state, {"arch": architecture, **own}, shape)

    @property
    def heads(self) -> int:
        """N, the number of its heads."""
        return sum(map(sum, self.shape.values()))

    @property
    def longest(self) -> int:
        """How many subwords its sentences and their translations may have."""
        source, target = positions_of(self.state)
        return min(source, target - 1)  # one is for the end of the translation

    @property
    def is_stock(self) -> bool:
        """Whether it is of stock fairseq's architecture, whose heads have no importance."""
        given = architecture_in(self.state)
        return model_of(given) == STOCK

    @property
    def updates(self) -> int:
        """How many updates trained it."""
        return int(self.state["optimizer_history"][-1]["num_updates"])

    def options(self, *, half: bool) -> Options:
        """Return options of fairseq-train for training it on as it was trained: its sizes, batches, optimiser and loss.

        The learning rate is the peak of its own. Several processes become as many batches an update.

        :param half: whether to train in half or mixed precision, if it was trained so.
        """
        get = self._option
        options: Options = {**self.sizes, "lr": max(_numbers(get("optimization", "lr", [5e-4])))}
        for name in ("max_source_positions", "max_target_positions"):
            if get("task", name) not in (None, 1024):
                options[name.replace("_", "-")] = get("task", name)
        options |= {"optimizer": "adam", "adam-betas": "(0.9, 0.98)"}
        if get("optimizer", "_name") == "adam":
            betas = get("optimizer", "adam_betas", options["adam-betas"])
            options["adam-betas"] = betas if isinstance(betas, str) else str(tuple(betas))
            options["adam-eps"] = get("optimizer", "adam_eps", 1e-8)
            options["weight-decay"] = get("optimizer", "weight_decay", 0.0)
        options["clip-norm"] = get("optimization", "clip_norm", 0.0)
        options["label-smoothing"] = get("criterion", "label_smoothing", 0.0)
        for name in ("max_tokens", "batch_size"):
            if get("dataset", name) is not None:
                options[name.replace("_", "-")] = get("dataset", name)
        if not {"max-tokens", "batch-size"} & options.keys():
            options["max-tokens"] = 4096
        processes = int(get("distributed_training", "distributed_world_size", 1))
        batches = processes * int(_numbers(get("optimization", "update_freq", [1]))[-1])
        if batches > 1:
            options["update-freq"] = batches
        for section, name in (
            ("optimization", "sentence_avg"), ("dataset", "skip_invalid_size_inputs_valid_test"),
            ("task", "truncate_source"), ("criterion", "ignore_prefix_size"),
        ):  # fmt: skip
            if get(section, name):
                options[name.replace("_", "-")] = get(section, name)
        options |= {name: True for name in PRECISIONS if half and get("common", name)}
        return options

    def check_learning_rate(self, given: Options) -> None:
        """Check that the model's learning rate is one for the optimiser that trains it on.

        :param given: options that are given, which win.
        :raises UserError: if it is of an optimiser of another kind than Adam.
        """
        theirs = str(self._option("optimizer", "_name", "adam"))
        if "adam" not in theirs and not {"lr", "optimizer"} & given.keys():
            rate = max(_numbers(self._option("optimization", "lr", [5e-4])))
            raise UserError(
                f"{self.path} was trained by {theirs} with the learning rate {rate:g}, but is trained on by Adam, "
                f"which needs another: give --lr, such as 0.0005, or --optimizer {theirs}"
            )

    def check_data(self, data: PreparedData) -> None:
        """Check that a corpus is one that the model can be trained on.

        :raises UserError: if it has other languages, or dictionaries of other sizes; or of other words, where the
            folder of its training data, if it is there still, or the checkpoint's own has dictionaries.
        """
        if data.classifies:
            raise UserError(f"{data.folder} holds sentences with labels, but {self.path} translates: give its corpus")
        languages = direction(self.state)
        if None not in languages and languages != data.languages:
            raise UserError(
                f"{self.path} translates from {' to '.join(map(str, languages))}, but the corpus {data.folder} is from "
                f"{' to '.join(data.languages)}: give the corpus of its languages"
            )
        check_words(self.state, self.path, data.data_bin, data.dictionaries)

    def check_fits(self, args: Namespace) -> None:
        """Check that a training with these options can start from the model.

        :raises UserError: if its weights do not fit what they build.
        """
        from fairseq import tasks

        with without_chatter():
            model = tasks.setup_task(args).build_model(args)
        try:
            model.load_state_dict(dict(self.state["model"]), strict=True, model_cfg=args)
        except RuntimeError as error:
            first = str(error).splitlines()[1:2] or [str(error)]
            raise UserError(
                f"the weights of {self.path} do not fit the model of these options ({first[0].strip()}): leave out "
                "options that set the model's sizes: the checkpoint has them"
            ) from error

    def _option(self, section: str, name: str, default: Any = None) -> Any:
        part = self.state["cfg"].get(section)
        value = part.get(name) if hasattr(part, "get") else getattr(part, name, None)
        return default if value is None else value


def architecture_in(state: dict[str, Any]) -> str:
    """Return the name that a checkpoint has for its model's architecture."""
    config = config_of(state)
    return str(getattr(config, "_name", None) or getattr(config, "arch", None) or "unknown")


def _numbers(value: Any) -> list[float]:
    return [float(one) for one in value] if hasattr(value, "__iter__") else [float(value)]
