"""Translating with fairseq's beam search and a model in memory."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

from fairseq.tasks.translation import TranslationTask
from torch import Tensor

from ..model import PrunableTransformer
from .text import Text
from .translator import Search, Translator


class FairseqTranslator(Translator):
    """A :class:`~.translator.Translator` that is a model of this package.

    :param model: the model.
    :param task: fairseq's translation task, which has the dictionaries.
    :param text: what raw text goes through.
    """

    def __init__(self, model: PrunableTransformer, task: TranslationTask, text: Text) -> None:
        super().__init__(text, model.max_positions()[0])
        self.model, self.task = model.eval(), task
        self.model.make_generation_fast_()

    def to(self, *args: Any) -> FairseqTranslator:
        """Move the model to a device or convert it to a floating-point type; return self."""
        self.model.to(*args)
        return self

    def best(self, sources: list[list[str]], search: Search) -> list[str]:
        """Return the best translations; see :meth:`~.translator.Translator.best`."""
        names = ("beam", "lenpen", "max_len_a", "max_len_b")
        generator = self.task.build_generator(
            [self.model], Namespace(**{name: getattr(search, name) for name in names})
        )
        encode, decode = self.task.source_dictionary.encode_line, self.task.target_dictionary.string
        lines = [encode(" ".join(source), add_if_not_exist=False).long() for source in sources]
        dataset = self.task.build_dataset_for_inference(lines, [len(line) for line in lines])
        batch = dataset.collater([dataset[i] for i in range(len(lines))])
        device = next(self.model.parameters()).device
        batch["net_input"] = {k: v.to(device) for k, v in batch["net_input"].items() if isinstance(v, Tensor)}
        found = self.task.inference_step(generator, [self.model], batch)
        results = [""] * len(lines)
        for i, hypotheses in zip(batch["id"].tolist(), found, strict=True):
            results[i] = decode(hypotheses[0]["tokens"].int().cpu())
        return results
