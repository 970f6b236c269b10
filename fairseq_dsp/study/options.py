"""Options of fairseq-train as a study gives them, and as fairseq understands them."""

from __future__ import annotations

import contextlib
import io
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import closest
from ..evaluation.prepared import PreparedData
from ..model import HEADS, KINDS
from ..model.attention_heads import check_heads
from ..model.kinds import COSTS
from ..model.units import ROBERTA, TRANSFORMER, model_of, shape_by
from ..subset import HINT
from .values import mapping

Options = dict[str, Any]
"""Options of fairseq-train without the leading dashes; true stands for a flag without a value."""

DEFAULTS: Options = {
    "task": "translation_dsp",
    "criterion": "label_smoothed_cross_entropy_dsp",
    "num-workers": 0,
    "required-batch-size-multiple": 1,  # fairseq leaves out the sentences that do not fill such a multiple
}
"""Options of every training, unless the recipe says otherwise."""


def defaults(data: PreparedData) -> Options:
    """Return the options of every training on a corpus, unless the recipe says otherwise."""
    if not data.classifies:
        return DEFAULTS
    return DEFAULTS | {
        "task": "sentence_prediction_dsp",
        "criterion": "sentence_prediction_dsp",
        "num-classes": len(data.labels),
        "init-token": 0,
        "best-checkpoint-metric": "accuracy",
        "maximize-best-checkpoint-metric": True,
    }


SHARES = {name.replace("_", "-"): what for name, (what, _) in COSTS.items()}
"""The options that give heads and units a budget of cost together, and what they are a share of."""

_OWN = {
    "save-dir", "user-dir", "source-lang", "target-lang", "seed", "restore-file", "finetune-from-model", "log-format",
    "heads-to-keep", "kept-heads", "freeze-weights", "l0-penalty", "heads-to-keep-low", "heads-to-keep-high", "compact",
    *SHARES,
}  # fmt: skip
"""Options that follow from the rest of a study."""


BUDGETS = {kind.options["to_keep"].replace("_", "-"): kind for kind in KINDS.values() if kind is not HEADS}
"""The options that say how many units of other kinds than heads to keep."""


def read_options(value: Any, where: str, by: str = "a sweep") -> Options:
    """Return the options in a part of a study file.

    :param by: what sets the options that follow from the rest, for the message.
    :raises ValueError: if one is none of a study's to give, is given twice or has a value that no option has.
    """
    options: Options = {}
    for key, content in mapping(value, where).items():
        name = str(key).replace("_", "-")
        if not re.fullmatch(r"[a-zA-Z][\w-]*", name) or name == "help":
            raise ValueError(f"{where} has the option {key!r}, but the name of an option of fairseq-train is expected")
        if name in _OWN:
            raise ValueError(f"{where} has the option {name}, but {by} sets it itself: leave it out")
        if not isinstance(content, (bool, int, float, str)):  # a date is none of these either
            raise ValueError(f"{where}: {name} is {content!r}, but a number, a text, true or false is expected")
        if str(content).lower() == "nan":
            raise ValueError(f"{where}: {name} is not a number (NaN): give it a value")
        if name in options:
            raise ValueError(f"{where} has the option {name} twice, with - and with _: leave one out")
        options[name] = content
    return options


def read_words(words: Sequence[str], where: str, by: str) -> Options:
    """Return the options in words of a command line, of which the last counts; see `read_options`.

    :raises ValueError: if a word belongs to no option.
    """
    options: Options = {}
    name = ""
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, equals, value = word[2:].partition("=")
            options[name] = value if equals else True
        elif options.get(name) is True:
            options[name] = word
        else:
            raise ValueError(
                f"{where} has the word {word}, which does not belong to an option: give options as --name value"
            )
    return read_options(options, where, by)


def command_line(options: Options) -> list[str]:
    """Return options as words of a command line."""
    words: list[str] = []
    for key, value in options.items():
        if value is True:
            words.append(f"--{key}")
        elif value is not False:
            words += [f"--{key}", str(value)]
    return words


def parse_training(words: Sequence[str], where: str) -> Namespace:
    """Return what fairseq-train makes of a command line, so that a mistake is reported before anything runs.

    :param where: whose options these are, for the message.
    :raises ValueError: if fairseq does not take them.
    """
    from fairseq import options as fairseq_options

    if "--arch" not in words:  # of which fairseq says nothing
        raise ValueError(f"{where} has no arch: give the architecture of the model, such as {TRANSFORMER.model}")

    def parse() -> Namespace:
        return fairseq_options.parse_args_and_arch(fairseq_options.get_training_parser(), list(words))

    try:
        return _quietly(parse)
    except Exception as error:  # fairseq evaluates some values as they are
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        if match := re.match(r"(.*invalid choice: '(.*?)') \((.{200,})\)$", reason):  # there are many architectures
            reason = match[1] + closest(match[2], re.findall("'(.*?)'", match[3]))
        if "argument --head-selection" in reason:
            reason += f"; {HINT}"
        raise ValueError(f"fairseq-train does not take the options of {where}: {reason}") from error


def parse_options(data: PreparedData, options: Options, where: str) -> Namespace:
    """Return what fairseq-train makes of options beside a study's defaults; see `parse_training`."""
    words = command_line({**defaults(data), **options})
    return parse_training([str(data.data_bin), *data.language_flags, *words], where)


def refuse_false(data: PreparedData, recipe: Options, options: Options, where: str) -> None:
    """Raise a ``ValueError`` where false is given for an option with a value and takes back nothing of the recipe."""
    for name in (name for name, value in {**recipe, **options}.items() if value is False):
        if name in recipe and name in options:
            continue
        try:
            parse_options(data, {**recipe, **options, name: True}, where)
        except ValueError as error:
            if re.search(rf"argument (\S+/)?--{name}(/\S+)?: expected", str(error)):
                raise ValueError(
                    f"{name} of {'recipe' if name in recipe else where} is false, but a value is expected, such as 0"
                ) from None


def parse_words(parser: ArgumentParser, words: Sequence[str]) -> Namespace:
    """Return what a parser makes of a command line.

    :raises ValueError: with the parser's own message if it does not take it.
    """
    return _quietly(lambda: parser.parse_args(list(words)))


def _quietly(parse: Callable[[], Namespace]) -> Namespace:
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return parse()
    except SystemExit as error:
        last = said.getvalue().strip().splitlines()[-1:] or ["no reason given"]
        raise ValueError(last[0].partition("error: ")[2] or last[0]) from error


def heads_by_type(data: PreparedData, options: Options) -> dict[str, list[int]]:
    """Return for each attention type of a model the number of heads of each layer.

    :raises ValueError: if the architecture is none with heads to prune, or they do not divide its width.
    """
    args = parse_options(data, options, "recipe")
    check_heads(args)
    check_arch(args.arch, data)
    return shape_by(args)


def check_arch(arch: str, data: PreparedData) -> None:
    """Raise a ``ValueError`` if an architecture is none with heads to prune."""
    ours = ROBERTA if data.classifies else TRANSFORMER
    if model_of(arch) != ours.model:
        raise ValueError(
            f"arch is {arch}, but for {'labels' if data.classifies else 'translation'} only {ours.model} and its "
            "architectures have heads to prune: give one of these"
        )
