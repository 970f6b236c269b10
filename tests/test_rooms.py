"""The map in CONTRIBUTING.md holds: imports follow its arrows, no name is there twice, and no file is long."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import REPOSITORY

from fairseq_dsp.cli import COMMANDS
from fairseq_dsp.model import TYPES

PACKAGE = REPOSITORY / "fairseq_dsp"
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = [file for file in FILES if file.name != "__init__.py"]
ROOMS = {file.parent.name for file in FILES} - {PACKAGE.name}

BELOW = {
    "compat": set(),
    "subset": set(),
    "model": {"subset"},
    "training": {"model"},
    "importance": {"model"},
    "pretrained": {"model"},
    "deployment": {"model"},
    "removal": {"model", "deployment"},
    "evaluation": {"removal"},
    "preparation": {"evaluation"},
    "study": {"evaluation", "importance"},
    "report": {"study"},
}
"""The arrows: a room → those whose files it may import, and those below them."""

ABOVE_ALL = {"__init__.py", "cli.py", "plugin.py"}
"""Files beside the rooms that import from them; the others import from none."""

LONGEST = 350


def below(room: str) -> set[str]:
    """All rooms that a room may import from."""
    return BELOW[room].union(*map(below, BELOW[room]))


def imported(file: Path) -> Iterator[str]:
    """The rooms that a file imports from, wherever in it."""
    parts = file.relative_to(REPOSITORY).parent.parts
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(parts[: len(parts) - node.level + 1]) if node.level else ""
            module = ".".join(filter(None, [start, node.module]))
            names = [f"{module}.{alias.name}" for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == PACKAGE.name and rest.partition(".")[0] in ROOMS:
                yield rest.partition(".")[0]


def test_the_map_has_all_rooms() -> None:
    assert set(BELOW) == ROOMS
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert [room for room in sorted(ROOMS) if f"  {room}/" not in text] == []


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_follow_the_arrows(room: str) -> None:
    against = {
        f"{file.name} imports {other}"
        for file in (PACKAGE / room).glob("*.py")
        for other in imported(file)
        if other != room and other not in below(room)
    }
    assert against == set()


def test_what_is_beside_the_rooms_imports_from_none() -> None:
    files = [file for file in PACKAGE.glob("*.py") if file.name not in ABOVE_ALL]
    assert {f"{file.name} imports {room}" for file in files for room in imported(file)} == set()


def test_no_name_is_there_twice() -> None:
    others = ("benchmarks", "data-prep", "docs", "tests")
    outside = [file for folder in others for file in (REPOSITORY / folder).rglob("*.py")]
    names = [file.stem for file in [*MODULES, *outside] if file.name not in {"__init__.py", "conftest.py"}]
    assert [name for name, times in Counter(names).items() if times > 1] == []
    folders = {folder.name for folder in PACKAGE.rglob("*") if folder.is_dir()}
    assert folders.intersection(names) == set()


def test_a_command_is_a_file_of_its_name() -> None:
    assert {name for name, (module, _) in COMMANDS.items() if module.split(".")[-1] != name.replace("-", "_")} == set()


def test_no_file_is_long() -> None:
    lines = {str(file.relative_to(PACKAGE)): len(file.read_text(encoding="utf-8").splitlines()) for file in FILES}
    assert {file: count for file, count in lines.items() if count > LONGEST} == {}


def test_attention_types_have_names_in_one_place():
    for file in MODULES:
        named = {node.value for node in ast.walk(ast.parse(file.read_text("utf-8"))) if isinstance(node, ast.Constant)}
        assert file.name == "attention_heads.py" or named.isdisjoint(TYPES), f"{file.name}: ask the kind for the type"
