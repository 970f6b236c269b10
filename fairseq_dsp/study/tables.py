"""The table of a study, in the forms that people and papers need."""

from __future__ import annotations

import csv
import html
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import UserError
from .results import BASE, Results, Row
from .significance import Bootstrap, Comparison


@dataclass(frozen=True)
class Line:
    """A line of the table.

    :param row: the method and its number of heads.
    :param valid_loss: the validation loss, the mean over the seeds; None if a run has none.
    :param interval: half the 95% confidence interval of BLEU, the mean over the seeds.
    :param to_base: the comparison with the unpruned model of the same seed; None for that model or without one.
    :param to_other: the comparison with the method that the report compares with, at the same number of heads and with
        the same seed; None for that method and where it has no such run.
    """

    row: Row
    valid_loss: float | None
    interval: float
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
    bases = {run["seed"]: run["run"] for row in rows if row.label == BASE for run in row.runs}
    others = {(row.heads, run["seed"]): run["run"] for row in rows if row.label == against for run in row.runs}
    lines = []
    for row in rows:
        to_base = to_other = None
        if row.label != BASE and bases:
            # a method may have seeds of its own
            to_base = found.compare([(run["run"], bases.get(run["seed"], bases[min(bases)])) for run in row.runs])
        if row.label not in (BASE, against):
            pairs = [(run["run"], others.get((row.heads, run["seed"]))) for run in row.runs]
            to_other = found.compare([(one, other) for one, other in pairs if other])
        losses = [loss for run in row.runs if (loss := results.valid_loss(run)) is not None]
        valid_loss = statistics.fmean(losses) if len(losses) == len(row.runs) else None
        interval = statistics.fmean(found.interval(run["run"]) for run in row.runs)
        lines.append(Line(row, valid_loss, interval, to_base, to_other))
    return lines


HEADER = (
    "method", "heads", "seeds", "valid loss", "BLEU", "± seeds", "95% CI", "Δ", "95% CI of Δ", "p", "chrF",
    "tokenised BLEU",
)  # fmt: skip


def cells(line: Line) -> list[str]:
    """The cells of a line, under :data:`HEADER`."""
    row, spread = line.row, line.row.spread("bleu")
    return [
        row.title,
        str(row.heads),
        str(len(row.runs)),
        "" if line.valid_loss is None else f"{line.valid_loss:.3f}",
        f"{row.mean('bleu'):.2f}",
        "" if spread is None else f"{spread:.2f}",
        f"± {line.interval:.2f}",
        *_comparison_cells(line.to_base),
        f"{row.mean('chrf'):.2f}",
        f"{row.mean('tokenised_bleu'):.2f}",
    ]


COMPARISON_HEADER = ("method", "heads", "pairs", "Δ", "95% CI of Δ", "p")


def comparison_cells(lines: Sequence[Line]) -> list[list[str]]:
    """Each line that is compared with another method, under :data:`COMPARISON_HEADER`."""
    return [
        [line.row.title, str(line.row.heads), str(len(line.to_other.p_values)), *_comparison_cells(line.to_other)]
        for line in lines
        if line.to_other
    ]


def _comparison_cells(found: Comparison | None) -> list[str]:
    """Difference, its interval, and p with a star if it is significant."""
    if found is None:
        return ["", "", ""]
    star = "*" if found.significant else ""
    return [f"{found.difference:+.2f}", f"{found.low:+.2f} to {found.high:+.2f}", f"{max(found.p_values):.3f}{star}"]


COST_HEADER = ("method", "heads", "parameters", "MB in float32", "sentences/s", "speed-up", "training, min", "BLEU")


def cost_cells(rows: Sequence[Row]) -> list[list[str]]:
    """Size, speed and training time of each row, under :data:`COST_HEADER`."""
    speeds = {(row.label, row.heads): _speed(row) for row in rows}
    base = next((speeds[row.label, row.heads] for row in rows if row.label == BASE), None)
    out = []
    for row in rows:
        parameters, speed = _mean(row, "parameters"), speeds[row.label, row.heads]
        out.append(
            [
                row.title,
                str(row.heads),
                f"{parameters:,.0f}",
                f"{4e-6 * parameters:.2f}",
                "" if speed is None else f"{speed:.1f}",
                "" if speed is None or base is None else f"{speed / base:.2f}",
                f"{statistics.fmean(run['training_seconds'] for run in row.runs) / 60:.1f}",
                f"{row.mean('bleu'):.2f}",
            ]
        )
    return out


def to_markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in Markdown; the first column to the left, the others to the right."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(line).replace("*", "\\*") + " |" for line in body]) + "\n"


def to_html(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A table in HTML; a line above the first row of each method."""

    def line(tag: str, words: Sequence[str], attribute: str = "") -> str:
        return f"<tr{attribute}>" + "".join(f"<{tag}>{html.escape(word)}</{tag}>" for word in words) + "</tr>"

    before = [None, *(words[0] for words in body)]
    first = [' class="first"' if words[0] != method else "" for words, method in zip(body, before, strict=False)]
    rows = "\n".join(line("td", words, attribute) for words, attribute in zip(body, first, strict=True))
    table = f"<table>\n<thead>{line('th', header)}</thead>\n<tbody>\n{rows}\n</tbody></table>"
    return f'<div class="wide" tabindex="0">{table}</div>'  # tabindex: scrolled by the keyboard, too


def to_csv(lines: Sequence[Line], against: str | None = None) -> str:
    """The table as CSV, with nothing rounded but what the scores are.

    :param against: the method that the others are compared with, if any.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["method", "heads", "seeds", "valid_loss", "bleu", "bleu_sd", "bleu_ci95", *_csv_names("bleu")]
    names += ["chrf", "tokenised_bleu", "parameters"]
    writer.writerow([*names, *(_csv_names(f"bleu_to_{against}") if against else [])])
    for line in lines:
        row, spread = line.row, line.row.spread("bleu")
        numbers = [line.valid_loss, row.mean("bleu"), spread, line.interval, *_csv_numbers(line.to_base)]
        numbers += [row.mean("chrf"), row.mean("tokenised_bleu")]
        parameters = f"{_mean(row, 'parameters'):.0f}"
        more = _rounded(_csv_numbers(line.to_other)) if against else []
        writer.writerow([row.title, row.heads, len(row.runs), *_rounded(numbers), parameters, *more])
    return out.getvalue()


def _csv_names(start: str) -> list[str]:
    return [f"{start}_difference", f"{start}_difference_low", f"{start}_difference_high", f"{start}_p_value_max"]


def _csv_numbers(found: Comparison | None) -> list[float | None]:
    return [None] * 4 if found is None else [found.difference, found.low, found.high, max(found.p_values)]


def _rounded(numbers: Sequence[float | None]) -> list[str]:
    return ["" if number is None else f"{number:.4f}" for number in numbers]


def to_latex(lines: Sequence[Line], caption: str, against: str | None = None) -> str:
    """The table for a paper; needs the package booktabs.

    :param against: the method that the others are compared with, if any.
    """
    body = []
    for line in lines:
        row, spread = line.row, line.row.spread("bleu")
        bleu = f"{row.mean('bleu'):.2f}" + ("" if spread is None else rf" \pm {spread:.2f}")
        words = [_escape(row.title), str(row.heads), f"${bleu}$", rf"$\pm {line.interval:.2f}$"]
        words += _latex_words(line.to_base) + (_latex_words(line.to_other) if against else [])
        body.append(" & ".join([*words, f"{row.mean('chrf'):.2f}"]) + r" \\")
    heading = ["method", "heads", "BLEU", r"95\% CI", r"$\Delta$", r"95\% CI of $\Delta$"]
    if against:
        heading += [rf"$\Delta$ to {_escape(against)}", "95\\% CI"]
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            rf"\begin{{tabular}}{{l{'r' * len(heading)}}}",
            r"\toprule",
            " & ".join([*heading, "chrF"]) + r" \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_escape(caption)}}}",
            r"\end{table}",
            "",
        ]
    )


def _latex_words(found: Comparison | None) -> list[str]:
    if found is None:
        return ["", ""]
    star = "^{*}" if found.significant else ""
    return [f"${found.difference:+.2f}{star}$", f"$[{found.low:+.2f}, {found.high:+.2f}]$"]


def _escape(text: str) -> str:
    for letter in "&%$#_{}":
        text = text.replace(letter, "\\" + letter)
    return text


def _mean(row: Row, key: str) -> float:
    return statistics.fmean(run["scores"][key] for run in row.runs)


def _speed(row: Row) -> float | None:
    key = "sentences_per_second"
    return _mean(row, key) if all(key in run["scores"] for run in row.runs) else None
