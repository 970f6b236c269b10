"""The documentation: it builds strictly, stays small, reads without a network, and every figure has its command."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
import support

DOCS = support.REPOSITORY / "docs"
RESULTS = DOCS / "results"
NEEDED = ("mkdocs", "material", "mkdocstrings", "latex2mathml")
CODE = re.compile(r"^( *)```(\w+)?.*?\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def tracked() -> list[Path]:
    """The files of the repository that git has or would take."""
    listing = ["git", "-C", str(support.REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard"]
    done = subprocess.run(listing, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("this is no checkout of git")
    return [path for path in map(support.REPOSITORY.joinpath, done.stdout.splitlines()) if path.is_file()]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built strictly."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: pip install -e '.[docs]' -c constraints.txt")
    folder = tmp_path_factory.mktemp("site")
    support.run_command([sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder])
    return folder


class Loads(HTMLParser):
    """What a page loads, and the ids it has."""

    def __init__(self) -> None:
        super().__init__()
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in ("script", "img", "iframe", "source"):
            self.addresses.append(found.get("src") or "")
        if tag == "link" and found.get("rel") not in ("canonical", "next", "prev"):
            self.addresses.append(found.get("href") or "")


def test_pages_load_nothing_from_the_network(site: Path) -> None:
    for page in site.rglob("*.html"):
        loads = Loads()
        loads.feed(page.read_text(encoding="utf-8"))
        assert not [address for address in loads.addresses if re.match(r"(https?:)?//", address)], page


def test_formulas_are_mathml(site: Path) -> None:
    page = (site / "method/equations.html").read_text(encoding="utf-8")
    formulas = (DOCS / "method/equations.md").read_text(encoding="utf-8").count("$$") // 2
    assert page.count('display="block"') == formulas > 10
    assert "arithmatex" not in page
    for formula in re.findall("<math.*?</math>", page, re.DOTALL):
        text = "".join(ElementTree.fromstring(formula).itertext())
        assert "\\" not in text, f"{text}: a command of LaTeX that is not known"


def test_the_reference_has_every_command_and_option(site: Path) -> None:
    from fairseq_dsp.cli import COMMANDS
    from fairseq_dsp.model import PruningConfig
    from fairseq_dsp.model.retired import RETIRED

    page = (site / "reference/commands.html").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if f'id="{name}"' not in page] == []
    assert "--quantization" in page
    options = (site / "reference/options.html").read_text(encoding="utf-8")
    names = PruningConfig.__dataclass_fields__.keys() - {"_name", *RETIRED}
    assert [name for name in names if f"--{name.replace('_', '-')}<" not in options] == []
    assert "--distill-weight<" in options
    assert [name for name in RETIRED if f"--{name.replace('_', '-')}" in options] == []
    python = (site / "reference/python.html").read_text(encoding="utf-8")
    assert "covariance_product" in python
    assert ":class:" not in python
    assert ":func:" not in python
    configs = (site / "reference/configuration.html").read_text(encoding="utf-8")
    assert "joint_paper" in configs
    assert "methods*" in configs


def test_documents_are_small_and_not_generated() -> None:
    files = tracked()
    documents = [path for path in files if path.is_relative_to(DOCS)]
    assert sum(path.stat().st_size for path in documents) < 2_000_000
    assert [path for path in files if path.suffix in (".html", ".tex", ".csv")] == []
    pictures = [path for path in documents if path.suffix in (".svg", ".png", ".jpg")]
    assert [path for path in pictures if path.suffix != ".svg" or path.stat().st_size > 60_000] == []
    assert [path for path in pictures if "<text" not in path.read_text(encoding="utf-8")] == [], "text as text"
    for path in RESULTS.glob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))


def pages() -> Iterator[Path]:
    """The results pages, without their index."""
    return (path for path in sorted(RESULTS.glob("*.md")) if path.name != "index.md")


@pytest.mark.parametrize("page", list(pages()), ids=lambda page: page.stem)
def test_results_have_a_command_and_few_pictures(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = "\n".join(found[3] for found in CODE.finditer(text))
    command = re.compile(r"^((?:python )?(?:benchmarks|tests|docs|scripts)/\S+|fairseq-\w+|\S+=\S+ fairseq-dsp)", re.M)
    assert command.search(code), "which command made the figures?"
    for file in re.findall(r"^(?:python |\S+ sweep )?((?:benchmarks|tests|docs|scripts)/\S+)", code, re.M):
        assert (support.REPOSITORY / file).exists(), file
    assert text.count("![") <= 3
    assert re.search(r"[Vv]ersion 0\.\d", text), "of which version are the figures?"
    if page.name != "history.md":
        assert len(re.findall(r"^\|[-:| ]+\|$", text, re.M)) == 1, "one table"


def test_every_results_page_is_in_the_index() -> None:
    index = (RESULTS / "index.md").read_text(encoding="utf-8")
    current, history = index.split("## History")
    assert "(history.md)" in history
    assert [page.name for page in pages() if page.name != "history.md" and f"({page.name})" not in current] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "data-prep/README.md"])
def test_links_outside_of_the_site_lead_somewhere(name: str) -> None:
    page = support.REPOSITORY / name
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), target


def test_the_readme_is_short_and_begins_the_guide() -> None:
    text = (support.REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 90
    (use,) = [found[3] for found in CODE.finditer(text) if found[2] == "sh"]
    start = (DOCS / "start/prune.md").read_text(encoding="utf-8")
    assert [line for line in use.splitlines() if line not in start] == []


def test_how_it_works_names_functions_that_exist() -> None:
    named = called = 0
    for page in (DOCS / "method").glob("*.md"):
        text = page.read_text(encoding="utf-8")
        for file in re.findall(r"`((?:fairseq_dsp|scripts|tests|benchmarks)/[\w/.-]+\.\w+)`", text):
            assert (support.REPOSITORY / file).exists(), f"{page.name}: {file}"
        for name, file in re.findall(r"`([\w.]+)`(?: and `[\w.]+`)?\s+in\s+`(fairseq_dsp/[\w/]+\.py)`", text):
            source = (support.REPOSITORY / file).read_text(encoding="utf-8")
            for part in name.split("."):
                assert re.search(rf"(def|class) {part}\b", source), f"{page.name}: {name} in {file}"
            named += 1
        for name, caller, file in CALLED.findall(text):
            source = (support.REPOSITORY / file).read_text(encoding="utf-8")
            body = ast.get_source_segment(source, definition(ast.parse(source), caller.split("."))) or ""
            assert re.search(rf"\b{name.split('.')[-1]}\(", body), f"{page.name}: {name} is not called in {caller}"
            called += 1
    assert named >= 15
    assert called >= 4


CALLED = re.compile(r"`([\w.]+)`(?:\s+in\s+`[\w/.]+`)?,\s+called\s+in\s+`([\w.]+)`\s+in\s+`(fairseq_dsp/[\w/]+\.py)`")


def definition(node: ast.AST, names: list[str]) -> ast.AST:
    """What a name with dots stands for in a file."""
    for name in names:
        (node,) = [child for child in ast.iter_child_nodes(node) if getattr(child, "name", None) == name]
    return node


def test_functions_of_the_method_exist() -> None:
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (support.REPOSITORY / "fairseq_dsp").rglob("*.py"))
    text = (DOCS / "method/equations.md").read_text(encoding="utf-8")
    names = {
        name for part in re.findall(r"→(.*?)(?:\n\n|\Z)", text, re.S) for name in re.findall(r"`([A-Za-z_.]+)`", part)
    }
    assert len(names) > 20
    for name in names:
        for part in name.split("."):
            assert re.search(rf"(def|class) {part}\b", sources), name
