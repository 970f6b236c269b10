"""Checkpoints know the dictionaries that they were trained with: of another, the same numbers are other words.

A fingerprint of each dictionary is a part of the state dict's metadata, where torch keeps versions: no parameter, and
no name, is added. It is compared wherever a state dict is loaded into a model, which is built with the dictionaries of
the data at hand: by fairseq's own commands, to train on, to score. State dicts without it, of stock fairseq or of
earlier versions, are compared by the number of words alone.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import UserError
from .flat_options import config_of

_KEY = "dictionaries"
_STACKS = {"encoder": "source", "decoder": "target"}


class OtherDictionaryError(UserError):
    """A checkpoint was trained with another dictionary than the one at hand."""


def tie(model: nn.Module) -> None:
    """Have a model leave the fingerprints of its dictionaries in its state dicts, and compare those that it loads.

    :param model: a model of fairseq's whose encoder and decoder know their dictionaries, where they have one.
    """
    model.register_state_dict_post_hook(_leave)
    model.register_load_state_dict_pre_hook(_compare)


def direction(state: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """The source and the target language of a model, None where its checkpoint says none.

    :param state: what fairseq loaded from the checkpoint.
    """
    task = config_of(state, "task")
    return getattr(task, "source_lang", None), getattr(task, "target_lang", None)


def check_words(state: Mapping[str, Any], path: str | Path, data_bin: Path, words: Mapping[str, Any]) -> None:
    """Refuse a data-bin if a translation model was trained with other dictionaries, or translates the other way round.

    Where both languages have one dictionary, only the names of the languages tell the direction. A checkpoint without
    fingerprints is compared with the dictionaries in its own folder or, if it has none of the model's size, in the one
    that it was trained on, if that is there still.

    :param state: what fairseq loaded from the checkpoint *path*.
    :param words: fairseq's dictionaries, by the source's and the target's language.
    :raises UserError: if one has other words, or the languages are those of the model, swapped.
    """
    source, target = direction(state)
    if source and target and source != target and (target, source) == tuple(words):
        raise UserError(
            f"{path} translates from {source} into {target}, but the data is for a model from {target} into {source}: "
            "give the model or the data of the same direction"
        )
    parameters = state["model"]
    with fitting(path, data_bin):
        check(parameters, **dict(zip(_STACKS, words.values(), strict=True)))
    if _KEY in getattr(parameters, "_metadata", {}).get("", {}):
        return
    trained_on = str(getattr(config_of(state, "task"), "data", None) or ".")
    folders = Path(path).parent, Path(trained_on), Path(trained_on.partition(":")[0])
    for language, dictionary in words.items():
        name = f"dict.{language}.txt"
        there = ((folder / name, _symbols(folder / name)) for folder in folders)
        file, theirs = next(((file, found) for file, found in there if len(found) == len(dictionary)), (None, None))
        if file and theirs != dictionary.symbols:
            raise UserError(
                f"{data_bin / name} has other words than {file}, the dictionary of {path}: give the corpus that it was "
                "trained on, or one prepared with its subwords and dictionaries; if the dictionaries there are "
                "not those of its training any more, copy the right ones beside the checkpoint"
            )


def of_task(task: Any) -> dict[str, Any]:
    """The dictionaries of a translation task, by the source's and the target's language, for `check_words`."""
    return {task.cfg.source_lang: task.source_dictionary, task.cfg.target_lang: task.target_dictionary}


def check(parameters: Mapping[str, Tensor], **dictionaries: Any) -> None:
    """Compare dictionaries with those that a model was trained with, as far as it tells.

    :param parameters: its state dict.
    :param dictionaries: fairseq's, by ``encoder`` and ``decoder``.
    :raises OtherDictionaryError: if one differs.
    """
    theirs = getattr(parameters, "_metadata", {}).get("", {}).get(_KEY, {})
    for stack, dictionary in dictionaries.items():
        _same(stack, theirs.get(stack), parameters, stack, dictionary)


def compare(model: nn.Module, state: Mapping[str, Tensor], prefix: str) -> None:
    """Compare a model's dictionaries with those of a state dict that is about to be loaded.

    :raises OtherDictionaryError: if one differs.
    """
    _compare(model, state, prefix, getattr(state, "_metadata", {}).get(prefix.removesuffix("."), {}))


def with_fingerprints(parameters: dict[str, Tensor], source: Mapping[str, Tensor]) -> OrderedDict[str, Tensor]:
    """Return *parameters* as a state dict that knows the dictionaries that the state dict *source* knows."""
    result = OrderedDict(parameters)
    theirs = getattr(source, "_metadata", {}).get("", {})
    result._metadata = OrderedDict({"": dict(theirs)})  # type: ignore[attr-defined]
    return result


@contextlib.contextmanager
def fitting(checkpoint: object, data: object) -> Iterator[None]:
    """Name the two in what goes wrong where a checkpoint is loaded with the dictionaries of a data-bin.

    :raises UserError: in place of the error of another dictionary, also of stock models, of other sizes.
    """
    try:
        yield
    except OtherDictionaryError as error:
        raise UserError(f"{checkpoint} and {data} do not belong together: {error}") from error
    except ValueError as error:
        if "joined dictionary" not in str(error):
            raise
        raise UserError(
            f"{checkpoint} and {data} do not belong together: the model has one dictionary for both languages, and the "
            "data-bin has two: give the data-bin that the model was trained on"
        ) from error
    except RuntimeError as error:
        reason = next((line.strip() for line in str(error).splitlines() if "size mismatch for" in line), "")
        if not any(name in reason for name in ("embed_tokens", "output_projection", "embed_out")):
            raise
        raise UserError(
            f"{checkpoint} and {data} do not belong together, because their dictionaries differ in size ({reason}): "
            "give the data-bin that the model was trained on"
        ) from error


def _symbols(path: Path) -> list[str]:
    """The words of a dictionary, none if there is none that fairseq can read."""
    from fairseq.data import Dictionary

    try:
        return list(Dictionary.load(str(path)).symbols)
    except Exception:  # fairseq raises what it likes
        return []


def _fingerprint(dictionary: Any) -> str:
    """The number of words, and a hash of the words in their order."""
    words = "\n".join(dictionary.symbols).encode("utf-8", errors="surrogatepass")
    return f"{len(dictionary)}:{hashlib.sha256(words).hexdigest()}"


def _leave(model: nn.Module, state: dict[str, Any], prefix: str, metadata: dict[str, Any]) -> None:
    metadata[_KEY] = {stack: _fingerprint(dictionary) for stack, dictionary in _of(model).items()}


def _compare(model: nn.Module, state: Mapping[str, Any], prefix: str, metadata: dict[str, Any], *_: Any) -> None:
    for stack, dictionary in _of(model).items():
        _same(stack, metadata.get(_KEY, {}).get(stack), state, prefix + stack, dictionary)


def _of(model: nn.Module) -> dict[str, Any]:
    """The dictionaries that a model's stacks know."""
    found = {stack: getattr(getattr(model, stack, None), "dictionary", None) for stack in _STACKS}
    return {stack: dictionary for stack, dictionary in found.items() if dictionary is not None}


def _same(stack: str, theirs: str | None, state: Mapping[str, Tensor], prefix: str, dictionary: Any) -> None:
    """Raise an `OtherDictionaryError` if a dictionary is not that of a checkpoint.

    :param theirs: the fingerprint that the checkpoint has of it, if any.
    :param prefix: of the stack in the state dict.
    """
    words, of_classifier = f"{prefix}.embed_tokens.weight", f"{prefix}.sentence_encoder.embed_tokens.weight"
    rows = next((len(state[name]) for name in (words, of_classifier) if name in state), None)
    if theirs is None:
        differ, count = rows is not None and rows != len(dictionary), rows
    else:
        differ, count = theirs != _fingerprint(dictionary), int(theirs.partition(":")[0])
    if not differ:
        return
    sizes = f"{count} words, here {len(dictionary)}" if count != len(dictionary) else f"{count} words, here others"
    of_stack = "" if of_classifier in state else f"{_STACKS[stack]} "
    otherwise = ""
    if theirs is not None and of_stack:  # a classifier has no such export, and fairseq's own models are one
        otherwise = (
            " or, to continue with another dictionary on purpose, start from its export by fairseq-dsp export-fairseq"
        )
    raise OtherDictionaryError(
        f"the checkpoint was trained with another {of_stack}dictionary ({sizes}), so words would be confused: give the "
        f"data-bin that it was trained on{otherwise}"
    )
