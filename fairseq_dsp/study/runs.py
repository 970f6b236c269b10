"""From a study to its runs: what each one trains, prunes, compacts, translates and scores, as commands."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..model import PruningConfig, with_heads
from .evaluate import PACKAGE
from .given import flags
from .study import DEFAULTS, Method, Options, Study, command_line

RUNS = "runs"
RESULT = "result.json"
SCORES = "scores.json"
TRANSLATIONS = "translations.txt"
LOG = "log.txt"

EVALUATION_WORK = 0.05
"""The work of compacting and translating, as a share of the updates of a training; for the progress bar."""


@dataclass(frozen=True)
class Step:
    """One command of a run.

    :param name: unique in its run; a file of this name marks that the command has ended well.
    :param command: its words.
    :param checkpoints: for a training, the folder of its checkpoints.
    :param updates: for a training, the number of its updates.
    :param output: the file that receives what the command prints, or None for the log.
    :param leftovers: files that an interrupted attempt may have left, and that the command does not replace.
    """

    name: str
    command: tuple[str, ...]
    checkpoints: Path | None = None
    updates: int = 0
    output: Path | None = None
    leftovers: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Run:
    """One row of the result, or a training that several rows share.

    :param name: unique in the study; its folder.
    :param label: the method's name, ``base`` for the unpruned model.
    :param method: one of the methods, ``base`` for the unpruned model.
    :param heads: K, or None where it is not given beforehand.
    :param seed: of its training.
    :param needs: names of the runs that must be finished before it.
    :param steps: its commands, in order.
    :param identity: everything its result depends on; JSON-like.
    :param scored: whether it ends in scores.
    """

    name: str
    label: str
    method: str
    heads: int | None
    seed: int
    folder: Path
    needs: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()
    identity: dict[str, Any] = field(default_factory=dict)
    scored: bool = True

    @property
    def work(self) -> float:
        """How much there is to do, in updates."""
        updates = sum(step.updates for step in self.steps)
        return updates + (max(1.0, EVALUATION_WORK * (updates or 500)) if self.scored else 0)


def expand(study: Study, results: Path) -> list[Run]:
    """The runs of a study, those that others need first.

    :param results: the folder of all results.
    """
    maker = _Maker(study, results.absolute())
    runs: dict[str, Run] = {}
    for method in study.methods:
        for run in maker.of(method):
            runs.setdefault(run.name, run)
    for seed in study.seeds:  # the unpruned model, which everything is compared with
        run = maker.base(seed)
        runs.setdefault(run.name, run)
    needed = {name for run in runs.values() for name in run.needs}
    return sorted(runs.values(), key=lambda run: (len(run.needs), run.method != "base", run.name not in needed))


class _Maker:
    def __init__(self, study: Study, results: Path) -> None:
        self.study = study
        self.folder = results / RUNS
        self.common = {
            "data": study.data.summary.get("key", str(study.data.folder)),
            "split": study.split,
            "beam": study.beam,
            "lenpen": study.lenpen,
            "checkpoint": study.checkpoint,
            "compact": study.compact,
        }

    def base(self, seed: int) -> Run:
        """The unpruned model."""
        method = Method("base", "base", (self.study.total,), (seed,), self.study.base)
        return self._run(method, self.study.total, seed, self._options(self.study.base), suffix="")

    def of(self, method: Method) -> Iterator[Run]:
        """The runs of a method, those first that others of them need."""
        for seed in method.seeds:
            base = self.base(seed)
            if method.from_base or method.distill:
                yield base
            if method.method == "michel":
                for k in method.heads:
                    words = command_line(method.options)
                    yield self._run(method, k, seed, None, suffix=f"-k{k}", start=base, score_heads=words)
            elif method.method == "range":
                own = {"heads-to-keep-low": method.low, "heads-to-keep-high": method.high}
                shared = self._run(
                    method, None, seed, self._options(method.options, own, anneal=True), suffix="-training",
                    start=base if method.from_base else None, scored=False,
                )  # fmt: skip
                yield shared
                for k in method.heads:
                    yield self._run(method, k, seed, None, suffix=f"-k{k}", start=shared)
            elif method.method == "unpruned":
                yield self._run(method, method.heads[0], seed, self._options(method.options), suffix="")
            else:
                for suffix, heads, own in self._trainings(method):
                    options = self._options(method.options, own, anneal=method.method != "voita")
                    start = base if method.from_base else None
                    yield self._run(method, heads, seed, options, suffix=suffix, start=start)

    @staticmethod
    def _trainings(method: Method) -> Iterator[tuple[str, int | None, Options]]:
        """The trainings of a method that has one for each result: suffix of the name, K, and its own options."""
        own: Options = {}
        if method.method == "voita":
            own = {"head-selection": "hard_concrete"}
        elif method.method == "ste":
            own = {"head-selection": "ste"}
        elif method.method == "pipelined":
            own = {"freeze-weights": True}
        for k in method.heads:
            yield f"-k{k}", k, own | {"heads-to-keep": k}
        for penalty in method.penalties:
            yield f"-l{penalty:.12g}", None, own | {"l0-penalty": penalty}

    def _run(
        self,
        method: Method,
        heads: int | None,
        seed: int,
        options: Options | None,
        *,
        suffix: str,
        start: Run | None = None,
        score_heads: Sequence[str] | None = None,
        scored: bool = True,
    ) -> Run:
        """A run that trains with *options*; if None, it takes the model of *start*, with K heads or those it scores."""
        name = f"{method.name}{suffix}-s{seed}"
        folder = self.folder / name
        recovery = method.recovery if scored else None
        teacher = self.base(seed) if method.distill else None
        steps: list[Step] = []
        checkpoint = self._checkpoint(start.folder / "checkpoints") if start else None
        kept: list[str] = []  # how the heads are given to what comes after the pruning
        if options is not None:
            steps.append(self._training("train", options, seed, folder / "checkpoints", checkpoint, teacher))
            checkpoint = self._checkpoint(folder / "checkpoints")
        elif score_heads is not None:
            assert checkpoint is not None
            words = ["score-heads", str(checkpoint), "--data", str(self._data_bin), "--heads-to-keep", str(heads)]
            steps.append(Step("score-heads", (*_COMMAND, *words, "--out", str(folder / "kept.json"), *score_heads)))
            kept = ["--kept-heads", str(folder / "kept.json")]
        elif heads is not None:
            kept = ["--heads-to-keep", str(heads)]
        if recovery is not None:
            if score_heads is None:
                words = ["heads", str(checkpoint), "--format", "json", *kept]
                steps.append(Step("heads", (*_COMMAND, *words), output=folder / "kept.json"))
            fixed = {name.replace("_", "-"): v for name, v in with_heads(str(folder / "kept.json")).items()}
            recovered = folder / "recovered"
            # an option of the recipe that has a say in the choice is none of this training's
            more = {name: v for name, v in self._options(recovery, fixed).items() if fixed.get(name, True)}
            steps.append(self._training("recover", more, seed, recovered, checkpoint, teacher))
            checkpoint, kept = self._checkpoint(recovered), []
        if scored:
            assert checkpoint is not None
            steps += self._scoring(folder, checkpoint, kept, pruned=method.method not in ("base", "unpruned"))
        identity = self.common | {
            "name": name, "method": method.method, "heads": heads, "seed": seed,
            "options": options, "recovery": recovery,
            "start": start.identity if start else None, "teacher": teacher.identity if teacher else None,
            "score_heads": list(score_heads) if score_heads is not None else None,
        }  # fmt: skip
        needs = tuple(dict.fromkeys(run.name for run in (start, teacher) if run))
        return Run(name, method.name, method.method, heads, seed, folder, needs, tuple(steps), identity, scored)

    def _scoring(self, folder: Path, checkpoint: Path, kept: list[str], *, pruned: bool) -> Iterator[Step]:
        study = self.study
        if study.compact and pruned:
            small = folder / "compact.pt"
            words = ["compact", str(checkpoint), str(small), *kept]
            yield Step("compact", (*_COMMAND, *words), leftovers=(small, small.with_suffix(".heads.json")))
            checkpoint, kept = small, []
        words = ["evaluate", str(checkpoint), "--data", str(study.data.folder.absolute()), "--split", study.split]
        words += flags(study.data)
        words += ["--beam", str(study.beam), "--lenpen", str(study.lenpen), *kept]
        words += ["--json", str(folder / SCORES), "--translations", str(folder / TRANSLATIONS)]
        yield Step("evaluate", (*_COMMAND, *words))

    def _training(
        self, name: str, options: Options, seed: int, checkpoints: Path, start: Path | None, teacher: Run | None
    ) -> Step:
        source, target = self.study.data.languages
        words = [sys.executable, "-m", "fairseq_cli.train", self.study.data.training_data, "--user-dir", str(PACKAGE)]
        words += ["--source-lang", source, "--target-lang", target, "--save-dir", str(checkpoints)]
        words += ["--seed", str(seed), "--log-format", "json", "--no-progress-bar", "--no-epoch-checkpoints"]
        if start:
            words += ["--finetune-from-model", str(start)]
        if teacher:
            words += ["--distill-from", str(self._checkpoint(teacher.folder / "checkpoints"))]
        return Step(name, (*words, *command_line(options)), checkpoints, int(options["max-update"]))

    def _options(self, *more: Options, anneal: bool = False) -> Options:
        """The recipe with further options, which win; pruning's schedule is by default a share of the training.

        :param anneal: whether the training chooses heads by a schedule.
        """
        options = dict(DEFAULTS)
        for one in (self.study.recipe, *more):
            options |= one
        if anneal and "cooldown-updates" not in options:
            selection = options.get("head-selection", PruningConfig.head_selection)
            # simple fixes the heads then, and the weights have the rest of the run to get used to them
            share = 0.3 if selection == "simple" and "freeze-weights" not in options else 0.9
            options["cooldown-updates"] = round(share * int(options["max-update"]))
        return options

    def _checkpoint(self, folder: Path) -> Path:
        return folder / f"checkpoint_{self.study.checkpoint}.pt"

    @property
    def _data_bin(self) -> Path:
        return self.study.data.data_bin.absolute()


_COMMAND = (sys.executable, "-m", "fairseq_dsp.cli")
