"""RoBERTa with gates: stock where nothing is pruned, exactly K heads elsewhere, in both of fairseq's command lines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import inprocess
import pairs
import pytest
import support
import torch
from fairseq import checkpoint_utils, criterions, metrics, tasks, utils
from fairseq_cli import hydra_train

from fairseq_dsp import cli
from fairseq_dsp.errors import UserError

HYDRA = """
task: {_name: sentence_prediction, data: "???", init_token: 0, separator_token: 2, num_classes: 3, max_positions: 40}
criterion: {_name: sentence_prediction}
dataset: {batch_size: 16, required_batch_size_multiple: 1, num_workers: 0}
optimizer: {_name: adam, adam_betas: "(0.9,0.98)", adam_eps: 1e-06}
lr_scheduler: {_name: polynomial_decay, warmup_updates: 4, total_num_update: 20}
optimization: {lr: [0.005], max_update: 20, clip_norm: 0.0}
checkpoint: {best_checkpoint_metric: accuracy, maximize_best_checkpoint_metric: true, no_epoch_checkpoints: true}
common: {cpu: true, seed: 7, log_format: simple, log_interval: 5}
model: {_name: roberta_dsp_tiny, dropout: 0.1, attention_dropout: 0.1}
"""


@pytest.fixture(scope="module")
def stock(pair_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of fairseq's own RoBERTa, of the tiny size."""
    folder = tmp_path_factory.mktemp("stock")
    sizes = "--encoder-layers 2 --encoder-embed-dim 16 --encoder-ffn-embed-dim 32 --encoder-attention-heads 2".split()
    pairs.train(pair_data, folder, "--arch", "roberta", *sizes)
    return folder / "checkpoint_last.pt"


def built(pair_data: Path, *flags: object) -> tuple[Any, Any, Any]:
    """A model, its criterion and a batch of 16 pairs."""
    config = pairs.config(pair_data, Path("unused"), *flags)
    task = tasks.setup_task(config.task)
    task.load_dataset("valid")
    utils.set_torch_seed(1)
    model, dataset = task.build_model(config.model), task.dataset("valid")
    sample = dataset.collater([dataset[i] for i in range(16)])
    return model, criterions.build_criterion(config.criterion, task), sample


def heads_of(state: dict[str, Any]) -> int:
    return int(state["model"]["heads.kept"].sum())


@pytest.mark.parametrize("training", [True, False])
def test_with_all_heads_a_stock_checkpoint_gives_the_stock_loss(pair_data: Path, stock: Path, training: bool) -> None:
    losses = []
    for flags in ((), ("--heads-to-keep", 4), ("--arch", "roberta", "--encoder-layers", 2, "--encoder-embed-dim", 16,
                       "--encoder-ffn-embed-dim", 32, "--encoder-attention-heads", 2)):  # fmt: skip
        model, criterion, sample = built(pair_data, *flags)
        model.load_state_dict(dict(checkpoint_utils.load_checkpoint_to_cpu(str(stock))["model"]), strict=True)
        model.train(training)
        torch.manual_seed(3)
        losses.append(criterion(model, sample)[0].item())
    assert losses[0] == losses[2]
    assert losses[1] == losses[2]


def test_the_published_recipe_prunes_a_stock_checkpoint(
    run_fairseq, pair_data: Path, stock: Path, tmp_path: Path
) -> None:
    recipe = ("--restore-file", stock, "--reset-optimizer", "--reset-dataloader", "--reset-meters")
    flags = [*pairs.TRAINING, *recipe, "--heads-to-keep", 2, "--cooldown-updates", 15]
    common = (pair_data, "--user-dir", support.PLUGIN)
    done = run_fairseq("train", *common, "--save-dir", tmp_path, *flags)
    assert "SentencePredictionCriterion" in done.stdout
    assert "task: SentencePredictionTask" in done.stdout
    assert heads_of(inprocess.checkpoint(tmp_path)) == 2
    path = tmp_path / "checkpoint_last.pt"
    options = (*pairs.TASK, "--cpu")
    printed = [run_fairseq("validate", *common, "--path", path, *options, "--batch-size", n).stdout for n in (3, 20)]
    first, second = (re.findall(r"accuracy [\d.]+", text)[-1] for text in printed)
    assert first == second


@pytest.mark.parametrize("units", [(), ("--ffn-units-to-keep", 3, "--ffn-unit-width", 8)], ids=["heads", "both"])
def test_removing_the_heads_changes_no_prediction(pair_data: Path, tmp_path: Path, units: tuple) -> None:
    state = pairs.train(pair_data, tmp_path, "--heads-to-keep", 1, "--cooldown-updates", 15, *units)
    assert heads_of(state) == 1
    model, _, sample = built(pair_data, "--heads-to-keep", 1, *units)
    model.load_state_dict(state["model"], strict=True)
    model.eval()
    call = {**sample["net_input"], "classification_head_name": "sentence_classification_head"}
    before = model(**call)[0]
    model.make_generation_fast_()
    assert model.kept_heads.kept == 1
    assert [of_kind.kept for of_kind in model.kept_heads.others] == [3] * bool(units)
    assert not [name for name in model.state_dict() if name.startswith(("heads.", "ffn."))]
    assert sum(module.out_proj.weight is not None for module in attentions(model) if module.num_heads) == 1
    torch.testing.assert_close(model(**call)[0], before, atol=1e-6, rtol=0)
    heads = tmp_path / "heads.json"
    heads.write_text(model.kept_heads.to_json())
    small, _, _ = built(pair_data, "--compact", "--kept-heads", heads)
    small.load_state_dict(model.state_dict(), strict=True)
    torch.testing.assert_close(small.eval()(**call)[0], before, atol=1e-6, rtol=0)
    assert model.kept_heads.of("decoder_self") == model.kept_heads.of("cross") == ()


def test_heads_and_units_share_a_budget_of_cost(pair_data: Path, tmp_path: Path) -> None:
    flags = ("--flops-to-keep", 0.5, "--ffn-unit-width", 8, "--cooldown-updates", 15)
    state = pairs.train(pair_data, tmp_path, *flags)
    model, _, _ = built(pair_data, *flags)
    model.load_state_dict(state["model"], strict=True)
    heads, units = model.kept().all
    costs = [
        sum(module.kind.unit_flops(module, 25, 26, 5) * kept for module, kept in zip(p.modules, counts, strict=True))
        for p, counts in (
            (pruner, [len(layer) for layer in sum(own.layers, ())])
            for pruner, own in zip(model.pruners.values(), (heads, units), strict=True)
        )
    ]
    whole = sum(
        module.kind.unit_flops(module, 25, 26, 5) * module.units for p in model.pruners.values() for module in p.modules
    )
    cheapest = min(module.kind.unit_flops(module, 25, 26, 5) for p in model.pruners.values() for module in p.modules)
    assert 0.5 * whole - max(cheapest, 0.005 * whole) <= sum(costs) <= 0.5 * whole


def attentions(model: Any) -> list[Any]:
    return [layer.self_attn for layer in model.encoder.sentence_encoder.layers]


@pytest.mark.parametrize(
    "flags",
    support.mostly_slow(
        [
            "--head-selection gumbel", "--head-selection ste", "--head-selection hard_concrete",
            "--min-heads-per-module 1", "--heads-to-keep-updates 9",
            "--heads-to-keep-low 1 --heads-to-keep-high 3", "--pruning-warmup-updates 3",
            "--task sentence_prediction_dsp",
        ],
        "--head-selection ste",
        "--task sentence_prediction_dsp",
    ),
)  # fmt: skip
def test_every_way_of_choosing_keeps_two_heads(pair_data: Path, tmp_path: Path, flags: str) -> None:
    state = pairs.train(pair_data, tmp_path, "--heads-to-keep", 2, "--cooldown-updates", 15, *flags.split())
    assert heads_of(state) == 2
    assert state["model"]["heads.importance"].any()


def test_a_constant_penalty_closes_heads(pair_data: Path, tmp_path: Path) -> None:
    flags = "--head-selection hard_concrete --l0-penalty 9 --pruning-lr 1 --criterion sentence_prediction_dsp".split()
    assert heads_of(pairs.train(pair_data, tmp_path, *flags)) == 0
    with pytest.raises(UserError, match="sentence_prediction_dsp"):
        pairs.train(pair_data, tmp_path / "stock", *flags, "--criterion", "sentence_prediction")


def test_frozen_weights_include_the_classification_head(pair_data: Path, stock: Path, tmp_path: Path) -> None:
    flags = ("--heads-to-keep", 2, "--freeze-weights", "--finetune-from-model", stock)
    after = pairs.train(pair_data, tmp_path, *flags)["model"]
    before = checkpoint_utils.load_checkpoint_to_cpu(str(stock))["model"]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert after["heads.importance"].any()


def test_hydra_trains_the_same_model(pair_data: Path, tmp_path: Path) -> None:
    (tmp_path / "nli.yaml").write_text(HYDRA)
    overrides = ("+model.heads_to_keep=2", "+model.cooldown_updates=15")
    metrics.reset()
    config = inprocess.hydra_config("nli", pair_data, tmp_path / "run", *overrides, configs=tmp_path)
    hydra_train._hydra_main(config)
    one = inprocess.checkpoint(tmp_path / "run")["model"]
    other = pairs.train(
        pair_data, tmp_path / "argparse", "--heads-to-keep", 2, "--cooldown-updates", 15, "--adam-betas", "(0.9,0.98)",
        "--adam-eps", "1e-06", "--clip-norm", 0, "--dropout", 0.1, "--attention-dropout", 0.1,
    )["model"]  # fmt: skip
    assert set(one) == set(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(UserError, match="unknown key heads_to_kep, did you mean heads_to_keep"):
        inprocess.build(inprocess.hydra_config("nli", pair_data, tmp_path, "+model.heads_to_kep=2", configs=tmp_path))


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--heads-to-keep 5", "--heads-to-keep is 5, but there are 4 such heads: give a number from 0 to 4"),
        ("--encoder-heads-to-keep 2", "--encoder-heads-to-keep 2 is for one attention type of several"),
        ("--cross-heads-to-keep 0", "--cross-heads-to-keep 0 is for one attention type of several"),
        ("--heads-to-keep 2 --min-cross-heads 1", "--min-cross-heads 1 is for one attention type of several"),
        ("--heads-to-keep 2 --min-encoder-heads 1", "--min-encoder-heads 1 is for one attention type of several"),
        ("--heads-to-keep 2 --mha-heads-to-keep 1", "--mha-heads-to-keep 1 is fairseq's own way"),
        ("--ffn-units-to-keep 2 --ffn-blocks-to-remove 1", "--ffn-blocks-to-remove 1 is fairseq's own way"),
        ("--quant-noise-scalar 0.1", "--quant-noise-scalar 0.1 puts other layers in place"),
        ("--layer-norm-epsilon 0", "--layer-norm-epsilon is 0.0, but a positive number is expected"),
    ],
)
def test_bad_options_are_refused_in_one_sentence(pair_data: Path, flags: str, sentence: str) -> None:
    with pytest.raises(UserError, match=re.escape(sentence)) as caught:
        built(pair_data, *flags.split())
    assert "\n" not in str(caught.value)


def test_only_the_second_sentence_has_the_segment_embedding(pair_data: Path) -> None:
    model, _, sample = built(pair_data, "--segment-embedding", "--layer-norm-epsilon", "1e-12")
    assert {m.eps for m in model.modules() if isinstance(m, torch.nn.LayerNorm)} == {1e-12}
    encoder, tokens = model.encoder.sentence_encoder.eval(), sample["net_input"]["src_tokens"]
    before = encoder.forward_embedding(tokens)[1]
    with torch.no_grad():
        encoder.segment.fill_(1)
    added = encoder.forward_embedding(tokens)[1] - before
    for row, part in zip(tokens.tolist(), added, strict=True):
        end = row.index(2) + 1
        words = [i for i, token in enumerate(row) if token != 1 and i >= end]
        expected = torch.zeros(len(row), 16)
        expected[words] = 1
        torch.testing.assert_close(part, expected)


def test_the_tools_read_a_pruned_checkpoint(pair_data: Path, tmp_path: Path, capsys) -> None:
    own = ("--segment-embedding", "--layer-norm-epsilon", "1e-12")
    pairs.train(pair_data, tmp_path, "--heads-to-keep", 1, "--cooldown-updates", 15, *own)
    last, small = str(tmp_path / "checkpoint_last.pt"), tmp_path / "compact.pt"
    capsys.readouterr()
    assert cli.main(["heads", last]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("1 of 4 heads are kept")
    assert "encoder self-attention: 1 of 4" in shown
    assert "cross" not in shown
    assert cli.main(["heads", last, "--format", "png", "--output", str(tmp_path / "heads.png")]) == 0
    assert cli.main(["compact", last, str(small)]) == 0
    report = capsys.readouterr().out
    assert "fairseq-validate" in report
    own = "--layer-norm-epsilon 1e-12 --max-positions 40 --segment-embedding"
    assert f"--arch roberta_dsp_tiny {own} --compact" in report
    _, _, sample = built(pair_data)
    call = {**sample["net_input"], "classification_head_name": "sentence_classification_head"}
    outputs = []
    for path in (last, str(small)):
        (model,), _ = checkpoint_utils.load_model_ensemble([path], {"data": str(pair_data)})
        outputs.append(model.eval()(**call)[0])
    torch.testing.assert_close(*outputs, atol=1e-6, rtol=0)
