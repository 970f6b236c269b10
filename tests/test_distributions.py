"""What is published: the source distribution, and the wheel that is built from it."""

from __future__ import annotations

import email
import importlib.metadata
import importlib.util
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import support
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import fairseq_dsp

FILES = (
    "setup.py pyproject.toml MANIFEST.in mkdocs.yml README.md LICENSE CHANGELOG.md CITATION.cff CONTRIBUTING.md "
    "constraints.txt"
).split()
FOLDERS = ("fairseq_dsp", "data-prep", "docs", "scripts", "tests", "benchmarks")
PYTHONS = ["3.11.0", "3.12.0"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both distributions, built from a copy of the repository, so that building leaves nothing there."""
    if importlib.util.find_spec("build") is None:
        pytest.skip("build is not installed: pip install -e '.[dev]' -c constraints.txt")
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in FILES:
        shutil.copy(support.REPOSITORY / name, source)
    for name in FOLDERS:
        shutil.copytree(support.REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    build = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, source]
    support.run_command(build, cwd=source)
    return folder


def sources(*endings: str, folder: str = "fairseq_dsp") -> Iterator[str]:
    """Files of the package in the repository."""
    for ending in endings:
        for path in (support.REPOSITORY / folder).rglob(f"*{ending}"):
            yield str(path.relative_to(support.REPOSITORY))


def test_the_source_distribution_has_all_that_a_checkout_has(built: Path) -> None:
    (path,) = built.glob("*.tar.gz")
    stem = f"fairseq_dsp-{fairseq_dsp.__version__}"
    assert path.name == f"{stem}.tar.gz"
    with tarfile.open(path) as archive:
        names = {name.removeprefix(f"{stem}/") for name in archive.getnames()}
    assert names >= {*FILES, *sources(".py", ".yaml", "py.typed"), *sources(".py", folder="data-prep")}
    assert names >= {*sources(".md", ".svg", folder="docs"), *sources(".sh", ".yaml", folder="scripts")}
    assert names >= {*sources(".py", ".xz", folder="tests")}
    assert not [name for name in names if name.endswith((".pyc", ".pt", ".html")) or "/.venv/" in name]
    assert path.stat().st_size < 2_000_000


def test_the_wheel_has_the_package_alone_and_says_what_it_is(built: Path) -> None:
    (path,) = built.glob("*.whl")
    assert path.name == f"fairseq_dsp-{fairseq_dsp.__version__}-py3-none-any.whl"
    wheel = zipfile.ZipFile(path)
    names = wheel.namelist()
    assert set(names) >= {*sources(".py", ".yaml", "py.typed")}
    assert {name.split("/")[0] for name in names} <= {
        "fairseq_dsp", "fairseq_dsp_corpora", f"fairseq_dsp-{fairseq_dsp.__version__}.dist-info",
    }  # fmt: skip
    (about,) = [name for name in names if name.endswith(".dist-info/METADATA")]
    metadata = email.message_from_bytes(wheel.read(about))
    assert metadata["Version"] == fairseq_dsp.__version__
    assert metadata["License"] == "MIT"
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.13"}
    assert {"dev", "docs", "ctranslate2"} <= set(metadata.get_all("Provides-Extra"))
    assert "exactly K attention heads" in metadata.get_payload()


def test_the_version_stands_in_one_place() -> None:
    version = fairseq_dsp.__version__
    others = ["setup.py", "pyproject.toml", "CITATION.cff", "mkdocs.yml"]
    assert [name for name in others if version in (support.REPOSITORY / name).read_text(encoding="utf-8")] == []
    log = (support.REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8")
    assert log.index(f"\n## {version}") == log.index("\n## "), "the changelog begins with this version"


def test_the_citation_file_cites_the_paper() -> None:
    citation = yaml.safe_load((support.REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation.keys() >= {"cff-version", "message", "title", "authors", "license"}
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Li", "Cotterell", "Sachan"]
    assert paper["doi"] == "10.1162/tacl_a_00436"


def test_every_package_that_an_installation_brings_is_pinned() -> None:
    extras = importlib.metadata.metadata("fairseq_dsp").get_all("Provides-Extra") or []
    found: set[str] = set()
    waiting = [("fairseq_dsp", extra) for extra in ["", *extras]]
    while waiting:
        name, extra = waiting.pop()
        for line in importlib.metadata.requires(name) or []:
            wanted = Requirement(line)
            needed = wanted.marker is None or wanted.marker.evaluate({"extra": extra})
            if needed and wanted.name not in found and installed(wanted.name):  # an extra may not be
                found.add(wanted.name)
                if wanted.name != "torch":  # what a build for CUDA brings is that build's own
                    waiting += [(wanted.name, further) for further in ["", *wanted.extras]]
    assert {"sacrebleu", "hydra-core"} <= found
    assert {canonicalize_name(name) for name in found} - pinned() <= {"setuptools"}


def test_every_pinned_package_runs_on_the_first_release_of_each_python() -> None:
    """Distributions of Linux keep theirs for years: Debian 12 has Python 3.11.2. Held to what is installed here."""
    wanted = {
        name: SpecifierSet(importlib.metadata.metadata(name).get("Requires-Python") or "")
        for name in pinned() | {"fairseq-dsp"}
        if installed(name)
    }
    assert len(wanted) > 30
    refused = {name: str(python) for name, python in wanted.items() if [*python.filter(PYTHONS)] != PYTHONS}
    assert refused == {}


def pinned() -> set[str]:
    """The packages in constraints.txt, by the name they are looked up by."""
    lines = (support.REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return {canonicalize_name(line.split("==")[0]) for line in lines if line and not line.startswith("#")}


def installed(name: str) -> bool:
    """Whether a package is installed here, by the name that it is published by."""
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
