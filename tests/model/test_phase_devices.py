"""In every phase of a training the pruner works beside the importance, wherever that is, and nothing waits."""

from __future__ import annotations

import pytest
import torch
from waiting import NothingWaits


@pytest.mark.parametrize("phase", ["all", "choosing", "fixed"])
@pytest.mark.parametrize("kind", ["heads", "ffn"])
def test_nothing_waits_in_a_forward_pass_and_what_it_measures(build, phase: str, kind: str) -> None:
    update = {"all": 0, "choosing": 5, "fixed": 50}[phase]
    flags = ("--heads-to-keep", 5, "--ffn-units-to-keep", 40, "--pruning-warmup-updates", 3, "--cooldown-updates", 20)
    model = build(*flags)
    pruner = model.pruners[kind]
    pruner.end_update(update)
    pruner.begin(torch.zeros(2, 3), True)  # the units that are fixed are read, once
    model.to("meta")
    x = torch.zeros(2, 3, device="meta", requires_grad=True)
    pruner.begin(x, True)  # constants come to the device
    with NothingWaits():
        pruner.begin(x, True)
        names, values = pruner.measured()
    assert values.device.type == "meta"
    assert values.shape == (len(names),)
    assert f"{kind}_encoder" in " ".join(names)
