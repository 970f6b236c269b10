"""When the plugin registers with fairseq: whatever of torch, fairseq or the package is imported first."""

from __future__ import annotations

import sys

import pytest
import support

SCRIPT = """
import sys
run = []
sys.addaudithook(lambda event, what: run.append(what[0].co_filename) if event == "exec" else None)
import fairseq_dsp
assert not {"torch", "fairseq"} & set(sys.modules)
import FIRST
from fairseq.models import MODEL_REGISTRY
from fairseq.tasks import TASK_REGISTRY
import fairseq, torch
assert "transformer_dsp" in MODEL_REGISTRY and "translation_dsp" in TASK_REGISTRY
assert fairseq_dsp.compat.apply_all.cache_info().currsize == 1
for module in (torch, fairseq, fairseq_dsp.subset, fairseq_dsp.model, fairseq_dsp.training):
    assert run.count(module.__file__) == 1, module
    assert module.__spec__.loader is module.__loader__ and module is sys.modules[module.__name__]
"""


@pytest.mark.parametrize("first", ["torch", "fairseq.tasks", "fairseq_dsp.subset.topk"])
def test_the_first_import_that_needs_it_loads_it_once(first: str) -> None:
    support.run_command([sys.executable, "-c", SCRIPT.replace("FIRST", first)])
