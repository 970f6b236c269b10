"""The pages of a report, in Markdown and HTML, with its tables and pictures."""

from __future__ import annotations

import html
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..evaluation.significance import Comparison
from ..files import write_text
from ..markdown import as_text, markdown_table
from ..study.options import SHARES
from ..study.results import Results, stopped
from ..study.titles import BASE, BASE_TITLE
from ..study.training_log import Curve
from . import figures, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 66rem; margin: 0 auto;
       padding: 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.6rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; } p { max-width: 54rem; }
.wide, figure { overflow-x: auto; } figure { margin: 1rem 0; }
figure svg { height: auto; max-width: 50rem; }
table { border-collapse: collapse; font-size: 0.95rem; font-variant-numeric: tabular-nums; white-space: nowrap; }
thead { border-top: 2px solid #1a1a1a; border-bottom: 1px solid #1a1a1a; }
tbody { border-bottom: 2px solid #1a1a1a; } tr.first td { border-top: 1px solid #ccc; }
th, td { padding: 0.15rem 0.6rem; text-align: right; }
th:first-child, td:first-child { text-align: left; position: sticky; left: 0; background: #fff; padding-left: 0; }
td:first-child { white-space: normal; min-width: 8rem; }
.note { color: #555; font-size: 0.9rem; } .missing { border-left: 4px solid #d55e00; padding-left: 0.8rem; }
@media (max-width: 40rem) { figure svg { max-width: 34rem; } }
@media (max-width: 40rem) { table { font-size: 0.85rem; } th, td { padding: 0.15rem 0.4rem; } }
"""

_BUDGETS = {"k": "{} heads", "l": "λ = {}", None: "training"}
_BUDGETS |= {option[0]: f"{{}} of the {what}" for option, what in SHARES.items()}
"""What a training was asked to keep, by the letter of it in a run's name."""


def write_report(results: Results, out: Path, against: str | None = None) -> None:
    """Write all files of a report into the folder *out*.

    :param against: the name of a method that the others are compared with, too.
    """
    found = results.bootstrap()
    lines = tables.table_lines(results, found, against)
    if against and not any(line.to_other for line in lines):
        title = results.titles[against]
        print(f"no method has as many heads as {title}: nothing is compared with it", file=sys.stderr)
        against = None
    parts = _parts(results, lines, found.signature, against)
    pictures = _pictures(results, next((line.score.half for line in lines if line.row.label == BASE), 0.0))
    svgs = {name: (title, figures.svg(figure)) for name, (title, figure) in pictures.items()}
    for name, (_, text) in svgs.items():
        write_text(out / f"{name}.svg", '<?xml version="1.0" encoding="utf-8"?>\n' + text)
    caption = f"{results.study['name']}: {_setting(results)}."
    write_text(out / "table.csv", tables.to_csv(lines, against, missing=len(results.missing)))
    other = against and results.titles[against]
    write_text(out / "table.tex", tables.to_latex(lines, caption, other, note=_missing(results)))
    write_text(out / "report.md", _markdown(results, parts, svgs))
    write_text(out / "report.html", _html(results, parts, svgs))


Table = tuple[str, str, tuple[str, ...], list[list[str]]]
"""Title, explanation, header, body."""


def _parts(results: Results, lines: list[tables.Line], signature: str, against: str | None) -> list[Table]:
    def note(other: str, compared: list[Comparison | None]) -> str:
        return tables.NOTE.format(other=other, count=sum(one is not None for one in compared))

    loss, score, speed = (
        ("in bits per sentence", "Accuracy is the share of right labels, in percent", "forward passes")
        if results.data.classifies
        else ("label-smoothed and in bits per target token", "BLEU is of detokenised text", "beam search")
    )
    parts = [
        (
            f"{_capital(results.title)} against heads",
            f"{_setting(results)}. The validation loss is fairseq's, {loss}, of the checkpoint that is evaluated, if "
            "it was trained at that number of heads: choose on the validation set, by it or by a score there, not by "
            "the test set. "
            f"{score}, the mean over the seeds. "
            + note(
                "the unpruned model" + (", one for all seeds" if results.study.get("given_base") else ""),
                [line.to_base for line in lines],
            )
            + f" {stopped(results.rows())}".rstrip()
            + f" Sentences are resampled by bootstrap. Signature: {signature}",
            tables.header(results.metrics),
            [tables.cells(line) for line in lines],
        ),
        (
            "Size and speed",
            f"Parameters without the importance variables. Speed is of the {speed} in batches, as the sweep "
            "measured it, perhaps beside other runs: a hint, not a benchmark. Updates and training "
            "time include recovery, not what several runs share: the unpruned model that they start from, the one "
            "training of a range, the recovery of more heads of it.",
            (*tables.COST_HEADER, results.title),
            tables.cost_cells(results.rows(), results.metric),
        ),
    ]
    if against:
        other = results.titles[against]
        shares = any(line.row.share for line in lines)
        title = f"Against {other}, at the same number of heads" + (" or share of the cost" if shares else "")
        many = "as many heads" + (" or the same share of the cost" if shares else "")
        text = note(f"{other} with {many}", [line.to_other for line in lines])
        parts.insert(1, (title, text, tables.COMPARISON_HEADER, tables.comparison_cells(lines)))
    return parts


def _pictures(results: Results, half: float) -> dict[str, tuple[str, Figure]]:
    """The pictures by file name, each with its title.

    :param half: half the confidence interval of the unpruned model's score.
    """
    score = _capital(results.title)
    pictures = {
        f"{results.metric}-heads": (
            f"{score} against the number of heads",
            figures.score_curve(results, half),
        )
    }
    titles = {row.label: row.title for row in results.rows() if row.label != BASE}
    for label, name in titles.items():
        if any(run["label"] == label and run["scores"]["kept"] for run in results.runs):
            pictures[f"heads-{label}"] = f"Heads kept: {name}", figures.head_maps(results, label)
    learning = results.curves()
    falling = sorted(results.runs, key=lambda run: -run["seed"])
    seeds = {run["label"]: run["seed"] for run in falling}  # of each method the least
    of_methods = {label: _curves_of(results, learning, label, seeds[label]) for label in titles}
    drawn = {label: curves for label, curves in of_methods.items() if curves}
    for label, curves in (drawn or {BASE_TITLE: {}}).items():
        seed = seeds[label if drawn else results.runs[0]["label"]]
        unpruned = learning.get(f"{BASE}-s{seed}")
        base = {BASE_TITLE: unpruned} if unpruned else {}
        if base or curves:
            title = f"Learning curves: {titles.get(label, label)}, seed {seed}"
            pictures[f"learning-{label}"] = title, figures.learning(base | curves)
    pictures["cost"] = f"{score} against size and speed", figures.cost(results)
    return pictures


def _curves_of(
    results: Results, learning: dict[str, dict[str, Curve]], label: str, seed: int
) -> dict[str, dict[str, Curve]]:
    """The learning curves of a method, by what distinguishes its trainings: the number of heads, a share, a penalty."""
    found, letters = {}, "".join(filter(None, _BUDGETS))
    for run, curves in learning.items():
        if results.labels.get(run) != label:
            continue
        if match := re.fullmatch(rf"(?:-([{letters}])([\d.e-]+)|-training)?-s{seed}", run.removeprefix(label)):
            kind, number = match.groups()
            found[float(number or 0), kind or ""] = _BUDGETS[kind].format(number), curves
    return {name: curves for _, (name, curves) in sorted(found.items(), reverse=True)}


def _setting(results: Results) -> str:
    data, study = results.study["data"], results.study
    corpus = data.get("corpus", "corpus")
    text = " + ".join(data.get("test_sets", {}).get(part, part) for part in study["split"].split(","))
    if results.data.classifies:
        return f"{corpus}, {text}, a model of {study['total']} heads"
    languages = f"{data['source_lang']}–{data['target_lang']}"
    return f"{corpus}, {languages}, {text}, beam {study['beam']}, a model of {study['total']} heads"


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _missing(results: Results) -> str:
    missing, notes = results.missing, [results.mixture]
    if missing:
        notes.insert(0, f"Not finished: {len(missing)} of {len(results.study['runs'])} runs ({', '.join(missing)}).")
    return " ".join(filter(None, notes))


def _markdown(results: Results, parts: list[Table], pictures: dict[str, tuple[str, str]]) -> str:
    text = [f"# {as_text(results.study['name'])}", as_text(results.study["description"]), _missing(results)]
    for title, note, header, body in parts:
        text += [f"## {title}", markdown_table(header, body), note]
    text += [f"## {title}\n\n![{title}]({name}.svg)" for name, (title, _) in pictures.items()]
    return "\n\n".join(part.strip() for part in text if part) + "\n"


def _html(results: Results, parts: list[Table], pictures: dict[str, tuple[str, str]]) -> str:
    name = html.escape(results.study["name"])
    body = [f"<h1>{name}</h1>", f"<p>{html.escape(results.study['description'])}</p>"]
    if missing := _missing(results):
        body.append(f'<p class="missing">{html.escape(missing)}</p>')
    drawings = [f"<h2>{html.escape(t)}</h2>\n<figure>{_unique(n, s)}</figure>" for n, (t, s) in pictures.items()]
    sections = [
        f"<h2>{html.escape(title)}</h2>\n{tables.to_html(header, rows)}\n<p class='note'>{html.escape(note)}</p>"
        for title, note, header, rows in parts
    ]
    body += [sections[0], drawings[0], *sections[1:], *drawings[1:]]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{_STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def _unique(name: str, svg: str) -> str:
    """An SVG whose ids do not clash with those of the others in one page."""
    return svg.replace('id="', f'id="{name}-').replace("url(#", f"url(#{name}-").replace('href="#', f'href="#{name}-')
