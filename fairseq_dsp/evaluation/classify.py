"""Labels of sentences, or pairs of them, by models of fairseq's task ``sentence_prediction``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..model.dictionaries import fitting
from ..model.labels import check_labels, labels_of
from .beam_search import without_chatter
from .inputs import checkpoint_paths
from .prepared import PreparedData


def classify(
    checkpoint: str,
    data: PreparedData,
    split: str,
    *,
    overrides: Mapping[str, Any],
    max_tokens: int = 4096,
    cpu: bool = False,
) -> tuple[list[str], dict[str, float]]:
    """Classify a text; the models of an ensemble vote with their mean probabilities.

    An input that is longer than the model's positions is cut there.

    :param overrides: options of the model in place of those in the checkpoint.
    :return: the labels in the order of the text; and the number of ``sentences``, how many were ``cut``, and how many
        ``sentences_per_second``, of the forward passes alone.
    :raises UserError: if the model cannot be used, or the data do not belong together.
    """
    import torch
    from fairseq import checkpoint_utils, utils
    from fairseq.data import data_utils

    options = {"data": str(data.data_bin), "shorten_method": "truncate", **overrides}
    paths = checkpoint_paths(checkpoint)
    data.dictionary("input0/dict.txt")
    with without_chatter(), fitting(checkpoint, data.data_bin):
        models, _, task = checkpoint_utils.load_model_ensemble_and_task(paths, arg_overrides=options)
    for model in models:
        check_labels(task, getattr(model, "trained_on", None))
    labels, head = labels_of(task.label_dictionary), task.cfg.classification_head_name
    device = torch.device("cuda" if torch.cuda.is_available() and not cpu else "cpu")
    for model in models:
        model.make_generation_fast_()
        model.to(device).float().eval()
    task.load_dataset(split)
    dataset, longest = task.dataset(split), task.max_positions()
    sizes = np.array([dataset.num_tokens(i) for i in range(len(dataset))])
    # what was cut is as long as the model takes: an input of just that length is counted, too
    cut = int((sizes >= longest).sum())
    if cut:
        print(
            f"{split}: {cut} of {len(sizes)} inputs are as long as the model allows ({longest} tokens): longer ones "
            "were cut",
            file=sys.stderr,
        )
    order = np.argsort(sizes, kind="stable")
    found: list[str] = [""] * len(sizes)
    seconds = 0.0
    for batch in data_utils.batch_by_size(order, dataset.num_tokens, max_tokens=max(max_tokens, int(sizes.max()))):
        sample = dataset.collater([dataset[i] for i in batch])
        sample = utils.move_to_cuda(sample) if device.type == "cuda" else sample
        start = time.perf_counter()
        with torch.no_grad():
            outputs = [
                model(**sample["net_input"], features_only=True, classification_head_name=head)[0] for model in models
            ]
            chances = sum(output.float().softmax(-1) for output in outputs)
            best = chances[:, : len(labels)].argmax(-1).tolist()  # a model may have classes without a label
        seconds += time.perf_counter() - start
        for i, label in zip(sample["id"].tolist(), best, strict=True):
            found[i] = labels[label]
    return found, {"sentences": float(len(found)), "cut": float(cut), "sentences_per_second": len(found) / seconds}
