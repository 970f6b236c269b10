"""Sweeps for real: they train, prune, compact and score a tiny model."""

from __future__ import annotations

import fcntl
import json
import resource
import subprocess
import time
from collections.abc import Callable
from csv import DictReader
from pathlib import Path
from typing import Any

import pytest
import studies
import support
from fairseq.checkpoint_utils import load_checkpoint_to_cpu
from quick_python import quick_python

from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError
from fairseq_dsp.files import write_text
from fairseq_dsp.study import sweep
from fairseq_dsp.study.results import read_results
from fairseq_dsp.study.runs import expand
from fairseq_dsp.study.study_file import read_study

SCORED = ["base-s1", "joint-k6-s1", "michel-k6-s1", "pipelined-k6-s1"]


def test_a_failed_run_stops_no_other(finished: tuple[Path, Any]) -> None:
    folder, done = finished
    assert done.returncode == 1
    assert "run broken-k6-s1 failed: train ended with status 1; the end of" in done.stdout
    assert "1 of 5 runs failed (broken-k6-s1)" in done.stdout
    assert "The dataset is empty" in done.stdout  # fairseq says so at the end of the log
    results = read_results(folder / "results")
    assert sorted(run["run"] for run in results.runs) == SCORED
    assert results.missing == ["broken-k6-s1"]


def test_the_results_are_those_of_the_methods(finished: tuple[Path, Any]) -> None:
    runs = {run["run"]: run for run in read_results(finished[0] / "results").runs}
    assert runs["base-s1"]["scores"]["kept"]["kept"] == 12
    for name in SCORED[1:]:
        scores = runs[name]["scores"]
        assert scores["kept"]["kept"] == runs[name]["heads"] == 6
        assert scores["parameters"] < runs["base-s1"]["scores"]["parameters"]  # compact
        assert scores["sentences_per_second"] > 0
    log = (finished[0] / "results/runs/pipelined-k6-s1/log.txt").read_text()
    assert log.count("loaded checkpoint") + log.count("Loaded checkpoint") + log.count("loading pretrained") >= 1


def test_killed_twice_it_ends_with_the_same_table(
    finished: tuple[Path, Any],
    tmp_path: Path,
    write_study: Callable[..., Path],
    dsp: Callable[..., Any],
    table: Callable[..., str],
) -> None:
    folder, _ = finished
    results = tmp_path / "results"
    study = write_study(methods=["joint"])
    arguments = ["sweep", study, "--results", results, "--jobs", 2, "--cores", 1]
    command = [quick_python(), "-m", "fairseq_dsp.cli", *map(str, arguments)]
    kills = 0
    for started in ("train_inner", "done training"):
        deadline = time.monotonic() + 120
        # killed as soon as a log says so: evaluations, of some seconds, are still to come on any machine
        process = subprocess.Popen(
            command, env=support.environment(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        while process.poll() is None and time.monotonic() < deadline:
            logs = [path.read_text() for path in results.glob("runs/*/log.txt")]
            if any(started in log for log in logs):
                break
            time.sleep(0.1)
        kills += process.poll() is None
        process.kill()
        process.wait()
    assert kills == 2
    dsp(*arguments)
    only = ["base-s1", "joint-k6-s1"]
    assert table(results, only) == table(folder / "results", only)


def test_a_finished_sweep_does_nothing_again(finished: tuple[Path, Any], dsp: Callable[..., Any]) -> None:
    folder, _ = finished
    printed = dsp("sweep", folder / "study.yaml", "--results", folder / "results", "--dry-run").stdout
    for name in SCORED:
        assert f"# {name}: done\n" in printed
    assert "# broken-k6-s1\n" in printed


def test_report(finished: tuple[Path, Any], tmp_path: Path, dsp: Callable[..., Any]) -> None:
    printed = dsp("report", finished[0] / "results", "--out", tmp_path).stdout
    assert "unpruned" in printed
    page = (tmp_path / "report.html").read_text()
    assert "Not finished: 1 of 5 runs (broken-k6-s1)" in page
    assert page.count("<svg") == 7  # BLEU, three maps of heads, learning curves of two methods, cost
    assert "http" not in page.replace("http://www.w3.org", "").replace("http://purl.org", "").replace(
        "http://creativecommons.org", ""
    ).replace("https://matplotlib.org", "")
    csv = (tmp_path / "table.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in csv] == ["method", "unpruned", "joint", "pipelined", "michel"]
    values = {line.split(",")[0]: line.split(",") for line in csv}
    for method, training in (("unpruned", "base-s1/checkpoints"), ("joint", "joint-k6-s1/checkpoints"),
                             ("pipelined", "pipelined-k6-s1/recovered")):  # fmt: skip
        state = load_checkpoint_to_cpu(str(finished[0] / "results/runs" / training / "checkpoint_best.pt"))
        loss = float(values[method][values["method"].index("valid_loss")])
        assert loss == pytest.approx(state["extra_state"]["best"], abs=5e-4)  # the log has three decimals
    assert values["michel"][values["method"].index("valid_loss")] == ""  # it was not trained
    assert {row["missing_runs"] for row in DictReader(csv)} == {"1"}
    tex = (tmp_path / "table.tex").read_text()
    assert tex.startswith("% Not finished: 1 of 5 runs (broken-k6-s1).\n%")
    assert "method & heads & seeds & BLEU &" in tex
    assert "\nunpruned & 12 & 1 & $" in tex
    markdown = (tmp_path / "report.md").read_text()
    for picture in ("bleu-heads", "heads-joint", "heads-pipelined", "heads-michel", "learning-joint", "cost"):
        assert f"({picture}.svg)" in markdown
        assert (tmp_path / f"{picture}.svg").stat().st_size > 1000


def test_two_sweeps_at_once(finished: tuple[Path, Any], tmp_path: Path, dsp: Callable[..., Any]) -> None:
    with (tmp_path / ".lock").open("w") as file:
        file.write("process 1 on elsewhere")
        file.flush()
        fcntl.flock(file, fcntl.LOCK_EX)
        done = dsp("sweep", finished[0] / "study.yaml", "--results", tmp_path, check=False)
    assert done.returncode == 1
    assert f"another sweep (process 1 on elsewhere) is running in {tmp_path}" in done.stdout


def test_a_folder_of_another_study(
    finished: tuple[Path, Any], tmp_path: Path, write_study: Callable[..., Path]
) -> None:
    results = finished[0] / "results"
    with pytest.raises(UserError, match="holds the study tiny, not other"):
        studies.plan(write_study(name="other"), results)
    with pytest.raises(UserError, match=r"joint-k6-s1 holds results of another study.*\(lr \[0.005\], now \[0.1\]\)"):
        studies.plan(write_study(methods=[{"method": "joint", "options": {"lr": 0.1}}]), results)
    identity = tmp_path / "results/runs/base-s1/run.json"
    write_text(identity.parents[2] / "study.json", '{"name": "tiny"}')
    results = tmp_path / "results"
    for content, message in (
        ("[1]", "holds no JSON object"),
        ("{", "is not JSON"),
        ('{"seed": 7}', "was not written by a sweep"),
    ):
        write_text(identity, content)
        with pytest.raises(UserError, match=message):
            studies.plan(write_study(), results)
    with pytest.raises(UserError, match="was not written by a sweep"):
        read_results(results)
    with pytest.raises(UserError, match=r"run\.json is not a folder"):
        studies.plan(write_study(), identity)
    with pytest.raises(UserError, match="not empty, and no sweep made it"):
        studies.plan(write_study(), finished[0])
    (tmp_path / "killed").mkdir()
    for left in (".lock", ".study.json.0123456789ab-7-89abcdef.tmp"):
        (tmp_path / "killed" / left).touch()
    studies.plan(write_study(), tmp_path / "killed")


def test_what_divides_this_machine_does_not_divide_a_cluster(
    write_study: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", str(write_study()), "--slurm", "--jobs", "2", "--gpus", "0"]) == 1
    told = capsys.readouterr().err
    assert "--slurm is given with --jobs, --gpus, which divides this machine: leave one out; the study's slurm" in told


def test_references_are_those_of_the_text_that_is_scored(write_study: Callable[..., Path], tmp_path: Path) -> None:
    """Also where they could not be written when the study was: the same command mends it."""
    results = tmp_path / "results"
    results.mkdir()
    for split in ("test", "valid"):
        study = read_study(write_study(evaluate={"split": split, "beam": 1}))
        runs = expand(study, results)
        sweep.write_study(results, study, runs)
        before = (results / "references.txt").read_bytes()
        assert before.decode().splitlines() == list(study.data.references(split))
        (results / "references.txt").write_text("those of another text\n")
        sweep.write_study(results, study, runs)
        assert (results / "references.txt").read_bytes() == before
    noted = json.loads((results / "study.json").read_text())
    assert noted["labels"] == {run.name: run.label for run in runs}


def test_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_text(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"result\.json cannot be written"):
            write_text(path, "new" * 1000)
        resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
        with pytest.raises(UserError, match=r"study\.json cannot be written"), sweep.alone(tmp_path / "results"):
            write_text(tmp_path / "results/study.json", "{}")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert sorted(str(entry.relative_to(tmp_path)) for entry in tmp_path.rglob("*.*")) == [
        "result.json",
        "results/.lock",
    ]
    assert path.read_text() == "old"


def test_evaluate(finished: tuple[Path, Any], prepared: Path, tmp_path: Path, dsp: Callable[..., Any]) -> None:
    checkpoint = finished[0] / "results/runs/joint-k6-s1/checkpoints/checkpoint_best.pt"
    arguments = ["evaluate", checkpoint, "--data", prepared, "--beam", 1]
    text, scores = tmp_path / "out.txt", tmp_path / "out.json"
    printed = dsp(*arguments, "--translations", text, "--json", scores).stdout
    # the model with masks translates as the compact one of the sweep does
    assert text.read_text() == (finished[0] / "results/runs/joint-k6-s1/translations.txt").read_text()
    (result,) = json.loads(scores.read_text())
    assert f"{result['bleu']['score']:6.2f}   {result['bleu']['signature']}" in printed
    assert (result["sentences"], result["kept"]["kept"], result["heads"]) == (20, 6, 12)
    done = dsp(*arguments, "--heads-to-keep", 13, check=False)
    assert done.returncode == 1
    assert "give a number from 0 to 12" in done.stdout
