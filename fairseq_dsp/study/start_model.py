"""Models that the trainings of a study start from: a pretrained one, such as a BERT, or a trained one to prune."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import UserError
from ..model.flat_options import config_of
from ..model.units import ARCHITECTURES, model_of
from ..removal.compact import sizes
from .options import Options
from .unpruned_model import UnprunedModel, architecture_in


def read_pretrained(path: Any) -> tuple[Path | None, Options]:
    """Read what a study says of a pretrained model: its checkpoint, and its sizes as options of fairseq-train.

    :param path: a checkpoint of fairseq's or this package's; None for none.
    :raises UserError: if it is no checkpoint, or its model has no heads to prune.
    """
    from fairseq import checkpoint_utils
    from fairseq.models import MODEL_REGISTRY

    if path is None:
        return None, {}
    if not isinstance(path, str) or not Path(path).is_file():
        raise UserError(
            f"pretrained is {path!r}, but no such checkpoint is there: make one with fairseq-dsp import-bert"
        )
    state = checkpoint_utils.load_checkpoint_to_cpu(path)
    config = config_of(state)
    given = str(getattr(config, "arch", None) or architecture_in(state))
    name = model_of(given)
    ours = next((one for one in ARCHITECTURES.values() if name in (one.model, one.stock)), None)
    if ours is None:
        raise UserError(
            f"the pretrained model {path} is of the architecture {given}, whose heads cannot be pruned: give one of "
            f"{', '.join(f'{one.stock} or {one.model}' for one in ARCHITECTURES.values())}, of any size"
        )
    architecture = ours.sized(given)
    own = sizes(MODEL_REGISTRY[ours.model].namespace(config), architecture)
    options = {"arch": architecture, **{flag.removeprefix("--"): value for flag, value in own.items()}}
    return Path(path).absolute(), options


def trained_base(base: Options) -> UnprunedModel | None:
    """The model that is there already, if ``base`` names its checkpoint instead of options for its training."""
    if "checkpoint" not in base:
        return None
    if others := sorted(set(base) - {"checkpoint"}):
        raise ValueError(
            f"base has a checkpoint, which is not trained again, and the option {others[0]}: leave one of them out"
        )
    return UnprunedModel.read(str(base["checkpoint"]))
