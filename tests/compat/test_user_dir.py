"""``--user-dir fairseq_dsp`` from the repository, from an installed wheel, and when the package is imported already."""

import os
import shutil
import subprocess
import sys
import zipfile
from argparse import Namespace
from pathlib import Path

import fairseq
import pytest
import support
from fairseq import utils

from fairseq_dsp.compat import apply_all, user_dir_imported_twice
from fairseq_dsp.errors import UserError

apply_all()

# Registers the architectures and says from where; the name is asked for the way every fairseq tool asks.
ASK = (
    "from argparse import Namespace; from fairseq import models, utils; "
    "utils.import_user_module(Namespace(user_dir='fairseq_dsp')); import fairseq_dsp, os; "
    "assert 'transformer_dsp' in models.MODEL_REGISTRY; print(os.path.realpath(fairseq_dsp.__file__))"
)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """A copy of the repository, so that building leaves nothing there."""
    source = tmp_path_factory.mktemp("source")
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        if (support.REPOSITORY / name).exists():
            shutil.copy(support.REPOSITORY / name, source)
    for name in ("fairseq_dsp", "data-prep"):
        shutil.copytree(support.REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory) -> Path:
    """A wheel of this package."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    support.run_command([*build, "--wheel-dir", folder, source])
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def site(wheel, tmp_path_factory) -> Path:
    """A folder of installed packages with the wheel in it, and fairseq beside it as in a real one."""
    site = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    support.run_command(install)
    beside = Path(fairseq.__file__).parents[1]
    for name in ("fairseq", "fairseq_cli"):
        shutil.copytree(beside / name, site / name, copy_function=os.symlink, ignore=shutil.ignore_patterns("examples"))
    return site


def ask(code: str, site: Path | None, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run *code* as a console script would: the working folder is not on the path by itself."""
    variables = {"PYTHONPATH": str(site)} if site else {}
    return support.run_command([sys.executable, "-P", "-c", code], cwd=cwd, **variables)


def test_the_wheel_holds_the_package_and_its_configs(source, wheel):
    names = zipfile.ZipFile(wheel).namelist()
    files = [path for ending in ("py", "yaml") for path in source.glob(f"fairseq_dsp/**/*.{ending}")]
    assert {str(path.relative_to(source)) for path in files} <= set(names)
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "data-prep"))]
    (entry,) = [name for name in names if name.endswith("entry_points.txt")]
    assert "fairseq-dsp = fairseq_dsp.cli:main" in zipfile.ZipFile(wheel).read(entry).decode()
    assert [name for name in names if name.endswith("LICENSE")]


@pytest.mark.slow
def test_in_the_repository_with_a_wheel_of_the_same_code(source, site):
    assert ask(ASK, site, source).stdout.endswith(f"{source}/fairseq_dsp/__init__.py\n")


@pytest.mark.slow
def test_from_a_wheel_when_imported_already(site, tmp_path):
    assert ask("import fairseq_dsp; " + ASK, site, tmp_path).stdout.endswith(f"{site}/fairseq_dsp/__init__.py\n")


@pytest.mark.slow
def test_in_the_repository_when_a_wheel_of_the_same_code_is_imported_already(source, site):
    assert ask("import fairseq_dsp; " + ASK, site, source).stdout.endswith(f"{site}/fairseq_dsp/__init__.py\n")


def test_training_with_a_wheel_in_an_unrelated_folder(site, tiny_data, tmp_path):
    args = support.tiny_train_args(tiny_data, tmp_path / "run", "--max-update", 2, "--user-dir", "fairseq_dsp")
    command = [sys.executable, "-P", "-m", "fairseq_cli.train", *args]
    support.run_command(command, cwd=tmp_path, PYTHONPATH=str(site))
    assert (tmp_path / "run" / "checkpoint_last.pt").exists()


@pytest.mark.slow
def test_preparing_with_a_wheel_in_an_unrelated_folder(site, tmp_path):
    sizes = ("--train-size", 200, "--valid-size", 5, "--test-size", 5, "--vocab-size", 120)
    command = [sys.executable, "-P", "-m", "fairseq_dsp.cli", "prepare", "phrases", tmp_path / "out", *sizes]
    support.run_command(command, cwd=tmp_path, PYTHONPATH=str(site))
    assert (tmp_path / "out/data-bin/train.de-en.de.bin").exists()


def test_other_code_of_the_same_name_is_refused(tmp_path, monkeypatch):
    shutil.copytree(support.PLUGIN, tmp_path / "fairseq_dsp")
    monkeypatch.chdir(tmp_path)
    utils.import_user_module(Namespace(user_dir="fairseq_dsp"))  # a copy of the same code
    with open(tmp_path / "fairseq_dsp" / "errors.py", "a") as file:
        file.write("\n# changed\n")
    with pytest.raises(
        UserError, match=f"{tmp_path}/fairseq_dsp holds other code than the fairseq_dsp already imported"
    ):
        utils.import_user_module(Namespace(user_dir="fairseq_dsp"))
    assert not user_dir_imported_twice.same_code(tmp_path / "fairseq_dsp", support.PLUGIN)


def test_another_plugin_is_still_imported(tmp_path):
    (tmp_path / "some_other_plugin").mkdir()
    (tmp_path / "some_other_plugin" / "__init__.py").write_text("import os\nos.environ['SOME_OTHER_PLUGIN'] = 'in'\n")
    utils.import_user_module(Namespace(user_dir=str(tmp_path / "some_other_plugin")))
    assert os.environ.pop("SOME_OTHER_PLUGIN") == "in"
    utils.import_user_module(Namespace(user_dir=None))
