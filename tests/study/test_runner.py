"""Doing a run: what counts as done, what is made again, who may do it."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fairseq
import pytest
import studies
import torch
import yaml

from fairseq_dsp.errors import UserError
from fairseq_dsp.files import PACKAGE, read_json, write_json
from fairseq_dsp.study import local, runner
from fairseq_dsp.study.cluster import Job
from fairseq_dsp.study.local import Local, run_locally
from fairseq_dsp.study.lock import locked
from fairseq_dsp.study.nodes import Nodes
from fairseq_dsp.study.results import read_results
from fairseq_dsp.study.runner import RunError, execute, is_done, missing_steps, progress, with_wanted
from fairseq_dsp.study.runs import Run
from fairseq_dsp.study.steps import Step


def shell(folder: Path, name: str, script: str, products: str, inputs: str = "", **fields: Any) -> Step:
    """A step that runs a script of the shell in the run's folder; products and inputs are words."""
    paths = [tuple(folder / word for word in words.split()) for words in (products, inputs)]
    return Step(name, ("sh", "-c", f"cd {folder} && {script}"), paths[0], paths[1], **fields)


def chain(results: Path, name: str, *needs: Run, train: str = "echo model > model") -> Run:
    """A run of three steps, each of which reads what the one before it wrote."""
    folder = results / name
    start = " ".join(str(run.folder / "model") for run in needs)
    steps = (
        shell(folder, "train", f"cat {start or '/dev/null'} > /dev/null && {train}", "model", start),
        shell(folder, "compact", "cat model > compact", "compact", "model"),
        shell(folder, "evaluate", "cat compact > scores", "scores", "compact"),
    )
    identity = {"name": name, "options": None, "recovery": None, "start": None, "teacher": None, "checkpoint": "best"}
    return Run(name, name, "joint", 3, 1, folder, tuple(run.name for run in needs), steps, identity, scored=False)


def done(run: Run) -> list[str]:
    """The steps that were started, in order."""
    log = run.folder / "log.txt"
    lines = log.read_text().splitlines() if log.exists() else []
    return [step.name for line in lines for step in run.steps if line == f"$ {' '.join(step.command)}"]


def remove(run: Run, *names: str) -> None:
    """Remove files of a run."""
    for name in names:
        (run.folder / name).unlink()


def test_a_command_that_ends_well_without_its_product_has_failed(tmp_path: Path) -> None:
    run = chain(tmp_path, "one", train="echo nothing to save")
    for _ in range(2):
        with pytest.raises(
            RunError, match=rf"train succeeded, but did not write {run.folder}/model; the end of .*\n.*save"
        ):
            execute(run)
        assert not is_done(run)
    assert done(run) == ["train", "train"]


def test_each_step_is_done_once_and_what_was_removed_is_made_again_if_needed(tmp_path: Path) -> None:
    run = chain(tmp_path, "one")
    execute(run)
    assert done(run) == ["train", "compact", "evaluate"]
    remove(run, "model", "compact", "scores")
    assert missing_steps(run) == []  # the result is there
    execute(run)
    assert len(done(run)) == 3
    remove(run, "result.json")
    assert missing_steps(run) == list(run.steps)
    assert progress(run) == 0
    execute(run)
    assert done(run)[3:] == ["train", "compact", "evaluate"]
    remove(run, "result.json", "model", "compact")  # the scores are there
    execute(run)
    assert len(done(run)) == 6
    remove(run, "result.json", "scores")  # they need the compact model, which needs the other
    execute(run)
    assert done(run)[6:] == ["train", "compact", "evaluate"]
    remove(run, "result.json", "model", "scores")
    execute(run)
    assert done(run)[9:] == ["evaluate"]


def test_what_another_run_needs_is_made_again(tmp_path: Path) -> None:
    base = chain(tmp_path, "base")
    first, second = chain(tmp_path, "first", base), chain(tmp_path, "second", base)
    for run in with_wanted([base, first]):
        execute(run)
    result = (base.folder / "result.json").read_text()
    remove(base, "model", "compact")
    assert [is_done(run) for run in with_wanted([base, first])] == [True, True]  # nobody needs it
    runs = with_wanted([base, first, second])
    assert [is_done(run) for run in runs] == [False, True, False]
    assert locally([runs[0], runs[2]], done={"first"}) == []
    assert all(map(is_done, runs))
    assert done(base)[3:] == ["train"]  # not scored again
    assert (base.folder / "result.json").read_text() == result
    remove(base, ".train.done")  # as if it was killed while it was made again, half done
    assert not is_done(with_wanted([base, replace(second, name="third", folder=tmp_path / "third")])[0])
    execute(runs[0])
    remove(second, "result.json", "scores")
    remove(base, "model")
    assert is_done(with_wanted([base, second])[0])  # the second has its own model
    remove(second, "compact", "model")
    assert not is_done(with_wanted([base, second])[0])


def test_what_a_run_was_made_from_is_noted(tmp_path: Path) -> None:
    """With what that was made from, and as it was when it was read."""

    def noted(run: Run) -> dict[str, str]:
        found: dict[str, str] = read_json(run.folder / "run.json").get("files", {})
        return {name: content[:4] for name, content in found.items()}

    base = chain(tmp_path, "base")
    middle = chain(tmp_path, "middle", base)
    last = chain(tmp_path, "last", middle)
    for run in (base, middle, last):
        execute(run)
    one, two = (hashlib.sha256(f"{text}\n".encode()).hexdigest()[:4] for text in ("model", "other"))
    assert noted(base) == {}
    assert noted(middle) == {"base/model": one}
    assert noted(last) == {"base/model": one, "middle/model": one}
    (base.folder / "model").write_text("other\n")
    remove(last, "result.json")  # it is scored again, and has the model that it had
    execute(last)
    assert noted(last) == {"base/model": one, "middle/model": one}
    remove(middle, "result.json", "model", "compact", "scores")
    execute(middle)
    assert noted(middle) == {"base/model": two}
    again = tuple(replace(step, inputs=(*step.inputs, base.folder / "model")) for step in middle.steps)
    middle = replace(middle, steps=again)  # it reads the base in each step, once the one, then the other
    remove(middle, "result.json", "scores")
    (base.folder / "model").write_text("model\n")
    execute(middle)
    both = read_json(middle.folder / "run.json")["files"]["base/model"].split(" and ")
    assert {content[:4] for content in both} == {one, two}


def locally(
    runs: list[Run],
    *,
    done: set[str] | None = None,
    tick: Callable[[list[str]], None] = lambda said: None,
    say: Callable[[str], None] = lambda text: None,
) -> list[str]:
    """Do runs one at a time; return what was said, failures included."""
    said: list[str] = []

    def also(text: str) -> None:
        said.append(text)
        say(text)

    run_locally(
        runs, Local(1, 1), done=set() if done is None else done, tick=lambda: tick(said),
        failed=lambda run, why: also(f"{run.name} failed: {why}"), say=also,
    )  # fmt: skip
    return said


def save(run: Run, name: str, updates: int, **state: Any) -> None:
    """Write a checkpoint as fairseq would."""
    folder = run.folder / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    history = [{"num_updates": updates, "lr_scheduler_state": {}, "optimizer_name": "Adam", "criterion_name": "C"}]
    content = {"args": None, "cfg": None, "model": {}, "optimizer_history": history, "extra_state": {"epoch": 1}}
    torch.save(content | {"last_optimizer_state": {"state": 1}} | state, folder / f"checkpoint_{name}.pt")


def training(results: Path, *words: str) -> Run:
    """A run of one training of 20 updates that leaves a best checkpoint, and says with which checkpoints it began."""
    folder = results / "one"
    (folder / "checkpoints").mkdir(parents=True)
    script = "mkdir -p checkpoints; echo began with: $(ls checkpoints).; echo best > checkpoints/checkpoint_best.pt"
    step = shell(folder, "train", script, "checkpoints/checkpoint_best.pt", updates=20)
    step = replace(step, checkpoints=folder / "checkpoints", command=(*step.command, *words))
    return replace(chain(results, "one"), steps=(step,))


@pytest.mark.parametrize(
    ("updates", "state", "words", "began", "aside"),
    [
        (12, {}, (), "checkpoint_last.pt", False),  # interrupted: it goes on
        (12, {"last_optimizer_state": None}, (), "", True),
        (12, {}, ("--reset-optimizer",), "", True),
        (20, {}, (), "", True),  # it ended, but the best one was removed
    ],
)
def test_checkpoints_that_a_training_cannot_go_on_from_are_set_aside(
    tmp_path: Path, updates: int, state: dict[str, Any], words: tuple[str, ...], began: str, aside: bool
) -> None:
    run = training(tmp_path, *words)
    save(run, "last", updates, **state)
    execute(run)
    assert f"began with: {began}.\n" in (run.folder / "log.txt").read_text()
    assert (run.folder / "checkpoints.1/checkpoint_last.pt").exists() == aside


def test_a_training_that_had_ended_is_not_started_again(tmp_path: Path) -> None:
    run = training(tmp_path)
    save(run, "best", 18)
    save(run, "last", 20)
    execute(run)
    assert done(run) == []
    # it stopped early, of its own accord; the best checkpoint was removed, and the training would go on from the last
    remove(run, "result.json", "checkpoints/checkpoint_best.pt")
    save(run, "last", 12)
    execute(run)
    assert "began with: .\n" in (run.folder / "log.txt").read_text()


def test_a_checkpoint_that_cannot_be_read_is_the_fault_of_that_run_alone(tmp_path: Path) -> None:
    run = training(tmp_path)
    (run.folder / "checkpoints/checkpoint_last.pt").write_text("half")
    told = r"checkpoint_last\.pt cannot be read .*: remove the folder .*checkpoints to train it again"
    with pytest.raises(RunError, match=told):
        execute(run)
    torch.save({"model": {}}, run.folder / "checkpoints/checkpoint_last.pt")
    with pytest.raises(RunError, match=told):
        execute(run)


def test_a_run_that_another_process_is_at_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "PAUSE", 0.05)
    run, other = chain(tmp_path, "one"), chain(tmp_path, "other")
    finished: set[str] = set()
    with contextlib.ExitStack() as lock:
        lock.enter_context(locked(run.folder / runner.LOCK))

        def tick(said: list[str]) -> None:
            if said and is_done(other):  # which did not wait
                lock.close()

        said = locally([run, other], done=finished, tick=tick)
    assert finished == {"one", "other"}
    assert said == [f"run one: waiting for process {os.getpid()} on {os.uname().nodename}, which is doing it"]
    assert done(run) == ["train", "compact", "evaluate"]


SLOW = "while ! test -e go; do sleep 0.1; done; touch model"


def execute_without_setpriv(results: Path) -> None:
    """Do the run ``one`` as on a system where commands do not die with their sweep."""
    runner._dying_with_us = list
    execute(chain(results, "one", train=SLOW))


def test_a_run_is_done_once_by_two_processes(tmp_path: Path) -> None:
    """The second is started while a command of the first, which was killed, goes on."""
    run = chain(tmp_path, "one", train=SLOW)
    first = multiprocessing.get_context("fork").Process(target=execute_without_setpriv, args=(tmp_path,))
    first.start()
    try:
        while not done(run) and first.is_alive():
            time.sleep(0.05)
        first.kill()
        first.join()
        said = locally([run], say=lambda text: (run.folder / "go").touch())
    finally:
        first.kill()
        (run.folder / "go").touch()
    assert said == [f"run one: waiting for process {first.pid} on {os.uname().nodename}, which is doing it"]
    assert is_done(run)


@pytest.mark.slow
def test_two_copies_of_a_job_do_a_run_once(tmp_path: Path) -> None:
    """As when a job has two tasks; the one that comes second waits for the other."""
    run = chain(tmp_path, "one", train="sleep 0.3; touch model")
    job = Job(run, {}, Nodes(1))
    copies = [multiprocessing.get_context("fork").Process(target=job) for _ in range(2)]
    for copy in copies:
        copy.start()
    for copy in copies:
        copy.join()
    assert [copy.exitcode for copy in copies] == [0, 0]
    assert done(run) == ["train", "compact", "evaluate"]


def test_a_cleaned_up_study_goes_on(
    finished: tuple[Path, Any], tmp_path: Path, write_study: Callable[..., Path], dsp: Callable[..., Any],
    table: Callable[..., str], capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """All checkpoints and a result are removed; what is made again is what it was."""
    results = tmp_path / "results"
    shutil.copytree(finished[0] / "results", results)
    shutil.rmtree(results / "runs/broken-k6-s1")
    for path in (*results.glob("runs/*/*/*.pt"), *results.glob("runs/*/*.pt")):
        path.unlink()
    only = ["base-s1", "joint-k6-s1", "michel-k6-s1"]
    before, base = table(results, only), (results / "runs/base-s1/result.json").read_text()
    (results / "runs/michel-k6-s1/result.json").unlink()
    (results / "runs/michel-k6-s1/translations.txt").unlink()
    (results / "references.txt").unlink()
    (results / "study.json").write_text("{")
    study = write_study(methods=yaml.safe_load((finished[0] / "study.yaml").read_text())["methods"][:3])
    studies.plan(study, results)
    assert capsys.readouterr().out.count("fairseq_cli.train") == 1  # the unpruned model, for the third run
    dsp("sweep", study, "--results", results, "--jobs", 1, "--cores", 1)
    assert table(results, only) == before
    assert (results / "runs/base-s1/result.json").read_text() == base
    assert read_results(results).mixture == ""  # which compares the weights
    assert not (results / "runs/joint-k6-s1/checkpoints/checkpoint_best.pt").exists()


def test_a_broken_result_is_the_fault_of_one_file(tmp_path: Path) -> None:
    run = replace(chain(tmp_path, "one"), scored=True)
    write_json(run.folder / "scores.json", [])
    with pytest.raises(RunError, match=r"scores\.json .* remove it"):
        execute(run)


def test_what_another_process_did_in_another_way_is_refused(tmp_path: Path) -> None:
    """As a job does that was queued before the study was changed."""
    before = chain(tmp_path, "one")
    before = replace(before, identity=before.identity | {"seed": 1})
    execute(before)
    execute(before)
    changed = replace(before, identity=before.identity | {"seed": 2})
    with pytest.raises(UserError, match=r"one holds results of another study.*seed 1, now 2"):
        execute(changed)


def test_steps_run_the_code_that_runs_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that of another checkout, or of fairseq's source, which a sweep is started in."""
    for package in ("fairseq_dsp", "fairseq"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", *filter(None, [os.environ.get("PYTHONPATH")]), ""]))
    find = "import sys; from importlib.util import find_spec; print(*(find_spec(n).origin for n in sys.argv[2:]), "
    model = tmp_path / "run/model"
    command = (sys.executable, "-c", find + "file=open(sys.argv[1], 'w'))", str(model), "fairseq_dsp", "fairseq")
    execute(replace(chain(tmp_path, "run"), steps=(Step("train", command, (model,)),)))
    assert model.read_text() == f"{PACKAGE / '__init__.py'} {fairseq.__file__}\n"
