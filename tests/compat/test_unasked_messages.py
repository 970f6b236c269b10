"""A training says nothing that its user can do nothing about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize("arch", ["transformer", "transformer_dsp"])
def test_a_training_and_its_validation_warn_of_nothing(
    arch: str, train_tiny: Callable[..., Any], tmp_path: Path
) -> None:
    done = train_tiny(tmp_path, "--max-update", 2, arch=arch)
    assert "valid on 'valid' subset" in done.stdout
    assert [line for line in done.stdout.splitlines() if "Warning" in line or "deprecated" in line] == []
