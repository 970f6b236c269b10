"""The table of a study, in the forms that people and papers need."""

from __future__ import annotations

import csv
import html
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError
from ..evaluation.scoring import TITLES
from ..evaluation.significance import Bootstrap, Comparison, Estimate, holm
from ..study.results import Results, Row
from ..study.titles import BASE

NOTE = (
    "A 95% confidence interval, and p with it, covers what other seeds and test sentences would give; with † only the "
    "sentences, as a single seed says nothing of others. Δ is the difference from {other}, the mean over so many pairs "
    "of the same seed; “unpaired”: no seed is common to both, and the means over all seeds are compared. p is "
    "two-sided, p (Holm) corrected for the {count} comparisons of this table, and * marks p (Holm) < 0.05."
)
"""What the columns of :func:`header` and :data:`COMPARISON_HEADER` mean."""


@dataclass(frozen=True)
class Line:
    """A line of the table.

    :param row: the method and its number of heads.
    :param valid_loss: the validation loss, the mean over the seeds; None if a run has none.
    :param metrics: the names of the metrics; the first is compared.
    :param score: its mean over the seeds, with its interval.
    :param to_base: the comparison with the unpruned model; None for that model or without one.
    :param to_other: the comparison with the method that the report compares with, at the same number of heads; None for
        that method and where it has no such run.
    """

    row: Row
    valid_loss: float | None
    metrics: tuple[str, ...]
    score: Estimate
    to_base: Comparison | None
    to_other: Comparison | None


def table_lines(results: Results, found: Bootstrap, against: str | None = None) -> list[Line]:
    """The lines of a study's table.

    :param against: the name of a method that the others are compared with, too.
    :raises UserError: if the study has no such method.
    """
    names = [method["name"] for method in results.study["methods"]]
    if against is not None and against not in names:
        raise UserError(f"the study has no method {against} to compare with: give one of {', '.join(names)}")
    rows = results.rows()
    others = {row.budget: row.seeds for row in rows if row.label == against}
    to_base, to_other = [], []
    for row in rows:
        to_base.append(None if row.label == BASE else found.compare(row.seeds, results.bases_of(row)))
        to_other.append(None if row.label in (BASE, against) else found.compare(row.seeds, others.get(row.budget, {})))
    lines = []
    for row, base, other in zip(rows, _corrected(to_base), _corrected(to_other), strict=True):
        losses = {run["run"]: loss for run in row.runs if (loss := results.valid_loss(run)) is not None}
        valid_loss = statistics.fmean(row.by_seed(losses)) if len(losses) == len(row.runs) else None
        lines.append(Line(row, valid_loss, results.metrics, found.mean(row.seeds), base, other))
    return lines


def _corrected(comparisons: Sequence[Comparison | None]) -> list[Comparison | None]:
    """The comparisons of a table, corrected for their number; None stays None."""
    corrected = iter(holm([one for one in comparisons if one]))
    return [one and next(corrected) for one in comparisons]


_COMPARED = ("Δ", "95% CI of Δ", "pairs", "p", "p (Holm)")


def header(metrics: Sequence[str]) -> tuple[str, ...]:
    """The header of the table.

    :param metrics: names; the first is compared.
    """
    first, *others = (TITLES[name] for name in metrics)
    return ("method", "heads", "seeds", "valid loss", first, "SD of seeds", "95% CI", *_COMPARED, *others)


def cells(line: Line) -> list[str]:
    """The cells of a line, under :func:`header`."""
    (metric, *others), row = line.metrics, line.row
    spread = row.spread(metric)
    return [
        row.full_title,
        row.kept,
        str(len(row.seeds)),
        "" if line.valid_loss is None else f"{line.valid_loss:.3f}",
        f"{row.mean(metric):.2f}",
        "" if spread is None else f"{spread:.2f}",
        f"± {line.score.half:.2f}{_dagger(line.score)}",
        *_comparison_cells(line.to_base),
        *(f"{row.mean(name):.2f}" for name in others),
    ]


COMPARISON_HEADER = ("method", "heads", *_COMPARED)


def comparison_cells(lines: Sequence[Line]) -> list[list[str]]:
    """Each line that is compared with another method, under :data:`COMPARISON_HEADER`."""
    return [[line.row.full_title, line.row.kept, *_comparison_cells(line.to_other)] for line in lines if line.to_other]


def _comparison_cells(found: Comparison | None) -> list[str]:
    """Difference, its interval, the pairs and p, the corrected one with a star if it is significant."""
    if found is None:
        return [""] * len(_COMPARED)
    one = found.difference
    return [
        f"{one.value:+.2f}",
        f"{one.low:+.2f} to {one.high:+.2f}{_dagger(one)}",
        str(found.pairs or "unpaired"),
        _p_value(found.p_value),
        _p_value(found.p_corrected) + ("*" if found.significant else ""),
    ]


def _p_value(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _dagger(one: Estimate) -> str:
    return "" if one.covers_seeds else "†"


COST_HEADER = ("method", "heads", "parameters", "MB in float32", "sentences/s", "speed-up", "updates", "training, min")


def cost_cells(rows: Sequence[Row], metric: str) -> list[list[str]]:
    """Size, speed and training time of each row, under :data:`COST_HEADER`, and its score."""
    speeds = {(row.label, row.budget): _speed(row) for row in rows}
    base = next((speeds[row.label, row.budget] for row in rows if row.label == BASE), None)
    out = []
    for row in rows:
        speed = speeds[row.label, row.budget]
        out.append(
            [
                row.full_title,
                row.kept,
                f"{row.parameters:,.0f}",
                f"{4e-6 * row.parameters:.2f}",
                "" if speed is None else f"{speed:.1f}",
                "" if speed is None or base is None else f"{speed / base:.2f}",
                _updates(row),
                _minutes(row),
                f"{row.mean(metric):.2f}",
            ]
        )
    return out


def _updates(row: Row) -> str:
    """How many updates a training has, the mean; empty if that of one is not known, as of earlier versions."""
    made = [run["updates"] for run in row.runs if "updates" in run]
    return f"{statistics.fmean(made):,.0f}" if len(made) == len(row.runs) else ""


def _minutes(row: Row) -> str:
    """How long a training takes, the mean; empty if that of one is not known."""
    seconds = [run["training_seconds"] for run in row.runs]
    return "" if None in seconds else f"{statistics.fmean(seconds) / 60:.1f}"


def to_html(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in HTML; a line above the first row of each method."""

    def line(tag: str, words: Sequence[str], attribute: str = "") -> str:
        return f"<tr{attribute}>" + "".join(f"<{tag}>{html.escape(word)}</{tag}>" for word in words) + "</tr>"

    before = [None, *(words[0] for words in body)]
    first = [' class="first"' if words[0] != method else "" for words, method in zip(body, before, strict=False)]
    rows = "\n".join(line("td", words, attribute) for words, attribute in zip(body, first, strict=True))
    table = f"<table>\n<thead>{line('th', header)}</thead>\n<tbody>\n{rows}\n</tbody></table>"
    return f'<div class="wide" tabindex="0">{table}</div>'  # tabindex: scrolled by the keyboard, too


def to_csv(lines: Sequence[Line], against: str | None = None, *, missing: int = 0) -> str:
    """The table as CSV, with nothing rounded but what the scores are. Methods have their names, and titles at the end.

    :param against: the method that the others are compared with, if any.
    :param missing: how many runs of the study are not finished, the last column of every line.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    metric, *others = lines[0].metrics
    units = any(line.row.units is not None for line in lines)
    names = ["method", "heads", *(["units"] if units else []), "seeds", "valid_loss", metric]
    names += [f"{metric}_sd", f"{metric}_ci95"]
    names += [f"{metric}_ci95_covers", *_csv_names(metric), *others, "parameters"]
    writer.writerow([*names, *(_csv_names(f"{metric}_to_{against}") if against else []), "title", "missing_runs"])
    for line in lines:
        row, spread = line.row, line.row.spread(metric)
        writer.writerow(
            [
                *(row.name, f"{row.mean_heads:.6g}", *([row.units] if units else []), len(row.seeds)),
                *map(_rounded, (line.valid_loss, row.mean(metric), spread, line.score.half)),
                _covered(line.score),
                *_csv_cells(line.to_base),
                *(_rounded(row.mean(name)) for name in others),
                f"{row.parameters:.0f}",
                *(_csv_cells(line.to_other) if against else []),
                row.full_title,
                missing,
            ]
        )
    return out.getvalue()


def _csv_names(start: str) -> list[str]:
    ends = ("difference", "difference_low", "difference_high", "difference_covers", "pairs", "p_value", "p_value_holm")
    return [f"{start}_{end}" for end in ends]


def _csv_cells(found: Comparison | None) -> list[str]:
    if found is None:
        return [""] * len(_csv_names(""))
    one = found.difference
    interval = [*map(_rounded, (one.value, one.low, one.high)), _covered(one)]
    return [*interval, str(found.pairs), f"{found.p_value:.4g}", f"{found.p_corrected:.4g}"]


def _covered(one: Estimate) -> str:
    return "seeds and sentences" if one.covers_seeds else "sentences"


def _rounded(number: float | None) -> str:
    return "" if number is None else f"{number:.4f}"


_LATEX_NOTE = (
    r"METRIC $\pm$ the standard deviation over the seeds. Intervals cover seeds and test sentences, with $^\dagger$ "
    r"the sentences only. $\Delta$: the mean over the pairs of the same seed or, if there are none, of the means over "
    r"all seeds. $^*$: two-sided $p < 0.05$ after Holm's correction."
)


def to_latex(lines: Sequence[Line], caption: str, against: str | None = None, *, note: str = "") -> str:
    """The table for a paper; needs the package booktabs.

    :param against: the title of the method that the others are compared with, if any.
    :param note: a line of text for a comment at its head.
    """
    (metric, *more), body = lines[0].metrics, []
    others, title = more[:1], TITLES[metric]
    for line in lines:
        row, spread = line.row, line.row.spread(metric)
        score = f"{row.mean(metric):.2f}" + ("" if spread is None else rf" \pm {spread:.2f}")
        interval = rf"$\pm {_latex_number(line.score.half)}{_latex_dagger(line.score)}$"
        words = [_escape(row.full_title), row.kept, str(len(row.seeds)), f"${score}$", interval]
        words += _latex_words(line.to_base) + (_latex_words(line.to_other) if against else [])
        body.append(" & ".join([*words, *(f"{row.mean(name):.2f}" for name in others)]) + r" \\")
    heading = ["method", "heads", "seeds", title, r"95\% CI", r"$\Delta$", r"95\% CI of $\Delta$"]
    if against:
        heading += [rf"$\Delta$ to {_escape(against)}", "95\\% CI"]
    return "\n".join(
        [
            *([f"% {note}"] if note else []),
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * (len(heading) + len(others) - 1)}}}",
            r"\toprule",
            " & ".join([*heading, *(TITLES[name] for name in others)]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_escape(caption)} {_LATEX_NOTE.replace('METRIC', title[0].upper() + title[1:])}}}",
            r"\end{table}",
            "",
        ]
    )


def _latex_words(found: Comparison | None) -> list[str]:
    if found is None:
        return ["", ""]
    one = found.difference
    star = "^{*}" if found.significant else ""
    ends = ", ".join(f"{'+' if end >= 0 else ''}{_latex_number(end)}" for end in (one.low, one.high))
    return [f"${one.value:+.2f}{star}$", f"$[{ends}]{_latex_dagger(one)}$"]


def _latex_number(value: float) -> str:
    return f"{value:.2f}".replace("inf", r"\infty")


def _latex_dagger(one: Estimate) -> str:
    return "" if one.covers_seeds else r"^\dagger"


_LATEX = str.maketrans(
    {letter: "\\" + letter for letter in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}
)


def _escape(text: str) -> str:
    return text.translate(_LATEX)


def _speed(row: Row) -> float | None:
    speeds = [run["scores"].get("sentences_per_second") for run in row.runs]
    return None if None in speeds else statistics.fmean(speeds)
