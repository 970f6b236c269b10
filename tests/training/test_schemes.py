"""Pipelined pruning, recovery, ensembles and averaged checkpoints, on checkpoints as fairseq writes them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import inprocess
import pytest
import support
import torch
from fairseq import checkpoint_utils
from fairseq_cli.train import main

from fairseq_dsp.errors import UserError, find_in_chain
from fairseq_dsp.model import HeadSet

DSP = ["--task", "translation_dsp", "--criterion", "label_smoothed_cross_entropy_dsp"]


def load(path: Path, **overrides: Any) -> Any:
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path)], arg_overrides=overrides)
    return model


# --- pipelined ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags",
    support.mostly_slow(
        [
            "",
            "--memory-efficient-fp16",
            "--head-selection ste",
            "--clip-norm 0.1",
            "--cooldown-updates 4 --clip-norm 1",
        ],
        "--cooldown-updates 4 --clip-norm 1",
    ),
)  # fmt: skip
def test_frozen_weights_stay_bit_for_bit(flags: str, stock: Path, tiny_data: Path, tmp_path: Path):
    options = ["--cpu", "--heads-to-keep", 6, "--freeze-weights", "--weight-decay", 0.1, *flags.split()]
    after = inprocess.train(tiny_data, tmp_path, *options, "--finetune-from-model", stock, "--max-update", 8)["model"]
    before = torch.load(stock, weights_only=True)["model"]
    others = inprocess.without_importance(after)
    assert others.keys() == before.keys()
    for name, value in others.items():
        # in half precision the weights are rounded once, when they are loaded
        start = before[name].half().float() if "fp16" in flags else before[name]
        assert torch.equal(value, start), name
    assert (inprocess.importance(after).abs() > 0).all()


def test_a_frozen_run_resumes(stock: Path, tiny_data: Path, tmp_path: Path):
    options = ["--cpu", "--heads-to-keep", 6, "--freeze-weights", "--finetune-from-model", stock]
    inprocess.train(tiny_data, tmp_path / "halves", *options, "--max-update", 3)
    halves = inprocess.train(tiny_data, tmp_path / "halves", *options, "--max-update", 8)["model"]
    straight = inprocess.train(tiny_data, tmp_path / "straight", *options, "--max-update", 8)["model"]
    assert torch.equal(inprocess.importance(halves), inprocess.importance(straight))


@pytest.mark.parametrize("hydra", [False, True])
def test_frozen_weights_need_a_checkpoint(hydra: bool, tiny_data: Path, tmp_path: Path):
    flags = ["--cpu", "--heads-to-keep", 6, "--freeze-weights"]
    config = inprocess.argparse_config(tiny_data, tmp_path, *flags)
    if hydra:
        overrides = [*inprocess.HYDRA_TINY, "model.heads_to_keep=6"]
        config = inprocess.hydra_config("pipelined", tiny_data, tmp_path, *overrides)
    with pytest.raises(UserError, match="no checkpoint was loaded to start from: give one with --finetune-from-model"):
        main(config)
    assert not list(tmp_path.glob("*.pt"))


def test_that_error_is_one_sentence_on_the_command_line(tiny_data: Path, tmp_path: Path, train_tiny):
    flags = ["--cpu", "--heads-to-keep", 6, "--freeze-weights"]
    done = train_tiny(tmp_path, *flags, arch="transformer_dsp", check=False)
    assert done.returncode != 0
    assert "error: --freeze-weights trains the importance variables of a trained model" in done.stdout
    assert "Traceback" not in done.stdout


# --- recovery -----------------------------------------------------------------------------------------------------


def test_recovery_trains_the_weights_of_the_heads_chosen(stock: Path, tiny_data: Path, tmp_path: Path):
    pipelined = ["--cpu", "--heads-to-keep", 5, "--freeze-weights", "--finetune-from-model", stock]
    inprocess.train(tiny_data, tmp_path / "pipelined", *pipelined, "--max-update", 8)
    chosen = load(tmp_path / "pipelined/checkpoint_last.pt").pruner.kept()
    assert chosen.kept == 5
    (tmp_path / "heads.json").write_text(chosen.to_json())
    start = ["--finetune-from-model", tmp_path / "pipelined/checkpoint_last.pt"]
    fixed = ["--cpu", *DSP, "--head-selection", "fixed", "--kept-heads", tmp_path / "heads.json"]
    after = inprocess.train(tiny_data, tmp_path / "recovery", *fixed, *start, "--max-update", 8)["model"]
    before = inprocess.checkpoint(tmp_path / "pipelined")["model"]
    assert torch.equal(inprocess.importance(before), inprocess.importance(after))
    assert not torch.equal(before["encoder.layers.0.fc1.weight"], after["encoder.layers.0.fc1.weight"])
    assert load(tmp_path / "recovery/checkpoint_last.pt").pruner.kept() == chosen


def heads(**changes: Any) -> dict[str, Any]:
    return {
        "total": 12,
        "kept": 2,
        "encoder_self": [[0], []],
        "decoder_self": [[], []],
        "cross": [[1], []],
        **changes,
    }


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (heads(total=72), "for a model of 72 heads, but this model has 12"),
        (heads(cross=[[1]]), "has 1 layers of cross-attention, but this model has 2"),
        (heads(cross=[[2], []]), "keeps head 2 of cross layer 0, but that module has heads 0 to 1"),
        (heads(cross=[[1, 1], []], kept=3), "cross layer 0 lists a head twice"),
        (heads(kept=3), "says that 3 heads are kept, but lists 2"),
        ({"heads": []}, "exactly the keys total, kept"),
    ],
)
def test_a_set_of_heads_that_does_not_fit_is_refused(content: dict, sentence: str, tiny_data: Path, tmp_path: Path):
    (tmp_path / "heads.json").write_text(json.dumps(content))
    flags = ["--head-selection", "fixed", "--kept-heads", tmp_path / "heads.json"]
    with pytest.raises(UserError, match=sentence):
        inprocess.model(tiny_data, *flags)


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--head-selection fixed", "belong together"),
        ("--kept-heads somewhere.json", "cannot be read"),
        ("--head-selection fixed --kept-heads somewhere.json", "cannot be read .No such file"),
    ],
)
def test_fixed_needs_its_file(flags: str, sentence: str, tiny_data: Path):
    with pytest.raises(UserError, match=sentence):
        inprocess.model(tiny_data, *flags.split())


# --- what is loaded -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def members(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two models, pruned to 3 and to 8 heads."""
    folder = tmp_path_factory.mktemp("members")
    for k in (3, 8):
        inprocess.train(tiny_data, folder / str(k), "--cpu", "--heads-to-keep", k, "--seed", k)
    return folder / "3/checkpoint_last.pt", folder / "8/checkpoint_last.pt"


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_importance_that_is_not_finite_is_refused(bad: float, members, tiny_data: Path, tmp_path: Path):
    state = torch.load(members[0], weights_only=True)
    inprocess.importance(state["model"])[0] = bad
    torch.save(state, tmp_path / "bad.pt")
    sentence = "heads.importance in the checkpoint holds a NaN or an infinity"
    with pytest.raises(UserError, match=sentence):
        load(tmp_path / "bad.pt")
    flags = ["--cpu", "--heads-to-keep", 3, "--finetune-from-model", tmp_path / "bad.pt"]
    with pytest.raises(Exception, match="Cannot load model parameters") as caught:
        inprocess.train(tiny_data, tmp_path / "run", *flags)
    found = find_in_chain(caught.value, UserError)
    assert found is not None
    assert sentence in str(found)


def test_every_member_of_an_ensemble_keeps_its_own_heads(members, tiny_data: Path, run_fairseq):
    alone = [load(path).pruner.kept() for path in members]
    assert [kept.kept for kept in alone] == [3, 8]
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path) for path in members])
    assert [model.pruner.kept() for model in models] == alone
    hypotheses = []
    for path in (members[0], members[1], f"{members[0]}:{members[1]}"):
        flags = ["--path", path, "--user-dir", support.PLUGIN, "--cpu", "--required-batch-size-multiple", 1]
        printed = run_fairseq("generate", tiny_data, *flags, "--beam", 2, "--num-workers", 0).stdout
        hypotheses.append([line for line in printed.splitlines() if line.startswith("H-")])
    assert len(hypotheses[2]) == 20
    assert hypotheses[2] not in hypotheses[:2], "both members count"


def test_the_outputs_of_an_ensemble_are_the_mean_of_its_members(members):
    models, _, _ = checkpoint_utils.load_model_ensemble_and_task([str(path) for path in members])
    tokens = torch.randint(4, 30, (3, 6), generator=torch.Generator().manual_seed(1))
    together = [m.eval()(tokens, torch.full((3,), 6), tokens)[0] for m in models]
    for path, output in zip(members, together, strict=True):
        assert torch.equal(load(path).eval()(tokens, torch.full((3,), 6), tokens)[0], output)


def test_an_average_keeps_the_heads_of_the_average_importance(tiny_data: Path, tmp_path: Path):
    """fairseq's average_checkpoints.py averages every entry of "model" alike, the importance too."""
    flags = ["--cpu", "--heads-to-keep", 5, "--min-encoder-heads", 0, "--save-interval-updates", 3]
    inprocess.train(tiny_data, tmp_path, *flags)
    paths = sorted(tmp_path.glob("checkpoint_*_*.pt"))
    assert len(paths) >= 3
    states = [torch.load(path, weights_only=True) for path in paths]
    average = states[0]
    for name in average["model"]:
        average["model"][name] = sum(state["model"][name].float() for state in states) / len(states)
    torch.save(average, tmp_path / "average.pt")
    model = load(tmp_path / "average.pt")
    best = sorted(range(12), key=lambda i: -float(model.pruner.importance[i]))[:5]
    gates = torch.zeros(12)
    gates[best] = 1
    assert model.pruner.kept() == HeadSet.from_gates(gates, model.pruner.plan.shape)
