"""When the plugin registers with fairseq: whatever of torch, fairseq or the package is imported first."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import support

SCRIPT = """
import importlib, importlib.util, sys
run = []
sys.addaudithook(lambda event, what: run.append(what[0].co_filename) if event == "exec" else None)
import fairseq_dsp
assert importlib.util.find_spec("torch").loader.get_filename("torch").endswith("__init__.py")
importlib.reload(fairseq_dsp)
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
    assert type(module.__loader__).__module__ != "fairseq_dsp.plugin"
"""


def python(script: str, **options) -> str:
    """What a script prints."""
    return support.run_command([sys.executable, "-W", "ignore::DeprecationWarning", "-c", script], **options).stdout


@pytest.mark.parametrize(
    "first",
    support.mostly_slow(["torch", "fairseq.tasks", "fairseq_dsp.subset.topk", "fairseq_dsp.training"], "fairseq.tasks"),
)
def test_the_first_import_that_needs_it_loads_it_once(first: str) -> None:
    python(SCRIPT.replace("FIRST", first))


THREADS = """
import importlib, sys, threading
sys.setswitchinterval(1e-5)
import fairseq_dsp
failed = []
threading.excepthook = failed.append
names = ["sqlite3", "xmlrpc.client", "wave", "mailbox", "tabnanny", "smtplib", "nntplib", "fairseq"]
threads = [threading.Thread(target=importlib.import_module, args=[name]) for name in names]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(100)
assert not failed and not any(thread.is_alive() for thread in threads), failed
from fairseq.models import MODEL_REGISTRY
assert "transformer_dsp" in MODEL_REGISTRY
"""


@pytest.mark.slow
def test_other_threads_import_meanwhile() -> None:
    python(THREADS)


CHECKPOINT = """
import sys
import fairseq_dsp, torch
from fairseq_dsp.subset import hard_top_k
assert torch.load(sys.argv[1], weights_only=True)["args"] is None
assert "fairseq" not in sys.modules
"""


def test_torch_alone_reads_a_checkpoint(train_tiny, tmp_path: Path) -> None:
    train_tiny(tmp_path, "--max-update", 1)
    support.run_command([sys.executable, "-c", CHECKPOINT, tmp_path / "checkpoint_last.pt"])


SPAWN = """
import multiprocessing
import fairseq_dsp
from fairseq_dsp.subset import Budget

def ask(kind, answers):
    from fairseq.models import MODEL_REGISTRY
    answers.put(["transformer_dsp" in MODEL_REGISTRY, kind.__name__])

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    process = context.Process(target=ask, args=(Budget, answers))
    process.start()
    print(answers.get(timeout=100))
    process.join()
"""


@pytest.mark.slow
def test_a_spawned_process_registers_too(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(SPAWN)
    done = support.run_command([sys.executable, tmp_path / "program.py"])
    assert done.stdout.endswith("[True, 'Budget']\n")


FAILING = """
import fairseq_dsp
for name in ("torch", "fairseq", "fairseq_dsp.model", "torch", "fairseq"):
    try:
        __import__(name)
        print(name)
    except ImportError as error:
        print(name, "fails:", error)
"""


def test_a_fairseq_that_cannot_be_imported(tmp_path: Path) -> None:
    """torch stays usable, and the reason is told as often as fairseq is asked for."""
    (tmp_path / "fairseq").mkdir()
    (tmp_path / "fairseq/__init__.py").write_text("raise ImportError('it is broken')")
    broken = [f"{name} fails: it is broken" for name in ("fairseq", "fairseq_dsp.model", "fairseq")]
    assert python(FAILING, PYTHONPATH=str(tmp_path)).splitlines() == ["torch", *broken[:2], "torch", broken[2]]
