"""Does an exported model compute what the trained one does? A forward pass of both, compared before it is kept."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch

from ..errors import UserError
from ..model import with_heads
from .checkpoint import TrainedModel

TOLERANCE = 1e-3
"""By how much the log-probability of a token may differ: rounding in float32 makes about 1e-5 of difference."""

LENGTHS = ((7, 5), (3, 8))
"""Words in source and translation of the sentences compared, of different lengths: a batch of them has padding."""

Pairs = list[tuple[list[str], list[str]]]


def original(model: TrainedModel, task: Any) -> Any:
    """Return a trained model as fairseq builds it, with gates that keep its heads, in float32.

    :param task: fairseq's, which has the dictionaries.
    """
    chosen = {} if model.is_compact else with_heads(model.heads.to_json())
    network = model.model_class.build_model(Namespace(**{**vars(model.options), **chosen}), task)
    if model.classifies:
        network.register_classification_head(task.cfg.classification_head_name, num_classes=task.cfg.num_classes)
    network.load_state_dict(dict(model.state["model"]))
    return network.float().eval().requires_grad_(False)


def sentences(task: Any) -> Pairs:
    """Return sources and translations of all kinds of words, frequent and rare."""
    return [
        (_words(task.source_dictionary, source, i), _words(task.target_dictionary, target, i))
        for i, (source, target) in enumerate(LENGTHS)
    ]


def _words(dictionary: Any, count: int, start: int) -> list[str]:
    known = dictionary.symbols[dictionary.nspecial :] or [dictionary.unk_word]
    return [known[(start + i * len(known) // count) % len(known)] for i in range(count)]


@torch.no_grad()
def log_probabilities(network: Any, task: Any, pairs: Pairs) -> list[float]:
    """Return the log-probability of each word of the translations and of their ends, given the sources, in a row."""
    found: list[float] = []
    for words, translation in pairs:
        source = torch.tensor([*map(task.source_dictionary.index, words), task.source_dictionary.eos()])
        target = torch.tensor([*map(task.target_dictionary.index, translation), task.target_dictionary.eos()])
        output = network(source[None], torch.tensor([len(source)]), target.roll(1)[None])
        scores = network.get_normalized_probs(output, log_probs=True)[0]
        found += scores.gather(1, target[:, None]).flatten().tolist()
    return found


@torch.no_grad()
def class_log_probabilities(network: Any, task: Any) -> list[float]:
    """Return the log-probability of each class of pairs of all kinds of words, in a row."""
    found: list[float] = []
    dictionary = task.source_dictionary
    for i, lengths in enumerate(LENGTHS):
        words = [_words(dictionary, length, i) for length in lengths]
        tokens = [[*map(dictionary.index, sentence), dictionary.eos()] for sentence in words]
        source = torch.tensor([[dictionary.bos(), *tokens[0], *tokens[1]]])[:, : network.max_positions()]
        head = task.cfg.classification_head_name
        logits, _ = network(source, features_only=True, classification_head_name=head)
        found += logits.log_softmax(-1).flatten().tolist()
    return found


def check_same(found: Sequence[float], expected: Sequence[float], what: str, tolerance: float = TOLERANCE) -> None:
    """Compare log-probabilities.

    :param found: what the exported model gives.
    :param expected: what the trained model gives.
    :param what: the exported model, for the message.
    :param tolerance: by how much each of them may differ.
    :raises UserError: if one differs by more, or is not a number.
    """
    gaps = [abs(one - other) for one, other in zip(found, expected, strict=True)]
    worst = max(gaps, key=lambda gap: float("inf") if gap != gap else gap)
    if not (math.isfinite(worst) and worst <= tolerance):
        raise UserError(
            f"{what} does not compute what the trained model computes (a log-probability differs by {worst:.2g}; "
            f"rounding explains at most {tolerance:g}), so nothing was written: use another export"
        )


def check_read(network: Any, read: Any, model: TrainedModel, task: Any) -> None:
    """Compare a model and a task that were read from a folder with the trained model.

    :param network: the model that was read, in float32.
    :param read: the task that was read.
    :param task: fairseq's task of the trained model.
    :raises UserError: if the dictionaries or a forward pass differ.
    """
    dictionaries, tasks = {"source": "source ", "target": "target "}, "translation or translation_dsp"
    if model.classifies:
        dictionaries, tasks = {"source": ""}, "sentence_prediction"
    for side, which in dictionaries.items():
        name = f"{side}_dictionary"
        if getattr(read, name).symbols != getattr(task, name).symbols:
            raise UserError(
                f"the {which}dictionary of {model.path} changes when it is written to a file and read again, so "
                f"nothing was written: give a model of --task {tasks}, without line breaks in its words"
            )
    compute: Callable[..., list[float]]
    compute = class_log_probabilities if model.classifies else partial(log_probabilities, pairs=sentences(task))
    expected = compute(original(model, task), task)
    check_same(compute(network, read), expected, "the folder")
