"""A set of heads alone, given to models that chose units of other kinds, too: of these they keep their own."""

from __future__ import annotations

import json
from pathlib import Path

import inprocess
import pytest
from tiny_pruned import HEADS

from fairseq_dsp.cli import main

BUDGETS = {
    "units": ("--heads-to-keep", 5, "--ffn-units-to-keep", 7, "--ffn-unit-width", 8),
    "cost": ("--parameters-to-keep", 0.5, "--ffn-unit-width", 8),
}


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint of each of the budgets."""
    folder = tmp_path_factory.mktemp("trained")
    for name, flags in BUDGETS.items():
        inprocess.train(tiny_data, folder / name, "--cpu", *flags, "--cooldown-updates", 10, "--max-update", 12)
    return {name: folder / name / "checkpoint_last.pt" for name in BUDGETS}


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("heads") / "heads.json"
    path.write_text(json.dumps(HEADS))
    return path


@pytest.mark.parametrize("budget", BUDGETS)
def test_heads_alone(budget: str, trained: dict[str, Path], heads: Path, prepared: Path, tmp_path: Path) -> None:
    pruned, small = str(trained[budget]), tmp_path / "small.pt"
    assert main(["compact", pruned, str(small), "--kept-heads", str(heads)]) == 0
    found = []
    for words in ([pruned, "--kept-heads", str(heads)], [str(small)]):
        out, text = tmp_path / "scores.json", tmp_path / "text"
        search = ["--data", str(prepared), "--beam", "1", "--max-len-b", "6", "--json", str(out)]
        assert main(["evaluate", *words, *search, "--translations", str(text)]) == 0
        (scores,) = json.loads(out.read_text())
        found.append((scores["kept"], scores["chrf"], text.read_text()))
    kept = found[0][0]
    assert {name: kept[name] for name in HEADS if name != "version"} == {
        name: value for name, value in HEADS.items() if name != "version"
    }
    assert kept == json.loads(small.with_suffix(".heads.json").read_text())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("--heads-to-keep", "and one of them was trained with --parameters-to-keep, which says how many: make each"),
        ("--kept-heads", "heads.json leaves different units to the members of"),
    ],
)
def test_members_that_cannot_have_their_own(
    flag: str, told: str, trained: dict[str, Path], heads: Path, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = str(heads) if flag == "--kept-heads" else "4"
    models = f"{trained['cost']}:{trained['units']}"
    assert main(["evaluate", models, "--data", str(prepared), flag, value]) == 1
    said = capsys.readouterr().err
    assert told in said
    assert len(said.strip().splitlines()) == 1


def test_compact_members_have_their_own(trained: dict[str, Path], prepared: Path, tmp_path: Path) -> None:
    """As those are told who ask for it of the others."""
    for name, path in trained.items():
        assert main(["compact", str(path), str(tmp_path / f"{name}.pt"), "--heads-to-keep", "4"]) == 0
    words = ["--data", str(prepared), "--beam", "1", "--max-len-b", "6", "--json", str(tmp_path / "scores.json")]
    assert main(["evaluate", ":".join(str(tmp_path / f"{name}.pt") for name in trained), *words]) == 0
    (scores,) = json.loads((tmp_path / "scores.json").read_text())
    assert scores["heads"] == 12
    assert scores["kept"] is None
