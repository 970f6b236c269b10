"""A prepared corpus and studies on it that train in seconds."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import sys
from argparse import ArgumentParser
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import made_up as made
import pytest
import support
import yaml
from quick_python import quick_python

from fairseq_dsp.cli import main
from fairseq_dsp.report.tables import table_lines, to_csv
from fairseq_dsp.study import pruned_models
from fairseq_dsp.study.results import Results, read_results
from fairseq_dsp.study.runs import Run

TINY_RECIPE = {
    "arch": "transformer_dsp_tiny", "encoder-layers": 2, "decoder-layers": 2, "encoder-embed-dim": 16,
    "decoder-embed-dim": 16, "encoder-ffn-embed-dim": 32, "decoder-ffn-embed-dim": 32, "encoder-attention-heads": 2,
    "decoder-attention-heads": 2, "dropout": 0.1, "optimizer": "adam", "lr": 0.005, "lr-scheduler": "inverse_sqrt",
    "warmup-updates": 4, "label-smoothing": 0.1, "max-tokens": 400, "max-update": 20, "log-interval": 5,
}  # fmt: skip


@pytest.fixture(scope="session")
def tiny_recipe() -> dict[str, Any]:
    """The recipe of `write_study`."""
    return TINY_RECIPE


@pytest.fixture(scope="session")
def write_study_to(prepared: Path) -> Callable[..., Path]:
    """``write_study_to(FOLDER, heads=[6], methods=[…])`` writes a study of the tiny corpus and returns its path."""

    def write_study_to(folder: Path, **changes: Any) -> Path:
        content = {
            "name": "tiny", "data": str(prepared), "recipe": TINY_RECIPE, "heads": [6], "methods": ["joint"],
            "evaluate": {"beam": 1}, **changes,
        }  # fmt: skip
        path = folder / "study.yaml"
        path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}), encoding="utf-8")
        return path

    return write_study_to


@pytest.fixture
def write_study(tmp_path: Path, write_study_to: Callable[..., Path]) -> Callable[..., Path]:
    """The same into the test's own folder."""
    return functools.partial(write_study_to, tmp_path)


@pytest.fixture(scope="session")
def dsp() -> Callable[..., Any]:
    """``dsp("sweep", STUDY, …, check=False)`` runs ``fairseq-dsp``; see `support.run_command`."""

    def dsp(*args: object, **options: Any) -> Any:
        return support.run_command([quick_python(), "-m", "fairseq_dsp.cli", *args], **{"timeout": 900, **options})

    return dsp


@pytest.fixture
def quick_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a command in this process starts is quick, too, and the speed of models is measured once."""
    be_quick(monkeypatch)


def be_quick(patch: pytest.MonkeyPatch) -> None:
    """The same for a fixture that lives longer."""
    patch.setattr(sys, "executable", quick_python())
    patch.setattr(pruned_models, "TURNS", 1)
    patch.setattr(pruned_models, "BATCH", 2)


def plan(study: Path, results: Path) -> None:
    """What ``fairseq-dsp sweep STUDY --results RESULTS --dry-run`` does, in this process, with its errors."""
    from fairseq_dsp.study import sweep

    parser = ArgumentParser()
    sweep.add_arguments(parser)
    sweep.run(parser.parse_args([str(study), "--results", str(results), "--jobs", "1", "--cores", "1", "--dry-run"]))


METHODS: list[Any] = [
    "joint",
    {"method": "pipelined", "options": {"max-update": 6}, "recovery": {"max-update": 6}},
    {"method": "michel", "options": {"steps": 2}},
    {"method": "joint", "name": "broken", "options": {"max-tokens": 1}},
]


@pytest.fixture(scope="session")
def finished(
    tmp_path_factory: pytest.TempPathFactory, write_study_to: Callable[..., Path], dsp: Callable[..., Any]
) -> tuple[Path, Any]:
    """A sweep that ran straight through: the folder of its study and results, and what it printed."""
    folder = tmp_path_factory.mktemp("finished")
    write_study_to(folder, methods=METHODS)
    done = dsp("sweep", folder / "study.yaml", "--results", folder / "results", "--jobs", 2, "--cores", 1, check=False)
    return folder, done


@pytest.fixture(scope="session")
def table() -> Callable[..., str]:
    """``table(RESULTS, [RUN, …])``: what interruptions must not change: table, heads, translations."""

    def table(results: Path, only: Sequence[str] | None = None) -> str:
        read = read_results(results)
        read.runs[:] = sorted(
            (run for run in read.runs if only is None or run["run"] in only), key=lambda run: run["run"]
        )
        paths = [results / "runs" / run["run"] / "translations.txt" for run in read.runs]
        texts = sorted(f"{path.parent.name}: {path.read_text()}" for path in paths)
        kept = [json.dumps(run["scores"]["kept"]) for run in read.runs]
        return to_csv(table_lines(read, read.bootstrap())) + "\n".join(kept + texts)

    return table


@pytest.fixture(scope="session")
def methods() -> list[Any]:
    """The methods of the sweep `finished`; the last one cannot be trained."""
    return METHODS


@pytest.fixture(scope="session")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Results of an unpruned model and two methods that nobody trained."""
    return made.write(tmp_path_factory.mktemp("made-up"))


def do(run: Run) -> None:
    """Do the steps of a run: trainings by `run_fairseq`, all else in this process."""
    run.folder.mkdir(parents=True)
    for step in run.steps:
        if step.checkpoints:
            support.run_fairseq("train", *step.command[3:])
        else:
            with contextlib.redirect_stdout(io.StringIO()):
                assert main(step.command[3:]) == 0, step.command
        assert all(product.exists() for product in step.products), step.command
