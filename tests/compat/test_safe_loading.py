"""Checkpoints are read safely: the good ones load, a hostile one is refused and nothing of it runs."""

import os
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import support
import torch
from fairseq import checkpoint_utils

from fairseq_dsp.compat import apply_all, safe_loading
from fairseq_dsp.errors import UserError

apply_all()


class Hostile:
    """An object whose pickle calls *function* with *arguments* when it is read the ordinary way."""

    def __init__(self, function: Callable, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.fixture(scope="module")
def trained(tmp_path_factory, train_tiny) -> Path:
    """A run with validation by BLEU, whose checkpoints hold numpy arrays."""
    folder = tmp_path_factory.mktemp("trained")
    bleu = ("--eval-bleu", "--eval-bleu-detok", "space", "--eval-bleu-args", '{"beam": 1, "max_len_b": 10}')
    best = ("--best-checkpoint-metric", "bleu", "--maximize-best-checkpoint-metric", "--keep-best-checkpoints", 2)
    train_tiny(folder, "--max-update", 6, *bleu, *best)
    return folder


@pytest.fixture
def hostile(trained, tmp_path) -> tuple[Path, Path]:
    """A checkpoint that is whole but for one hostile object, and the file that this object would write."""
    proof = tmp_path / "it-ran"
    state = torch.load(trained / "checkpoint_last.pt", weights_only=True)
    state["extra_state"]["anything"] = Hostile(os.system, f"touch {proof}")
    torch.save(state, tmp_path / "hostile.pt")
    return tmp_path / "hostile.pt", proof


def test_the_hostile_object_is_hostile(tmp_path):
    proof = tmp_path / "it-ran"
    pickle.loads(pickle.dumps(Hostile(os.system, f"touch {proof}")))
    assert proof.exists()


def test_train_resume_validate_and_generate_read_what_training_wrote(trained, tiny_data, run_fairseq, train_tiny):
    assert b"numpy" in (trained / "checkpoint_last.pt").read_bytes()  # else this would test too little
    log = train_tiny(trained, "--max-update", 8).stdout
    assert "Loaded checkpoint" in log
    assert "@ 6 updates" in log
    common = (tiny_data, "--user-dir", support.PLUGIN, "--path", trained / "checkpoint_last.pt", "--num-workers", 0)
    validated = run_fairseq("validate", *common, "--task", "translation", "--max-tokens", 400).stdout
    assert "valid on 'valid' subset" in validated
    assert "Generate test with beam=2" in run_fairseq("generate", *common, "--beam", 2).stdout


@pytest.mark.parametrize("how", ["resume", "restore-file", "finetune-from-model", "validate", "generate"])
def test_a_hostile_checkpoint_is_refused_by_every_command(how, hostile, tiny_data, run_fairseq, train_tiny, tmp_path):
    checkpoint, proof = hostile
    common = (tiny_data, "--user-dir", support.PLUGIN, "--path", checkpoint, "--num-workers", 0, "--max-tokens", 400)
    # A switch that asks torch for unsafe loading must not help the attacker either.
    options = {"check": False, "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    if how in ("validate", "generate"):
        done = run_fairseq(how, *common, "--task", "translation", **options)
    elif how == "resume":
        (tmp_path / "run").mkdir()
        checkpoint = checkpoint.rename(tmp_path / "run" / "checkpoint_last.pt")
        done = train_tiny(tmp_path / "run", **options)
    else:
        done = train_tiny(tmp_path / "run", f"--{how}", checkpoint, **options)
    assert_refused(done, checkpoint, "posix.system")
    assert not proof.exists()


def assert_refused(done: subprocess.CompletedProcess, checkpoint: Path, reason: str) -> None:
    assert done.returncode == 1
    sentence = done.stdout.rstrip().splitlines()[-1]
    assert sentence.startswith(f"error: The checkpoint {checkpoint} ")
    assert reason in sentence
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize(
    ("function", "name"), [(open, "open"), (exec, "exec"), (os.system, "posix.system"), (np.load, "numpy.load")]
)
def test_whatever_is_not_harmless_is_named_and_refused(function, name, tmp_path):
    path = tmp_path / "hostile.pt"
    torch.save({"args": Hostile(function, str(tmp_path / "it-ran"), "w")}, path)
    with pytest.raises(UserError, match=rf"{path} is refused and nothing in it was run: it holds \S*{name}"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    with path.open("wb") as file:  # and as a bare pickle, without torch's zip around it
        pickle.dump(Hostile(function, str(tmp_path / "it-ran"), "w"), file, protocol=2)
    with pytest.raises(UserError, match=str(path)):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert not (tmp_path / "it-ran").exists()


def test_harmless_but_unknown_types_are_refused_too(tmp_path):
    torch.save({"args": Path("anywhere")}, tmp_path / "path.pt")
    with pytest.raises(UserError, match=r"it holds pathlib\S*Path"):
        checkpoint_utils.load_checkpoint_to_cpu(str(tmp_path / "path.pt"))


def test_nothing_that_is_allowed_runs_code():
    """Only data types, and the constructor of arrays: neither a function of the system nor anything of fairseq's."""
    names = {getattr(kind, "__name__", None) or kind[1].rsplit(".")[-1] for kind in safe_loading.allowed_types()}
    harmless = {"Namespace", "ndarray", "dtype", "_reconstruct", "scalar"}
    assert harmless <= names
    assert all(name.endswith("DType") for name in names - harmless)


@pytest.mark.parametrize("dtype", [np.bool_, np.int32, np.int64, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("module", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_arrays_of_old_and_new_numpy_load(dtype, module, tmp_path):
    array = np.arange(6).astype(dtype).reshape(2, 3)
    torch.save(array, tmp_path / "written.pt")
    with zipfile.ZipFile(tmp_path / "written.pt") as written, zipfile.ZipFile(tmp_path / "array.pt", "w") as edited:
        for name in written.namelist():
            pickled = re.sub(rb"numpy\.(_core|core)\.multiarray", module, written.read(name))
            edited.writestr(name, pickled)
    loaded = torch.load(tmp_path / "array.pt", weights_only=True)
    np.testing.assert_array_equal(loaded, array)
    assert loaded.dtype == array.dtype


@pytest.mark.parametrize("number", [np.float64(0.1), np.float32(-2.5), np.int64(-7), np.bool_(True)])
def test_a_metric_that_is_a_number_of_numpy_loads(number, tmp_path):
    torch.save({"best": number}, tmp_path / "written.pt")
    loaded = torch.load(tmp_path / "written.pt", weights_only=True)["best"]
    assert loaded == number
    assert type(loaded) in (float, int, bool)


def test_no_other_value_of_numpy_loads(tmp_path):
    torch.save({"best": np.void(b"x" * 16), "other": np.zeros(1, "i4,f8")[0]}, tmp_path / "written.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "written.pt", weights_only=True)


@pytest.mark.parametrize("kept", [0, 3, 100, "half", "all but ten bytes"])
def test_a_truncated_checkpoint_is_refused(kept, trained, tmp_path):
    whole = (trained / "checkpoint_last.pt").read_bytes()
    length = {"half": len(whole) // 2, "all but ten bytes": len(whole) - 10}.get(kept, kept)
    path = tmp_path / "truncated.pt"
    path.write_bytes(whole[:length])
    with pytest.raises(UserError, match=rf"{path} \({length:,} bytes\) cannot be used: it is truncated") as error:
        checkpoint_utils.load_checkpoint_to_cpu(str(path))
    assert "weights_only" not in str(error.value), "no advice of torch's to load it unsafely"


@pytest.mark.parametrize("content", [{"weight": torch.zeros(2)}, [1, 2], "text"])
def test_what_is_no_fairseq_checkpoint_is_refused(content, tmp_path):
    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(UserError, match=rf"{path} .* not a fairseq checkpoint"):
        checkpoint_utils.load_checkpoint_to_cpu(str(path))


def test_resume_from_a_truncated_checkpoint_says_so(trained, train_tiny, tmp_path):
    truncated = tmp_path / "checkpoint_last.pt"
    truncated.write_bytes((trained / "checkpoint_last.pt").read_bytes()[:1000])
    done = train_tiny(tmp_path, check=False)
    assert_refused(done, truncated, "(1,000 bytes) cannot be used: it is truncated")
    assert truncated.stat().st_size == 1000


def test_want_of_memory_is_no_damage(tmp_path):
    path = tmp_path / "large.pt"
    torch.save({"model": {"weight": torch.zeros(25_000_000)}}, path)
    script = f"""
import resource
from fairseq import checkpoint_utils
from fairseq_dsp.compat import apply_all
from fairseq_dsp.errors import UserError
apply_all()
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
resource.setrlimit(resource.RLIMIT_AS, (1024 * used + 40_000_000,) * 2)
try:
    checkpoint_utils.load_checkpoint_to_cpu({str(path)!r})
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert (
        done.stdout.strip()
        == f"The checkpoint {path} cannot be read: there is not enough free memory for it on this machine."
    )


def test_a_name_that_nothing_registers_may_be_of_a_plugin():
    said = safe_loading.explanation("x.pt", KeyError("mine"))
    assert "KeyError: 'mine'" in said
    assert "give the --user-dir that has it" in said
