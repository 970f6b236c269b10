"""Tables and pictures of a study, from the results that `fairseq-dsp sweep` wrote to RESULTS.

Written to RESULTS/report: report.html (one file, opens from the disk), report.md with its pictures, table.csv, and
table.tex for a paper (booktabs). A sweep that is still running can be reported too: the page and table.tex say which
runs are missing, table.csv how many.

The table has, for each method and number of heads K, the validation loss (not in table.tex); the mean BLEU, or
accuracy, over the seeds, its standard deviation and its 95% confidence interval, over seeds and test sentences; and the
difference from the unpruned model of the same seed with its interval and its two-sided p-value, alone and corrected
for the number of comparisons in the table (Holm). With one seed an interval covers the test sentences only: it is
marked with †. Choose on the validation set, by its loss or by a score there, not by the test set.

--pack FILE writes all that a report needs into one small JSON file without text; RESULTS may be such a file. --against
NAME compares every method with the method NAME in the same way, at the same number of heads or share of the cost.

examples:
  fairseq-dsp report results/quickstart
  fairseq-dsp report results/multi30k --against joint --out multi30k-report
  fairseq-dsp report results/multi30k --pack multi30k.json
  fairseq-dsp report multi30k.json
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import UserError
from ..files import write_text
from ..study.packed_results import pack, unpack
from ..study.results import read_results, summary_table
from .pages import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument(
        "results", metavar="RESULTS", type=Path, help="the folder of a sweep's results, or a packed file"
    )
    parser.add_argument(
        "--out", metavar="DIR", type=Path, help="where to write (default: RESULTS/report; of a file, NAME-report)"
    )
    parser.add_argument("--pack", metavar="FILE", type=Path, help="also write the results into this JSON file")
    parser.add_argument(
        "--against", metavar="NAME", help="also compare with this method (default: the study's key compare, if any)"
    )


def run(args: argparse.Namespace) -> None:
    """Write the report.

    :raises UserError: if there are no results, or the report cannot be written.
    """
    results = read_results(args.results)
    if not results.runs:
        raise UserError(f"{args.results} has no finished run yet: run the sweep or prune that made it again")
    if args.pack and args.pack.is_file():
        unpack(args.pack)  # raises if it is somebody's file
    beside = (
        args.results.with_name(f"{args.results.stem}-report") if args.results.is_file() else args.results / "report"
    )
    out: Path = args.out or beside
    write_report(results, out, args.against or results.study.get("compare"))
    print(summary_table(results))
    written = [out / name for name in ("report.html", "report.md", "table.csv", "table.tex")]
    if args.pack:
        write_text(args.pack, pack(results))
        written.append(args.pack)
    print(f"\nwritten: {', '.join(map(str, written))}")
