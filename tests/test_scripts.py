"""What the scripts share: which Python they use, with how many threads, and which torch they leave in place."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import REPOSITORY, mostly_slow


def environment(folder: Path, *files: str) -> Path:
    """A folder like a virtual environment, with programs that do nothing."""
    for name in ("bin/python", *files):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return folder


def bash(script: str, *words: object, **variables: str) -> str:
    """Run a script of bash in the repository, in no environment and with no threads asked for; return its output."""
    chosen = {"PYTHON", "VIRTUAL_ENV", "CONDA_PREFIX", "OMP_NUM_THREADS", "GOMP_SPINCOUNT"}
    kept = {name: value for name, value in os.environ.items() if name not in chosen}
    done = subprocess.run(
        ["bash", "-c", script, "test", *map(str, words)], cwd=REPOSITORY, env={**kept, **variables},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


SCRIPTS = sorted({path.name for path in (REPOSITORY / "scripts").glob("*.sh")} - {"common.sh"})


@pytest.mark.parametrize("script", mostly_slow(SCRIPTS, "test.sh", "train.sh"))
def test_a_script_that_is_given_to_another_shell_goes_on_in_bash(script: str) -> None:
    said = bash(f'sh "scripts/{script}" --help')
    assert said == bash(f'"scripts/{script}" --help')
    assert f"scripts/{script}" in said or f"fairseq-dsp {Path(script).stem}" in said


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
@pytest.mark.parametrize(
    ("files", "own"),
    [(["bin/fairseq-dsp"], True), ([], False), (["bin/fairseq-dsp", ".installed"], True)],
)
def test_an_active_environment_with_the_package_is_used(
    variable: str, files: list[str], own: bool, tmp_path: Path
) -> None:
    active = environment(tmp_path / "env", *files)
    script = 'source scripts/common.sh; ensure_venv() { :; }; ROOT=$1; find_python; echo "$PYTHON"'
    root = environment(tmp_path / "root/.venv").parent
    used = bash(script, root, **{variable: str(active)})
    assert used == str((active if own else root / ".venv") / "bin/python")


def test_an_environment_of_the_users_making_is_not_installed_into(tmp_path: Path) -> None:
    """As README.md has it made, in a terminal where it is not active; one that is half made is installed into."""
    script = 'source scripts/common.sh; ensure_venv() { echo installing; }; ROOT=$1; find_python; echo "$PYTHON"'
    ours = ["bin/fairseq-dsp", ".installed"]
    for files, before in ((["bin/fairseq-dsp"], ""), ([], "installing\n"), (ours, "installing\n")):
        venv = environment(tmp_path / str(len(files)) / ".venv", *files)
        assert bash(script, venv.parent) == f"{before}{venv}/bin/python"


def fake_python(path: Path, *lines: str) -> Path:
    """A program in Python's place that does what the lines of shell say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/bash", *lines]) + "\n")
    path.chmod(0o755)
    return path


def test_scripts_that_train_or_translate_use_all_cores_and_those_that_start_a_process_a_core_do_not(
    tmp_path: Path,
) -> None:
    python = fake_python(
        tmp_path / "bin/python",
        "[[ $1 != - ]] || { echo de en data-bin; exit; }",
        '[[ $1 == -c && $2 != *fairseq_cli.train* ]] || echo "${OMP_NUM_THREADS-all}"',
    )
    (tmp_path / "prepare.json").write_text("{}")
    threads = {
        name: bash(f'scripts/{name}.sh "$@"', tmp_path, tmp_path / "out", PYTHON=str(python))
        for name in ("train", "prune", "evaluate", "preprocess", "sweep")
    }
    assert threads == {"train": "all", "prune": "all", "evaluate": "all", "preprocess": "1", "sweep": "1"}
    asked = bash('scripts/train.sh "$@"', tmp_path, tmp_path / "out", PYTHON=str(python), OMP_NUM_THREADS="3")
    assert asked == "3"


@pytest.mark.parametrize(
    ("choice", "gone"),
    [
        (["--optimizer", "sgd"], "--adam-betas"),
        (["--criterion=cross_entropy"], "--label-smoothing"),
        (["--lr-scheduler", "tri_stage"], "--warmup-updates"),
        (["--optimizer", "sgd", "--optimizer", "adam", "--lr-scheduler", "cosine"], None),
        (["--criterion", "label_smoothed_cross_entropy"], None),
    ],
)
def test_the_recipe_of_train_fits_other_choices(choice: list[str], gone: str | None, tmp_path: Path) -> None:
    python = fake_python(tmp_path / "bin/python", "[[ $1 != - ]] || { echo de en data-bin; exit; }", 'echo "$*"')
    (tmp_path / "prepare.json").write_text("{}")
    said = bash('scripts/train.sh "$@"', tmp_path, tmp_path / "out", *choice, PYTHON=str(python))
    options = {"--adam-betas (0.9,0.98)", "--label-smoothing 0.1", "--warmup-updates 4000", "--dropout 0.3"}
    assert {option for option in options if option not in said} == {o for o in options if o.split()[0] == gone}


@pytest.mark.parametrize(
    ("summary", "message"),
    [
        ('{"task": "sentence_prediction", "data_bin": "data-bin"}', "holds texts with labels, but this script trains"),
        ('{"data_bin"', "prepare.json is not JSON"),
        ("[]", "prepare.json holds no JSON object"),
        ("{}", "prepare.json lacks bpe, data_bin"),
    ],
)
def test_a_folder_without_translations_is_refused_by_train(summary: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "data-bin").mkdir()
    (tmp_path / "prepare.json").write_text(summary)
    command = [REPOSITORY / "scripts/train.sh", tmp_path, tmp_path / "out"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert message in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parametrize(("theirs", "found"), [({}, "10000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
def test_threads_that_wait_do_not_take_the_cores_of_others(theirs: dict[str, str], found: str) -> None:
    assert bash('source scripts/common.sh; bash -c "echo \\$GOMP_SPINCOUNT"', **theirs) == found


@pytest.mark.parametrize("theirs", ["2.11.0+cu126", "2.13.0+cpu", None])
def test_a_torch_that_is_installed_stays(theirs: str | None, tmp_path: Path) -> None:
    for name in ("setup.py", "pyproject.toml", "constraints.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    fake_python(
        tmp_path / ".venv/bin/python",
        f"if [[ $1 == -c ]]; then {f'echo torch=={theirs}' if theirs else 'exit 1'}; exit; fi",
        "[[ $3 != --version ]] || exit 0",
        f'while [[ $1 != --constraint ]]; do shift; done; cat "$2" >>"{tmp_path}/constraints"',
    )
    pinned = (REPOSITORY / "constraints.txt").read_text(encoding="utf-8")
    (pin,) = [line for line in pinned.splitlines() if line.startswith("torch==")]
    wanted = pinned.replace(pin, f"torch=={theirs}") if theirs and pin != f"torch=={theirs.split('+')[0]}" else pinned
    script = 'source scripts/common.sh; ROOT=$1; ensure_venv ""'
    bash(script, tmp_path)
    assert (tmp_path / "constraints").read_text() == wanted
    bash(script, tmp_path)  # installed: nothing to do
    assert (tmp_path / "constraints").read_text() == wanted
    (tmp_path / "setup.py").write_text("changed")
    bash(script, tmp_path)
    assert (tmp_path / "constraints").read_text() == wanted * 2


def test_an_environment_that_was_not_finished_is_mended(tmp_path: Path) -> None:
    venv = tmp_path / ".venv"
    for name in ("setup.py", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)  # before it had pip
    (venv / "theirs").touch()
    script = 'source scripts/common.sh; ROOT=$1; (ensure_venv "") >&2 || "$ROOT/.venv/bin/python" -m pip --version'
    assert bash(script, tmp_path, PIP_NO_INDEX="1").startswith("pip ")  # there is nothing to install
    assert (venv / "theirs").exists()


@pytest.mark.parametrize("files", [["theirs"], ["theirs", ".installed"]])
def test_an_environment_whose_python_is_not_there_stays(files: list[str], tmp_path: Path) -> None:
    """It may be that of a module that is not loaded, or of another machine."""
    for name in ("setup.py", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).touch()
    venv = environment(tmp_path / ".venv", *files)
    (venv / "bin/python").unlink()
    (venv / "bin/python").symlink_to(tmp_path / "gone")
    script = 'source scripts/common.sh; ROOT=$1; (ensure_venv "") 2>&1 || true'
    assert bash(script, tmp_path).startswith(f"error: {venv}/bin/python does not run here")
    assert (venv / "theirs").exists()


def test_a_python_that_is_given_by_a_relative_path_is_found_from_every_folder(tmp_path: Path) -> None:
    python = fake_python(tmp_path / "bin/python")
    script = 'ROOT=$PWD; cd "$1"; source "$ROOT/scripts/common.sh"; find_python; echo "$PYTHON"'
    assert bash(script, tmp_path, PYTHON="bin/python") == str(python)


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("evaluate", "no.pt", "--data", "none"), "fairseq-dsp evaluate: "),
        (("train", "none", "out"), "error: there is no folder none"),
        (("preprocess", "none", "out"), "usage: fairseq-dsp prepare"),
    ],
)
@pytest.mark.parametrize("path", [None, "/none:"])  # the empty entry is the current folder
def test_a_script_runs_its_own_code_wherever_it_is_called(
    command: tuple[str, ...], said: str, path: str | None, tmp_path: Path
) -> None:
    """Another checkout's code is in the folder, or fairseq's source without its compiled parts."""
    for package, module in (("fairseq_dsp", "errors"), ("fairseq_cli", "train"), ("fairseq", "tasks")):
        (tmp_path / package).mkdir()
        for file in ("__init__", module):
            (tmp_path / package / f"{file}.py").write_text('raise ImportError("the code of another checkout")')
    script = 'scripts=$PWD/scripts; cd "$1"; name=$2; shift 2; "$scripts/$name.sh" "$@" 2>&1 || true'
    variables = {"PYTHON": sys.executable, **({"PYTHONPATH": path} if path else {})}
    assert bash(script, tmp_path, *command, **variables).startswith(said)
