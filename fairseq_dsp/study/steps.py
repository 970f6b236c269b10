"""The commands that a run of a study consists of."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from site import getsitepackages, getusersitepackages

from ..corpus import SUMMARY
from ..evaluation.beam_search import MAX_LEN_A, MAX_LEN_B
from ..evaluation.preprocessed import flags
from ..files import PACKAGE
from .options import Options, command_line
from .study_file import Study

KEPT = "kept.json"
COMPACT = "compact.pt"
COMPACT_HEADS = "compact.heads.json"
FITTED = "fitted.pt"
SCORES = "scores.json"
RECOVERED = "recovered"
TRANSLATED = "corpus"
"""The folder of the corpus with the unpruned model's translations, in the run that makes it."""


@dataclass(frozen=True)
class Step:
    """One command of a run.

    :param name: unique in its run; a file of this name marks that the command has ended well.
    :param command: its words.
    :param products: the files for which it is done.
    :param inputs: the files of other steps, of this run or of one that it needs, that it reads.
    :param checkpoints: for a training, the folder of its checkpoints.
    :param updates: for a training, the number of its updates.
    """

    name: str
    command: tuple[str, ...]
    products: tuple[Path, ...] = ()
    inputs: tuple[Path, ...] = ()
    checkpoints: Path | None = None
    updates: int = 0

    def marker(self, folder: Path) -> Path:
        """The file that marks it as done, in its run's folder."""
        return folder / f".{self.name}.done"


class Commands:
    """Makes the steps of a study's runs.

    :param study: the study.
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self._device = ("--cpu",) if study.on_cpu else ()

    def checkpoint(self, folder: Path) -> Path:
        """Return the checkpoint of a training that counts."""
        return folder / f"checkpoint_{self.study.checkpoint}.pt"

    def training(
        self,
        name: str,
        options: Options,
        seed: int,
        checkpoints: Path,
        start: Path | None,
        translated: Path | None,
        *inputs: Path,
    ) -> Step:
        """Return a training.

        :param checkpoints: the folder for its checkpoints.
        :param start: the checkpoint that it starts from, if any.
        :param translated: the folder of a corpus that it reads instead of the study's, if any.
        :param inputs: further files that it reads.
        """
        data = self.study.data.derived(translated) if translated else self.study.data
        words = [sys.executable, "-m", "fairseq_cli.train", data.training_data, "--user-dir", str(PACKAGE)]
        words += [*data.language_flags, "--save-dir", str(checkpoints)]
        words += ["--seed", str(seed), "--log-format", "json", "--no-progress-bar", "--no-epoch-checkpoints"]
        if start:
            words += ["--finetune-from-model", str(start)]
            inputs += (start,)
        if translated:
            inputs += (translated / SUMMARY,)
        return Step(
            name,
            (*words, *command_line(options)),
            products=(self.checkpoint(checkpoints),),
            inputs=inputs,
            checkpoints=checkpoints,
            updates=int(options["max-update"]),
        )

    def translations(self, model: Path, out: Path) -> Step:
        """Return what makes a corpus with a model's translations of the training text in the folder *out*."""
        data = self.study.data
        data.derived(out).check_trainable()  # before a base is trained for it
        words = ["prepare", "distilled", str(model), str(data.folder.absolute()), str(out), "--force", *self._device]
        if text := flags(data):
            words += ["--split", self.study.split, *text]
        return Step("translate", (*_command(), *words), products=(out / SUMMARY,), inputs=(model,))

    def heads(self, model: Path, chosen: Path, kept: Sequence[str]) -> Step:
        """Return what writes the heads that a model keeps to the file *chosen*."""
        words = ("heads", str(model), "--format", "json", "--output", str(chosen), *kept)
        return Step("heads", (*_command(), *words), products=(chosen,), inputs=(model,))

    def score_heads(self, model: Path, heads: int, chosen: Path, words: Sequence[str], seed: int) -> Step:
        """Return what scores the heads of a model, and writes the best to the file *chosen*.

        :param seed: of the sentences that are drawn, where all runs have the same model.
        """
        command = (*_command(), "score-heads", str(model), "--data", str(self._data_bin), "--heads-to-keep", str(heads))
        if self.study.trained:
            command = (*command, "--seed", str(seed))
        command = (*command, "--out", str(chosen), *self._device, *words)
        return Step("score-heads", command, products=(chosen,), inputs=(model,))

    def compensate(self, model: Path, chosen: Path, out: Path) -> Step:
        """Return what fits the output projections of a model to the heads of the file *chosen*."""
        words = (str(model), str(out), "--data", str(self._data_bin), "--kept-heads", str(chosen), *self._device)
        return Step("compensate", (*_command(), "compensate", *words), products=(out,), inputs=(model, chosen))

    def scoring(self, folder: Path, model: Path, kept: list[str], *, pruned: bool) -> Iterator[Step]:
        """Yield what makes a model compact, if it is pruned, and evaluates it."""
        study = self.study
        files = tuple(Path(kept[1]) for _ in kept[:1] if kept[0] == "--kept-heads")
        if study.compact and pruned:
            small = folder / COMPACT
            command = (*_command(), "compact", str(model), str(small), *kept)
            products = (small, folder / COMPACT_HEADS)
            yield Step("compact", command, products=products, inputs=(model, *files))
            model, kept, files = small, [], ()
        scores, output = folder / SCORES, folder / study.data.output_name
        words = ["evaluate", str(model), "--data", str(study.data.folder.absolute()), "--split", study.split]
        words += [*flags(study.data), *kept, *self._device]
        if not study.data.classifies:
            words += ["--beam", str(study.beam), "--lenpen", str(study.lenpen)]
        if (study.max_len_a, study.max_len_b) != (MAX_LEN_A, MAX_LEN_B):
            words += ["--max-len-a", str(study.max_len_a), "--max-len-b", str(study.max_len_b)]
        words += ["--json", str(scores), "--predictions" if study.data.classifies else "--translations", str(output)]
        yield Step("evaluate", (*_command(), *words), products=(scores, output), inputs=(model, *files))

    @property
    def _data_bin(self) -> Path:
        return self.study.data.data_bin.absolute()


def same_code() -> dict[str, str]:
    """Variables for a step's command to run the code that runs here, not what the current folder holds of that name."""
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if PACKAGE.parent not in {Path(folder).resolve() for folder in (*getsitepackages(), getusersitepackages())}:
        path.insert(0, str(PACKAGE.parent))
    return {"PYTHONSAFEPATH": "1", "PYTHONPATH": os.pathsep.join(filter(None, path))}  # an empty one is that folder


def _command() -> tuple[str, ...]:
    """``fairseq-dsp`` with this Python."""
    return sys.executable, "-m", "fairseq_dsp.cli"
