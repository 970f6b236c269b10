"""What a sweep left: the results of its runs, and the table of them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evaluation.prepared import PreparedData
from ..evaluation.scoring import TITLES, metric_names, metrics
from ..evaluation.significance import Bootstrap, resample, sentence_counts
from ..files import find_object, read_object
from ..model import HeadSet
from .records import AND, FILES
from .runs import LOG, RESULT, RUNS
from .titles import BASE, BASE_TITLE
from .training_log import Curve, final_valid_loss, learning_curves

STUDY = "study.json"
REFERENCES = "references.txt"

_ANEW = "remove it and start the sweep again"


@dataclass(frozen=True)
class Row:
    """A method at a number of heads: its runs, as a rule one a seed.

    :param label: the method's name; :data:`BASE` for the unpruned model.
    :param title: what tables and pictures call it.
    :param heads: K; of a share of the cost, the mean, rounded.
    :param runs: the results, by seed.
    """

    label: str
    title: str
    heads: int
    runs: list[dict[str, Any]]

    @property
    def name(self) -> str:
        """The method's name where programs read it."""
        return BASE_TITLE if self.label == BASE else self.label

    @property
    def share(self) -> str | None:
        """The share of what heads and units cost that its models were asked to keep; None if they were given K."""
        return self.runs[0].get("share")

    @property
    def budget(self) -> int | str:
        """What its models were asked to keep: K, or a share."""
        return self.share or self.heads

    @property
    def full_title(self) -> str:
        """The title, and the share of the cost or the penalties that its models were given in place of K."""
        penalties = sorted({run["penalty"] for run in self.runs if "penalty" in run})
        given = [self.share] if self.share else []
        given += ["penalty " + ", ".join(f"{one:.12g}" for one in penalties)] if penalties else []
        return ", ".join([self.title, *given])

    @property
    def units(self) -> int | None:
        """How many units of other kinds than heads its models keep; None if they have no choice of any."""
        return None if self._units is None else round(self._units)

    @property
    def _units(self) -> float | None:
        sets = [HeadSet.from_json(kept).others for run in self.runs if (kept := run["scores"].get("kept"))]
        return statistics.fmean(sum(one.kept for one in others) for others in sets) if all(sets) and sets else None

    @property
    def kept(self) -> str:
        """How many heads, and units where some were chosen, for tables; of a share of the cost, the means."""
        heads = f"{self.mean_heads:.4g}"
        return heads if self._units is None else f"{heads} + {self._units:.4g} units"

    @property
    def mean_heads(self) -> float:
        """How many heads its models keep, the mean: of a share of the cost not always K."""
        return statistics.fmean(run["heads"] for run in self.runs)

    @property
    def seeds(self) -> dict[int, list[str]]:
        """The names of the runs, by seed: a method may have several of one, as by several penalties."""
        found: dict[int, list[str]] = {}
        for run in self.runs:
            found.setdefault(run["seed"], []).append(run["run"])
        return found

    def mean(self, metric: str) -> float:
        """The mean over the seeds."""
        return statistics.fmean(self.of_seeds(metric))

    @property
    def parameters(self) -> float:
        """How many parameters its models have, the mean."""
        return statistics.fmean(run["scores"]["parameters"] for run in self.runs)

    @property
    def stopped(self) -> int:
        """How many of the runs' translations end at the limit of their length."""
        return sum(int(run["scores"].get("stopped_at_limit", 0)) for run in self.runs)

    def spread(self, metric: str) -> float | None:
        """The standard deviation over the seeds, None for a single one."""
        values = self.of_seeds(metric)
        return statistics.stdev(values) if len(values) > 1 else None

    def of_seeds(self, metric: str) -> list[float]:
        """The mean score of each seed's runs: ``bleu``, ``tokenised_bleu``, ``chrf`` or ``accuracy``."""
        return self.by_seed({run["run"]: run["scores"][metric]["score"] for run in self.runs})

    def by_seed(self, values: Mapping[str, float]) -> list[float]:
        """Return the mean of each seed's runs.

        :param values: one for each run.
        """
        return [statistics.fmean(values[run] for run in runs) for runs in self.seeds.values()]


@dataclass(frozen=True)
class Results:
    """The results of a study, as far as there are any.

    :param folder: where they are.
    :param study: what the sweep noted of the study.
    :param runs: the results of scored runs.
    """

    folder: Path
    study: dict[str, Any]
    runs: list[dict[str, Any]]

    @property
    def missing(self) -> list[str]:
        """Names of runs without a result."""
        return [name for name in self.study["runs"] if name not in {run["run"] for run in self.runs}]

    @property
    def mixture(self) -> str:
        """A sentence that says which runs were made in another way than others; empty if there are none."""
        made: dict[str, dict[Any, list[str]]] = {}
        for run in self.runs:
            ways = {"by version {}": run.get("version", "unknown")}  # early versions did not write theirs
            ways |= {"trained by {} process(es)": run["processes"]} if "processes" in run else {}
            for file, contents in run.get(FILES, {}).items():
                ways[f"from {file} (checksum {{}})"] = AND.join(one[:8] for one in contents.split(AND))
            for way, value in ways.items():
                made.setdefault(way, {}).setdefault(value, []).append(run["run"])
        notes = [
            f"{way.format(value)} {', '.join(names)}"
            for way, values in made.items()
            if len(values) > 1
            for value, names in values.items()
        ]
        return f"Not all runs were made alike: {'; '.join(notes)}." if notes else ""

    @property
    def data(self) -> PreparedData:
        """The corpus; its files may be gone."""
        return PreparedData(self.folder, self.study["data"])

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics; methods are compared by the first."""
        return metric_names(self.data)

    @property
    def metric(self) -> str:
        """The metric that methods are compared by."""
        return self.metrics[0]

    @property
    def title(self) -> str:
        """What people call that metric."""
        return TITLES[self.metric]

    def bases_of(self, row: Row) -> dict[int, list[str]]:
        """The runs of the unpruned model that a row is compared with, by seed; one that was given is that of each."""
        bases = {run["seed"]: [run["run"]] for run in self.runs if run["label"] == BASE}
        if bases and self.study.get("given_base"):
            return dict.fromkeys(row.seeds, bases[min(bases)])
        return bases

    def bootstrap(self) -> Bootstrap:
        """The score of all runs on the same resamples of the test sentences.

        :raises UserError: if a run's output is missing or does not belong to the references.
        """
        found = resample(metrics(self.data)[self.metric], self.sentence_counts())
        for run in self.runs:
            noted, computed = run["scores"][self.metric]["score"], found.scores[run["run"]]
            if not math.isclose(noted, computed, abs_tol=0.01):
                raise UserError(
                    f"the {self.data.output_name} of {run['run']} has {computed:.2f} {self.title}, but its {RESULT} "
                    f"says {noted:.2f}: they were changed, or scored with other packages; remove the folder of that "
                    "run and start the sweep again"
                )
        return found

    def sentence_counts(self) -> dict[str, Any]:
        """What the score of each run is computed from, sentence by sentence; see `significance.sentence_counts`.

        :raises UserError: as `bootstrap`.
        """
        references = self._lines(REFERENCES)
        translations = {}
        for run in self.runs:
            name = f"{RUNS}/{run['run']}/{self.data.output_name}"
            translations[run["run"]] = self._lines(name)
            if len(translations[run["run"]]) != len(references):
                raise UserError(
                    f"{name} has {len(translations[run['run']])} lines, but there are {len(references)} references: "
                    "remove the folder of that run and start the sweep again"
                )
        return sentence_counts(metrics(self.data)[self.metric], references, translations)

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        try:
            return path.read_bytes().decode().removesuffix("\n").split("\n")  # a carriage return ends no line
        except (OSError, UnicodeDecodeError) as error:
            remedy = f"remove {RESULT} beside it and " if path.name == self.data.output_name else ""
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{path} cannot be read ({reason}): {remedy}start the sweep again") from error

    def valid_loss(self, run: dict[str, Any]) -> float | None:
        """The validation loss of a run's model; see :func:`~.training_log.final_valid_loss`."""
        return final_valid_loss(self.folder / RUNS / run["run"] / LOG, self.study.get("checkpoint", "best"))

    def curves(self) -> dict[str, dict[str, Curve]]:
        """The learning curves of the study's runs that trained, by name; see `training_log.learning_curves`."""
        found = {name: learning_curves(self.folder / RUNS / name / LOG) for name in sorted(self.labels)}
        return {name: curves for name, curves in found.items() if curves}

    @property
    def labels(self) -> dict[str, str]:
        """The method of each run, by the run's name: also of trainings that several runs share."""
        if noted := self.study.get("labels"):
            return dict(noted)
        finished = {run["run"]: run["label"] for run in self.runs}  # versions before 0.2 noted the names alone
        shared = {f"{run['label']}-training-s{run['seed']}": run["label"] for run in self.runs}
        return shared | finished

    @property
    def titles(self) -> dict[str, str]:
        """What tables and pictures call the methods, by name; their names in results of versions without titles."""
        return {BASE: BASE_TITLE} | {m["name"]: m.get("title", m["name"]) for m in self.study["methods"]}

    def rows(self) -> list[Row]:
        """The rows of the table: the unpruned model, then the methods as the study has them, by falling K."""
        rows = []
        for label, title in self.titles.items():
            alike: dict[int | str, list[dict[str, Any]]] = {}
            for run in sorted((run for run in self.runs if run["label"] == label), key=lambda run: run["seed"]):
                alike.setdefault(run.get("share", run["heads"]), []).append(run)
            own = [Row(label, title, round(statistics.fmean(run["heads"] for run in r)), r) for r in alike.values()]
            rows += sorted(own, key=lambda row: -row.heads)
        return rows


def read_results(folder: str | Path) -> Results:
    """Read what a sweep left in *folder*, or the one file that `packed_results.pack` made of it.

    :raises UserError: if it holds no study, or a result cannot be read.
    """
    folder = Path(folder)
    if folder.is_file():
        from .packed_results import unpack

        return unpack(folder)
    study = read_object(folder / STUDY, "give the folder of a sweep or prune, or run the command that made it again")
    if not {"name", "methods", "runs", "data"} <= set(study):
        raise UserError(f"{folder / STUDY} was not written by a sweep: give the folder of a sweep's results")
    runs = []
    for name in study["runs"]:
        path = folder / RUNS / name / RESULT
        run = find_object(path, _ANEW)
        if run is not None:
            if not {"run", "label", "seed", "heads", "scores"} <= set(run):
                raise UserError(f"{path} holds no result of a run: {_ANEW}")
            runs.append(run)
    return Results(folder, study, runs)


def stopped(rows: Sequence[Row]) -> str:
    """Name the rows with translations that end at the limit of their length; "" if there are none."""
    found = [
        f"{row.stopped:,} of {sum(int(run['scores'].get('sentences', 0)) for run in row.runs):,} of {row.title} with "
        f"{row.heads} heads{'' if row.units is None else f' and {row.units} units'}"
        for row in rows
        if row.stopped
    ]
    if not found:
        return ""
    return f"Translations that end at the limit of their length, perhaps cut off (max-len-b): {'; '.join(found)}."


def summary_table(results: Results) -> str:
    """The table for a terminal."""
    total = results.study["total"]
    rows = results.rows()
    width = max(map(len, ["method", *(row.full_title for row in rows)]))
    metric, others = results.metric, results.metrics[1:2]
    titles = "".join(f"{TITLES[name]:>8}" for name in others)
    kept = [" ".join([words[0], "of", str(total), *words[1:]]) for words in (row.kept.split() for row in rows)]
    wide = max([9, *map(len, kept)])
    lines = [f"{'method':<{width}} {'heads':>{wide}} {results.title + ' ± SD':>14}{titles} {'parameters':>11}"]
    for row, heads in zip(rows, kept, strict=True):
        spread = row.spread(metric)
        score = f"{row.mean(metric):.2f}" + ("" if spread is None else f" ± {spread:.2f}")
        more = "".join(f"{row.mean(name):8.2f}" for name in others)
        lines.append(f"{row.full_title:<{width}} {heads:>{wide}} {score:>14}{more} {row.parameters:11,.0f}")
    lines += [text] if (text := stopped(rows)) else []
    lines += [f"missing: {', '.join(results.missing)}"] if results.missing else []
    lines += [results.mixture] if results.mixture else []
    return "\n".join(lines)
