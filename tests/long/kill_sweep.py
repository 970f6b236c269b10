"""Kill a sweep at random, again and again, and compare its table with that of a sweep that was left alone.

    python tests/long/kill_sweep.py [STUDY] [--data DATA] [--kills 10] [--jobs 2] [--out FOLDER]

Both sweeps run with one thread a run. Each kill is a SIGKILL of the sweep, at a moment drawn evenly from twice the time
that the first sweep took, divided by the number of kills; there are more kills if some kind of step (training,
compaction, evaluation …) was not hit by then. Compared are the table (scores, heads, parameters), the heads kept and
every translation; times are not.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fairseq_dsp.report.tables import table_lines, to_csv
from fairseq_dsp.study.results import read_results, summary_table
from fairseq_dsp.study.runner import is_done
from fairseq_dsp.study.runs import LOG, Run, expand
from fairseq_dsp.study.study_file import read_study


def outcome(results: Path) -> dict[str, str]:
    """What must be the same."""
    read = read_results(results)
    found = {p.parent.name: p.read_text(encoding="utf-8") for p in results.glob("runs/*/translations.txt")}
    found |= {f"heads of {run['run']}": json.dumps(run["scores"]["kept"]) for run in read.runs}
    return found | {"table": to_csv(table_lines(read, read.bootstrap()))}


def log_sizes(runs: list[Run]) -> dict[str, int]:
    """The sizes of the runs' logs, which grow with the start of every step."""
    return {run.name: log.stat().st_size if (log := run.folder / LOG).exists() else 0 for run in runs}


def interrupted(runs: list[Run], before: dict[str, int]) -> dict[str, str]:
    """The step that each run was at when it was killed, by the run's name.

    :param before: the sizes of the logs when the sweep was started.
    """
    sizes, found = log_sizes(runs), {}
    for run in runs:
        left = [step.name for step in run.steps if not (run.folder / f".{step.name}.done").exists()]
        if left and sizes[run.name] > before[run.name]:
            found[run.name] = left[0]
    return found


def main() -> int:
    """Run the proof; 0 if the tables agree."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", nargs="?", default=str(Path(__file__).with_name("kill-sweep.yaml")))
    parser.add_argument("--data")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    out = args.out or Path(tempfile.mkdtemp())
    out.mkdir(parents=True, exist_ok=True)
    draw = random.Random(args.seed)

    def command(results: Path) -> list[str]:
        words = [sys.executable, "-m", "fairseq_dsp.cli", "sweep", args.study, "--results", str(results)]
        return [*words, "--jobs", str(args.jobs), "--cores", "1", *(["--data", args.data] if args.data else [])]

    start = time.monotonic()
    with (out / "straight.log").open("wb") as log:
        subprocess.run(command(out / "straight"), check=True, stdout=log, stderr=log)
    whole = time.monotonic() - start
    print(f"left alone: {whole:.0f} s", flush=True)
    runs = expand(read_study(args.study, data=args.data), out / "killed")
    kills, hits = 0, dict.fromkeys((step.name for run in runs for step in run.steps), 0)
    with (out / "killed.log").open("wb") as log:
        while kills < args.kills or not all(hits.values()):
            before = log_sizes(runs)
            process = subprocess.Popen(command(out / "killed"), stdout=log, stderr=log)
            # each start costs some seconds before it gets anywhere, and the kills are to be spread over the sweep
            pause = draw.uniform(0, 2 * max(whole / args.kills, 10))
            try:
                status = process.wait(pause)
                print(f"finished after {kills} kills, with status {status}", flush=True)
                break
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                at = interrupted(runs, before)
                for step in set(at.values()):
                    hits[step] += 1
                where = ", ".join(f"{step} of {run}" for run, step in at.items()) or "no step begun"
                print(f"kill {kills} after {pause:.1f} s; {sum(map(is_done, runs))} runs done; {where}", flush=True)
        subprocess.run(command(out / "killed"), check=True, stdout=log, stderr=log)
    one, other = outcome(out / "straight"), outcome(out / "killed")
    differing = [name for name in {*one, *other} if one.get(name) != other.get(name)]
    print(summary_table(read_results(out / "killed")))
    print("kills that hit a step: " + ", ".join(f"{step} {number}" for step, number in hits.items()))
    print(f"{kills} kills; compared: {len(one)}; different: {', '.join(differing) or 'none'}")
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
