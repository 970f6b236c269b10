"""Both of fairseq's command lines: every option arrives, nothing unknown passes, the configs run."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import inprocess
import pytest
import support
import yaml

from fairseq_dsp.errors import UserError
from fairseq_dsp.model import HeadSet, PruningConfig
from fairseq_dsp.model.pruning_options import flag
from fairseq_dsp.model.retired import RETIRED

# options that go together, each with a value that is not its default
GROUPS: list[dict[str, Any]] = [
    {
        "heads_to_keep": 7,
        "min_heads_per_module": 1,
        "min_encoder_heads": 1,
        "min_cross_heads": 2,
        "min_decoder_heads": 3,
        "heads_to_keep_updates": 4,
        "head_selection": "ste",
        "pruning_lr": 0.03,
        "pruning_warmup_updates": 3,
        "initial_temperature": 2.5,
        "final_temperature": 0.5,
        "cooldown_updates": 77,
        "freeze_weights": True,
    },
    {"encoder_heads_to_keep": 1, "cross_heads_to_keep": 2, "decoder_heads_to_keep": 3},
    {"heads_to_keep_low": 2, "heads_to_keep_high": 4},
    {"heads_to_keep": 6, "uniform_heads": True, "ffn_units_to_keep": 7, "ffn_unit_width": 8},
    {"parameters_to_keep": 0.4},
    {"flops_to_keep": 0.6},
    {"head_selection": "hard_concrete", "l0_penalty": 0.01, "heads_to_keep": 5},
    {"head_selection": "fixed", "kept_heads": "heads.json"},
]


@pytest.fixture
def heads_file(tmp_path: Path) -> Path:
    content = {"total": 12, "kept": 2, "encoder_self": [[0], []], "decoder_self": [[], []], "cross": [[1], []]}
    path = tmp_path / "heads.json"
    path.write_text(json.dumps(content))
    return path


def test_the_groups_hold_every_option():
    # --compact builds a model without gates; tests/removal tries it in both command lines
    known = {f.name for f in fields(PruningConfig)} - {"_name", "compact", *RETIRED}
    assert known == {name for group in GROUPS for name in group}


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: next(iter(group)))
def test_every_option_arrives_in_both_command_lines(group: dict, tiny_data: Path, tmp_path: Path, heads_file: Path):
    group = {name: str(heads_file) if name == "kept_heads" else value for name, value in group.items()}
    flags = [word for name, v in group.items() for word in ([flag(name)] if v is True else [flag(name), v])]
    overrides = [f"+model.{name}={value}" for name, value in group.items()]
    configs = (
        inprocess.argparse_config(tiny_data, tmp_path, *flags),
        inprocess.hydra_config("base", tiny_data, tmp_path, *inprocess.HYDRA_TINY, *overrides),
    )
    for config in configs:
        arrived = inprocess.build(config).pruner.plan.config
        if arrived.kept_heads:
            assert HeadSet.read(arrived.kept_heads) == HeadSet.read(heads_file)
            arrived.kept_heads = str(heads_file)
        assert {name: getattr(arrived, name) for name in group} == group
        others = {f.name: f.default for f in fields(PruningConfig) if f.name not in {*group, "_name"}}
        assert {name: getattr(arrived, name) for name in others} == others


def test_nested_and_flat_transformer_options_arrive(tiny_data: Path, tmp_path: Path):
    flat = [override.replace("coder.", "coder_").replace("+model", "+model") for override in inprocess.HYDRA_TINY]
    nested = [*inprocess.HYDRA_TINY, "+model.quant_noise.pq=0.0"]
    for overrides in (flat, nested):
        model = inprocess.build(
            inprocess.hydra_config("joint", tiny_data, tmp_path, "model.heads_to_keep=6", *overrides)
        )
        assert [len(model.encoder.layers), len(model.decoder.layers)] == [2, 2]
        assert model.encoder.layers[0].fc1.weight.shape == (32, 16)
        assert model.decoder.layers[0].encoder_attn.num_heads == 2
        assert model.pruner.plan.units == 12


def test_a_size_that_follows_from_a_nested_one_follows_it(tiny_data: Path, tmp_path: Path):
    config = inprocess.hydra_config("base", tiny_data, tmp_path, "+model.encoder.embed_dim=16")
    config.model._name = "transformer_dsp"
    model = inprocess.build(config)
    assert model.decoder.embed_tokens.embedding_dim == 16


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("+model.heads_to_kep=6", "unknown key heads_to_kep, did you mean heads_to_keep?"),
        ("+model.encoder.layerz=2", "unknown key encoder_layerz, did you mean encoder_layers?"),
        ("+model.whatever=2", "unknown key whatever: remove it"),
        ("+model.min_heads_per_module=two", "min_heads_per_module cannot be used: Value 'two'"),
        ("+model.head_selection=best", "--head-selection is best, but one of fixed, gumbel"),
    ],
)
def test_unknown_keys_and_values_are_errors(override: str, sentence: str, tiny_data: Path, tmp_path: Path):
    config = inprocess.hydra_config("joint", tiny_data, tmp_path, *inprocess.HYDRA_TINY, override)
    with pytest.raises(UserError, match=sentence.replace("?", r"\?")):
        inprocess.build(config)


def test_all_configs_are_tested():
    assert {path.stem for path in inprocess.CONFIGS.glob("*.yaml")} == set(CONFIGS)


CONFIGS = {
    "base": "",
    "joint": "model.heads_to_keep=5 model.cooldown_updates=5",
    "joint_paper": "model.heads_to_keep=5 model.cooldown_updates=5",
    "pipelined": "model.heads_to_keep=5 checkpoint.finetune_from_model=BASE",
    "pipelined_paper": "model.heads_to_keep=5 model.cooldown_updates=5 checkpoint.finetune_from_model=BASE",
    "ste": "model.heads_to_keep=5",
    "voita": "checkpoint.finetune_from_model=BASE",
    "voita_at_k": "model.heads_to_keep=5 model.heads_to_keep_updates=9 checkpoint.finetune_from_model=BASE",
    "prune": "model.heads_to_keep=5 model.heads_to_keep_updates=5 "
    "model.cooldown_updates=6 model.min_encoder_heads=2 lr_scheduler.total_num_update=20 "
    "checkpoint.finetune_from_model=BASE",
    "recovery": "model.kept_heads=HEADS lr_scheduler.total_num_update=20 checkpoint.finetune_from_model=BASE",
}


@pytest.fixture(scope="module")
def base(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained model without pruning, trained through the hydra command line itself."""
    folder = tmp_path_factory.mktemp("base")
    support.run_fairseq("hydra_train", *hydra_args("base", tiny_data, folder, *inprocess.HYDRA_TINY), cwd=folder)
    return folder / "checkpoint_last.pt"


def hydra_args(name: str, data: Path, save_dir: Path, *overrides: str) -> list[str]:
    settings = [f"task.data={data}", f"checkpoint.save_dir={save_dir}", f"common.user_dir={support.PLUGIN}"]
    where = ["--config-dir", str(inprocess.CONFIGS), "--config-name", name]
    return [*where, *settings, *overrides]


@pytest.mark.parametrize("name", support.mostly_slow(sorted(set(CONFIGS) - {"base"}), "joint", "prune"))
def test_the_config_trains(name: str, tiny_data: Path, base: Path, heads_file: Path, tmp_path: Path):
    overrides = CONFIGS[name].replace("BASE", str(base)).replace("HEADS", str(heads_file)).split()
    # no epoch limit stands in for the run's own, which the tiny corpus reaches too early
    state = inprocess.train_hydra(name, tiny_data, tmp_path, *inprocess.HYDRA_TINY, *overrides)
    assert state["optimizer_history"][-1]["num_updates"] == 20
    moved = inprocess.importance(state["model"]).abs().sum() > 0
    assert moved == (name != "recovery")


def test_hydra_leaves_its_files_beside_the_checkpoints_only(base: Path):
    assert {path.name for path in base.parent.iterdir()} >= {"hydra_train.log", ".hydra", "checkpoint_last.pt"}


def test_generate_reads_a_hydra_checkpoint(tiny_data: Path, base: Path, run_fairseq):
    flags = ["--path", base, "--user-dir", support.PLUGIN, "--cpu", "--required-batch-size-multiple", 1]
    done = run_fairseq("generate", tiny_data, *flags, "--beam", 2, "--num-workers", 0, "--task", "translation_dsp")
    assert sum(line.startswith("H-") for line in done.stdout.splitlines()) == 20


def test_an_unknown_key_is_one_sentence_on_the_command_line(tiny_data: Path, tmp_path: Path, run_fairseq):
    args = hydra_args("joint", tiny_data, tmp_path, *inprocess.HYDRA_TINY, "+model.heads_to_kep=6")
    done = run_fairseq("hydra_train", *args, cwd=tmp_path, check=False)
    assert done.returncode != 0
    assert "error: the model config has an unknown key heads_to_kep, did you mean heads_to_keep?" in done.stdout
    assert "Traceback" not in done.stdout
    assert not list(tmp_path.glob("*.pt"))


def test_the_configs_do_not_repeat_what_the_recipe_overrides():
    recipe = yaml.safe_load((inprocess.CONFIGS / "recipe/iwslt_de_en.yaml").read_text())
    for path in inprocess.CONFIGS.glob("*.yaml"):
        for section, settings in yaml.safe_load(path.read_text()).items():
            if section != "defaults":
                assert not set(settings) & set(recipe.get(section, {})), (path.name, section)
