"""fairseq's training inside the test's own process, through the same functions as its two command lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
import quick_hydra
import support
import torch
from fairseq import criterions, metrics, options, tasks, utils
from fairseq.dataclass.initialize import add_defaults, hydra_init
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import hydra_train
from fairseq_cli.train import main
from omegaconf import OmegaConf

import fairseq_dsp

quick_hydra.install()
CONFIGS = support.PLUGIN / "config"


def argparse_config(data: Path, save_dir: Path, *flags: object, arch: str = "transformer_dsp") -> Any:
    """What ``fairseq-train`` makes of its command line."""
    assert fairseq_dsp, "imported, so that its architectures are known to the parser"
    argv = support.tiny_train_args(data, save_dir, *flags, arch=arch)
    return convert_namespace_to_omegaconf(options.parse_args_and_arch(options.get_training_parser(), argv))


def hydra_config(name: str, data: Path, save_dir: Path, *overrides: str, configs: Path = CONFIGS) -> Any:
    """What ``fairseq-hydra-train --config-dir CONFIGS --config-name NAME`` makes of its command line."""
    hydra_init(name)
    settings = [f"task.data={data}", f"checkpoint.save_dir={save_dir}", f"common.user_dir={support.PLUGIN}"]
    with hydra.initialize_config_dir(str(configs), version_base="1.1"):
        config = hydra.compose(name, [*settings, *overrides])
    add_defaults(config)
    return config


HYDRA_TINY = (
    "+model.encoder.layers=2 +model.decoder.layers=2 +model.encoder.embed_dim=16 +model.decoder.embed_dim=16 "
    "+model.encoder.ffn_embed_dim=32 +model.decoder.ffn_embed_dim=32 +model.encoder.attention_heads=2 "
    "+model.decoder.attention_heads=2 lr_scheduler.warmup_updates=4 optimization.lr=[0.005] "
    "optimization.max_update=20 optimization.max_epoch=0 dataset.max_tokens=400 dataset.num_workers=0 common.cpu=true"
).split()
"""Overrides that make a config of the package train the tiny model."""


def build(config: Any) -> Any:
    """Build the model of a training config, as the training does."""
    return tasks.setup_task(config.task).build_model(config.model)


def model(data: Path, *flags: object, arch: str = "transformer_dsp", seed: int = 1) -> Any:
    """Build a model from command-line flags alone.

    The namespace is what models get of ``fairseq-train``, too; the configuration of the rest takes long to compose.
    """
    argv = support.tiny_train_args(data, Path("unused"), *flags, arch=arch)
    del argv[1:3]  # --user-dir: the plugin is imported already
    parsed = options.parse_args_and_arch(options.get_training_parser(), argv)
    utils.set_torch_seed(seed)
    return tasks.setup_task(parsed).build_model(parsed)


def save(model: Any, config: Any, path: Path) -> Path:
    """Write the checkpoint that a training of five updates leaves."""
    state = {
        "args": None,
        "cfg": OmegaConf.to_container(config, resolve=True, enum_to_str=True),
        "model": model.state_dict(),
        "optimizer_history": [{"criterion_name": "", "optimizer_name": "", "lr_scheduler_state": {}, "num_updates": 5}],
        "task_state": {},
        "extra_state": {"train_iterator": {"epoch": 1}},
        "last_optimizer_state": None,
    }
    torch.save(state, path)
    return path


@torch.no_grad()
def randomise(model: Any) -> None:
    """Give the importance and the biases, which begin with zeros, other numbers."""
    draw = torch.Generator().manual_seed(3)
    for name, parameter in model.named_parameters():
        if name.endswith(("importance", "bias")):
            parameter.copy_(torch.randn(parameter.shape, generator=draw))


def with_criterion(config: Any, *sizes: int) -> tuple[Any, Any, list[dict[str, Any]]]:
    """A training's model, its criterion, and for each of *sizes* a batch of so many sentences of the validation set."""
    task = tasks.setup_task(config.task)
    task.load_dataset("valid")
    torch.manual_seed(1)
    model, dataset = task.build_model(config.model), task.dataset("valid")
    samples = [dataset.collater([dataset[i] for i in range(size)]) for size in sizes]
    return model, criterions.build_criterion(config.criterion, task), samples


def train(data: Path, save_dir: Path, *flags: object, arch: str = "transformer_dsp") -> dict[str, Any]:
    """Train as ``fairseq-train`` does; return the last checkpoint."""
    metrics.reset()
    main(argparse_config(data, save_dir, *flags, arch=arch))
    return checkpoint(save_dir)


def train_hydra(name: str, data: Path, save_dir: Path, *overrides: str) -> dict[str, Any]:
    """Train as ``fairseq-hydra-train`` does; return the last checkpoint."""
    metrics.reset()
    hydra_train._hydra_main(hydra_config(name, data, save_dir, *overrides))
    return checkpoint(save_dir)


def checkpoint(save_dir: Path, name: str = "checkpoint_last.pt") -> dict[str, Any]:
    """Read a checkpoint, safely."""
    return torch.load(save_dir / name, weights_only=True)


def importance(model: dict[str, torch.Tensor]) -> torch.Tensor:
    """The importance of all heads of a state dict, numbered by type, layer and index."""
    return model["heads.importance"]


def without_importance(model: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The entries of a state dict that the stock model has too."""
    return {name: value for name, value in model.items() if not name.startswith("heads.")}


def plain(config: Any) -> Any:
    """A config as plain dicts and lists."""
    return OmegaConf.to_container(config, enum_to_str=True) if OmegaConf.is_config(config) else config
