"""The table of a study, in the forms that people and papers need."""

from __future__ import annotations

import csv
import html
import io
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from .results import BASE, Results, Row
from .significance import Significance

LEVEL = 0.05  # of significance


@dataclass(frozen=True)
class Line:
    """A line of the table.

    :param row: the method and its number of heads.
    :param interval: half the 95% confidence interval of BLEU, the mean over the seeds.
    :param difference: of the mean BLEU from that of the unpruned model, None for that model or without one.
    :param p_values: against the unpruned model of the same seed, one a seed.
    """

    row: Row
    interval: float
    difference: float | None
    p_values: tuple[float, ...]

    @property
    def significant(self) -> bool:
        """Whether every seed differs significantly from the unpruned model."""
        return bool(self.p_values) and max(self.p_values) < LEVEL


def table_lines(results: Results, found: dict[str, Significance]) -> list[Line]:
    """The lines of a study's table."""
    rows = results.rows()
    base = next((row.mean("bleu") for row in rows if row.label == BASE), None)
    lines = []
    for row in rows:
        mine = [found[run["run"]] for run in row.runs]
        difference = None if base is None or row.label == BASE else row.mean("bleu") - base
        p_values = tuple(one.p_value for one in mine if one.p_value is not None)
        lines.append(Line(row, statistics.fmean(one.interval for one in mine), difference, p_values))
    return lines


HEADER = ("method", "heads", "seeds", "BLEU", "± seeds", "95% CI", "Δ", "p", "chrF", "tokenised BLEU")


def cells(line: Line) -> list[str]:
    """The cells of a line, under :data:`HEADER`."""
    row, spread = line.row, line.row.spread("bleu")
    return [
        row.title,
        str(row.heads),
        str(len(row.runs)),
        f"{row.mean('bleu'):.2f}",
        "" if spread is None else f"{spread:.2f}",
        f"± {line.interval:.2f}",
        "" if line.difference is None else f"{line.difference:+.2f}",
        ("" if not line.p_values else f"{max(line.p_values):.3f}") + ("*" if line.significant else ""),
        f"{row.mean('chrf'):.2f}",
        f"{row.mean('tokenised_bleu'):.2f}",
    ]


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
    """A table in HTML."""

    def line(tag: str, words: Sequence[str]) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(word)}</{tag}>" for word in words) + "</tr>"

    rows = "\n".join(line("td", words) for words in body)
    return f'<div class="wide"><table>\n<thead>{line("th", header)}</thead>\n<tbody>\n{rows}\n</tbody></table></div>'


def to_csv(lines: Sequence[Line]) -> str:
    """The table as CSV, with nothing rounded but what the scores are."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = ["method", "heads", "seeds", "bleu", "bleu_sd", "bleu_ci95", "bleu_difference", "p_value_max", "chrf"]
    writer.writerow([*names, "tokenised_bleu", "parameters"])
    for line in lines:
        row, spread = line.row, line.row.spread("bleu")
        numbers = [row.mean("bleu"), spread, line.interval, line.difference, max(line.p_values, default=None)]
        numbers += [row.mean("chrf"), row.mean("tokenised_bleu")]
        rounded = ["" if number is None else f"{number:.4f}" for number in numbers]
        writer.writerow([row.title, row.heads, len(row.runs), *rounded, f"{_mean(row, 'parameters'):.0f}"])
    return out.getvalue()


def to_latex(lines: Sequence[Line], caption: str) -> str:
    """The table for a paper; needs the package booktabs."""
    body = []
    for line in lines:
        row, spread = line.row, line.row.spread("bleu")
        bleu = f"{row.mean('bleu'):.2f}" + ("" if spread is None else rf" \pm {spread:.2f}")
        star = "^{*}" if line.significant else ""
        difference = "" if line.difference is None else f"${line.difference:+.2f}{star}$"
        words = [_escape(row.title), str(row.heads), f"${bleu}$", rf"$\pm {line.interval:.2f}$", difference]
        body.append(" & ".join([*words, f"{row.mean('chrf'):.2f}"]) + r" \\")
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            r"\begin{tabular}{lrrrrr}",
            r"\toprule",
            r"method & heads & BLEU & 95\% CI & $\Delta$ & chrF \\",
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            rf"\caption{{{_escape(caption)}}}",
            r"\end{table}",
            "",
        ]
    )


def _escape(text: str) -> str:
    for letter in "&%$#_{}":
        text = text.replace(letter, "\\" + letter)
    return text


def _mean(row: Row, key: str) -> float:
    return statistics.fmean(run["scores"][key] for run in row.runs)


def _speed(row: Row) -> float | None:
    key = "sentences_per_second"
    return _mean(row, key) if all(key in run["scores"] for run in row.runs) else None
