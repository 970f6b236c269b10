"""From a study to its runs: what each one trains, prunes, compacts, translates and scores, as commands."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..evaluation.beam_search import MAX_LEN_A, MAX_LEN_B
from ..files import sha256
from .method_checks import chooses_units
from .options import SHARES, Options, command_line
from .steps import COMPACT_HEADS, FITTED, KEPT, RECOVERED, TRANSLATED, Commands, Step
from .study_file import Method, Study
from .training_options import continued, of_random, of_range, options_of, trained_on, with_fixed

RUNS = "runs"
RESULT = "result.json"
LOG = "log.txt"

_SCORING = ("split", "beam", "lenpen", "max_len_a", "max_len_b", "checkpoint", "compact")
TEXT = "text"
SCORING = (*_SCORING, TEXT)
"""What of a study has an effect on the scores of a run, not on its own trainings: :data:`TEXT` is what the user says of
a data-bin's."""

EVALUATION_WORK = 0.05
"""The work of compacting and translating, as a share of the updates of a training; for the progress bar."""


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
    :param identity: everything in the study that its result depends on; JSON-like.
    :param scored: whether it ends in scores.
    :param wanted: its files that runs which are not finished need.
    :param record: its identity with the options of its trainings as fairseq resolves them; see :mod:`~.records`.
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
    wanted: tuple[Path, ...] = ()
    record: dict[str, Any] = field(default_factory=dict)

    @property
    def work(self) -> float:
        """How much there is to do, in updates."""
        updates = sum(step.updates for step in self.steps)
        return updates + (max(1.0, EVALUATION_WORK * (updates or 500)) if self.scored else 0)


def expand(study: Study, results: Path) -> list[Run]:
    """The runs of a study, those that others need first.

    :param results: the folder of all results.
    :raises ValueError: if two of them would have one name.
    """
    maker = _Maker(study, results.absolute())
    runs: dict[str, Run] = {}
    bases = map(maker.base, study.seeds)  # the unpruned model, which everything is compared with
    for run in itertools.chain(*map(maker.of, study.methods), bases):
        there = runs.setdefault(run.name, run)
        if there.identity != run.identity:
            raise ValueError(
                f"a run of {there.label} and one of {run.label} would both be called {run.name}: give one of these "
                "methods another name with the key name"
            )
    needed = {name for run in runs.values() for name in run.needs}

    def depth(run: Run) -> int:
        return max((1 + depth(runs[name]) for name in run.needs), default=0)

    return sorted(runs.values(), key=lambda run: (depth(run), run.method != "base", run.name not in needed))


class _Maker:
    def __init__(self, study: Study, results: Path) -> None:
        self.study = study
        self.commands = Commands(study)
        self.folder = results / RUNS
        self.common: dict[str, Any] = {"data": study.data.key or str(study.data.folder)}
        self.common |= {name: getattr(study, name) for name in _SCORING}
        for name, usual in {"max_len_a": MAX_LEN_A, "max_len_b": MAX_LEN_B}.items():
            if self.common[name] == usual:  # results of before there were these options stay usable
                del self.common[name]
        if study.data.described is not None:
            self.common[TEXT] = study.data.described
        if study.pretrained:
            self.common["pretrained"] = sha256(study.pretrained)
        if study.trained and study.base:  # prune keeps an account of its own
            self.common["base"] = sha256(study.trained)

    def base(self, seed: int) -> Run:
        """The unpruned model: a training of its own, or the one that is given, which is the same for all seeds."""
        seed = self._seed_of_base(seed)
        method = Method("base", "base", (self.study.total,), (seed,), self.study.base)
        if self.study.trained:
            return self._run(method, self.study.total, seed, None, suffix="", model=self.study.trained)
        return self._run(method, self.study.total, seed, options_of(self.study, self.study.base), suffix="")

    def translations(self, seed: int) -> Run:
        """The corpus with the unpruned model's translations of the training text, from which others learn."""
        seed = self._seed_of_base(seed)
        method = Method("translations", "translations", (), (seed,), {})
        return self._run(method, None, seed, None, suffix="", start=self.base(seed), scored=False)

    def _seed_of_base(self, seed: int) -> int:
        """The seed in the name of the unpruned model: of one that is given, with which it began, or the least."""
        if not self.study.trained:
            return seed
        begun = [re.fullmatch(r"base-s(\d+)", path.name) for path in self.folder.glob("base-s*")]
        return min([int(name[1]) for name in begun if name] or self.study.seeds)

    def of(self, method: Method) -> Iterator[Run]:
        """The runs of a method, those first that others of them need."""
        options: Options | None
        for seed in method.seeds:
            base = self.base(seed)
            if method.from_base or method.distill:
                yield base
            if method.distill:
                yield self.translations(seed)
            if method.method == "michel":
                for k in method.heads:
                    words = command_line(method.options)
                    yield self._run(method, k, seed, None, suffix=f"-k{k}", start=base, score_heads=words)
            elif method.method == "range":
                start = base if method.from_base else None
                options = of_range(self.study, method)
                shared = self._run(method, None, seed, options, suffix="-training", start=start, scored=False)
                yield shared
                larger = None
                for k in self._numbers(method, seed):
                    run = self._run(method, k, seed, None, suffix=f"-k{k}", start=shared, larger=larger)
                    larger = run if method.recovery is not None else None
                    yield run
            elif method.method == "random":
                for k in method.heads:
                    start = base if method.from_base else None
                    options = of_random(self.study, method, k, seed)
                    yield self._run(method, k, seed, options, suffix=f"-k{k}", start=start)
            elif method.method == "structure":
                options = options_of(self.study, method.options)
                for k in method.heads:
                    found = self._found(str(method.of), k, seed)
                    yield self._run(method, k, seed, options, suffix=f"-k{k}", heads_of=found)
            elif method.method == "unpruned":
                yield self._run(method, method.heads[0], seed, options_of(self.study, method.options), suffix="")
            else:
                for suffix, heads, own in self._trainings(method):
                    start = base if method.from_base else None
                    if start and method.method in ("joint", "ste"):
                        options = continued(self.study, method.options, own)
                    else:
                        options = options_of(self.study, method.options, own, anneal=method.method != "voita")
                    whole = heads == self.study.total and not chooses_units(options)
                    if "freeze-weights" in own and (whole or any(options.get(name) == 1 for name in SHARES)):
                        options = None  # there is nothing to choose, or train
                    yield self._run(method, heads, seed, options, suffix=suffix, start=start)

    def _numbers(self, method: Method, seed: int) -> list[int]:
        """The numbers of heads of a method with this seed, those of its other entries included, the largest first."""
        entries = [m for m in self.study.methods if m.name == method.name and seed in m.seeds]
        return sorted({k for entry in entries for k in entry.heads}, reverse=True)

    def _found(self, name: str, heads: int, seed: int) -> Run:
        """The run of the method *name* with so many heads and this seed."""
        entries = [m for m in self.study.methods if m.name == name and heads in m.heads and seed in m.seeds]
        return next(
            run for m in entries for run in self.of(m) if (run.label, run.heads, run.seed) == (name, heads, seed)
        )

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
        for option, share in method.shares:
            yield f"-{option[0]}{share:.12g}", None, own | {option: share}
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
        model: Path | None = None,
        score_heads: Sequence[str] | None = None,
        heads_of: Run | None = None,
        larger: Run | None = None,
        scored: bool = True,
    ) -> Run:
        """A run that trains with *options*; if None, it takes a model as it is, with K heads or those it scores.

        :param start: the run whose model it trains on or takes.
        :param model: a trained model that it takes whole.
        :param heads_of: the run whose heads it has from the first update on.
        :param larger: the run whose recovered model its own recovery starts from, with some of its heads.
        """
        name = f"{method.name}{suffix}-s{seed}"
        folder = self.folder / name
        recovery = method.recovery if scored else None
        teacher = self.translations(seed) if method.distill and (options or recovery) else None
        for part in (options, recovery) if teacher else ():
            if (subset := (part or {}).get("train-subset", "train")) != "train":
                raise ValueError(
                    f"{method.name} has train-subset {subset}, but distillation adds translations to the text train: "
                    "leave train-subset out"
                )
        steps: list[Step] = []
        if start:
            model = self._model_of(start)
        elif model is None and heads_of is None:  # which have new weights
            model = self.study.pretrained
        kept: list[str] = []  # how the heads are given to what comes after the pruning
        chosen = folder / KEPT
        translated = teacher.folder / TRANSLATED if teacher else None
        given: tuple[Path, ...] = ()
        if heads_of is not None:
            given = (heads_of.folder / COMPACT_HEADS,)
            options = with_fixed(options or {}, str(*given))
        if options is not None:
            trained = folder / "checkpoints"
            steps.append(self.commands.training("train", options, seed, trained, model, translated, *given))
            model = self.commands.checkpoint(trained)
        assert model is not None
        if method.method == "translations":
            steps.append(self.commands.translations(model, folder / TRANSLATED))
        if score_heads is not None:
            assert heads is not None
            steps.append(self.commands.score_heads(model, heads, chosen, score_heads, seed))
            kept = ["--kept-heads", str(chosen)]
            if method.compensate:
                steps.append(self.commands.compensate(model, chosen, folder / FITTED))
                model = folder / FITTED
        elif options is None and start and heads is not None:
            kept = ["--heads-to-keep", str(heads)]
        if recovery is not None:
            if score_heads is None:
                steps.append(self.commands.heads(model, chosen, kept))
            recovered = folder / RECOVERED
            if method.compensate or method.goes_on:  # with the learning rate of `prune`, not the recipe's
                again = trained_on(self.study, recovery, {"heads-to-keep": heads or 0})
            else:
                again = options_of(self.study, recovery)
            more = with_fixed(again, str(chosen))
            model = self.commands.checkpoint(larger.folder / RECOVERED) if larger else model
            steps.append(self.commands.training("recover", more, seed, recovered, model, translated, chosen))
            model, kept = self.commands.checkpoint(recovered), []
        if scored:
            pruned = method.method not in ("base", "unpruned")
            steps += self.commands.scoring(folder, model, kept, pruned=pruned)
        identity = self.common | {
            "name": name, "method": method.method, "heads": heads, "seed": seed,
            "options": options, "recovery": recovery,
            "start": start.identity if start else None, "teacher": teacher.identity if teacher else None,
            "score_heads": list(score_heads) if score_heads is not None else None,
        }  # fmt: skip
        if method.compensate:
            identity["compensate"] = True
        if heads_of is not None:
            identity |= {"heads_of": heads_of.identity, "options": {**(options or {}), "kept-heads": KEPT}}
            identity.pop("pretrained", None)
        if larger is not None:
            identity["larger"] = larger.identity
        needs = tuple(dict.fromkeys(run.name for run in (start, teacher, heads_of, larger) if run))
        return Run(name, method.name, method.method, heads, seed, folder, needs, tuple(steps), identity, scored)

    def _model_of(self, run: Run) -> Path:
        """The checkpoint that a run leaves, or that stands for it."""
        if run.method == "base" and self.study.trained:
            return self.study.trained
        return self.commands.checkpoint(run.folder / "checkpoints")
