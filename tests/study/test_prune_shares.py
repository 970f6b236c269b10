"""``fairseq-dsp prune`` to a share of the cost of 12 heads and 64 feed-forward units of two neurons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pruning import SHORT, call, refused, value, words_of

from fairseq_dsp.cli import main
from fairseq_dsp.model import HeadSet

pytestmark = pytest.mark.usefixtures("quick_steps")


@pytest.mark.slow
def test_it_prunes_to_a_share_of_the_parameters(
    stock_checkpoint: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    call(stock_checkpoint, prepared, out, *SHORT, parameters_to_keep=[0.4])
    words = words_of(out, "pruned-p0.4-s1")
    expected = {"parameters-to-keep": 0.4, "heads-to-keep-updates": 5, "cooldown-updates": 6, "min-encoder-heads": 2}
    assert {name: value(words, f"--{name}") for name in expected} == {n: str(v) for n, v in expected.items()}
    assert not {"--heads-to-keep", "--ffn-units-to-keep"} & {*words}
    kept = HeadSet.read(out / "compact.heads.json")
    heads, units = (one.kept for one in kept.all)
    assert f"| pruned, 0.4 of the parameters | {heads} + {units} units |" in capsys.readouterr().out
    assert 0 <= 0.4 * (12 * 536 + 64 * 66) - (536 * heads + 66 * units) <= 66
    call(stock_checkpoint, prepared, out, *SHORT, parameters_to_keep=[0.4])  # nothing is left to do
    assert json.loads((out / "prune.json").read_text())["shares"] == [["parameters-to-keep", 0.4]]
    for other in ({"parameters_to_keep": [0.5]}, {"heads": [6]}):
        assert "holds the result of another call" in refused(stock_checkpoint, prepared, out, *SHORT, **other)


def test_the_share_itself_says_how_long_to_train(
    stock_checkpoint: Path, prepared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """0.32 of 12 heads are four, a third of them; but of the parameters less than a third stay."""
    for share, updates in ((0.34, "500"), (0.32, "700")):
        state = torch.load(stock_checkpoint, weights_only=True)
        state["optimizer_history"][-1]["num_updates"] = 700
        torch.save(state, tmp_path / "base.pt")
        args = ("prune", str(tmp_path / "base.pt"), str(prepared), str(tmp_path / "out"), "--dry-run")
        assert main([*args, "--parameters-to-keep", str(share)]) == 0
        (line,) = (line for line in capsys.readouterr().out.splitlines() if "--parameters-to-keep" in line)
        assert value(line.split(), "--max-update") == updates


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"heads": [6], "parameters_to_keep": [0.5]},
            "the command line gives heads and parameters-to-keep",
        ),
        (
            {"ffn_units_to_keep": 6, "flops_to_keep": [0.5]},
            "--flops-to-keep 0.5 chooses how many units of each kind stay, but --ffn-units-to-keep 6",
        ),
        (
            {"flops_to_keep": [0.5], "parameters_to_keep": [0.5]},
            "the command line gives parameters-to-keep and flops-to-keep",
        ),
        ({"flops_to_keep": [1.5]}, "flops-to-keep of the command line"),
        (
            {"parameters_to_keep": [0.0], "more": ["--min-cross-heads", "2"]},
            "the least numbers of units that are asked",
        ),
    ],
)
def test_shares_that_make_no_sense(
    stock_checkpoint: Path, prepared: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    given = {"more": [], **options}
    more = [*SHORT, *given.pop("more")]
    assert message in refused(stock_checkpoint, prepared, tmp_path / "out", *more, **given)
    assert not (tmp_path / "out").exists()
