"""Which GPUs the jobs of a sweep get on this machine."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import support
import torch

from fairseq_dsp.errors import UserError
from fairseq_dsp.study.local import Local
from fairseq_dsp.study.study_file import read_study
from fairseq_dsp.study.sweep import local_of

SEEN = "import torch; print(torch.cuda.device_count(), *(torch.cuda.get_device_properties(i).uuid for i in range(1)))"


def given(local: Local, jobs: int = 4) -> list[str]:
    return [local.environment(slot)["CUDA_VISIBLE_DEVICES"] for slot in range(jobs)]


@pytest.mark.parametrize(
    ("visible", "count", "names"),
    [
        (None, 2, ["0", "1"]),
        ("2,3", 2, ["2", "3"]),
        ("2, 3", 2, ["2", "3"]),
        ("3,-1,1", 1, ["3"]),  # what follows a name that is none does not count
        ("GPU-5e8f,GPU-77aa", 2, ["GPU-5e8f", "GPU-77aa"]),
        ("MIG-5e8f", 1, ["MIG-5e8f"]),
        ("", 0, [""]),
        (None, 0, [""]),
    ],
)
def test_jobs_get_the_gpus_that_the_sweep_has(
    visible: str | None, count: int, names: Sequence[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)  # tests run where there are none, too
    assert given(Local.of(None, 1, None)) == [names[slot % len(names)] for slot in range(4)]
    assert Local.of(None, 1, None).jobs == count or count == 0


def test_gpus_that_are_named_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,3")
    assert given(Local.of(None, 1, ["3"])) == ["3"] * 4
    assert given(Local.of(2, 1, [])) == [""] * 4, "--gpus '' means none, whatever this process has"


@pytest.mark.parametrize(
    ("value", "names"),
    [("0,1", ["0", "1"]), ("", []), ([0, 2], ["0", "2"]), ([], []), ("GPU-8f6d", ["GPU-8f6d"])]
    + [(wrong, None) for wrong in (True, 2, -1, 1.5, {"a": 1}, "0;1", [True], ["-1"])],
)
def test_gpus_of_a_study_are_names(value: Any, names: list[str] | None, write_study: Callable[..., Path]):
    study = read_study(write_study(local={"gpus": value}))
    args = argparse.Namespace(jobs=1, cores=1, gpus=None)
    if names is None:
        with pytest.raises(UserError, match="but a list of GPUs is expected"):
            local_of(args, study)
    else:
        assert local_of(args, study).gpus == tuple(names)


@pytest.mark.parametrize(("theirs", "found"), [(None, "10000"), ("7", "7")])
def test_the_threads_of_a_job_leave_the_others_their_cores(
    theirs: str | None, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    if theirs:
        monkeypatch.setenv("GOMP_SPINCOUNT", theirs)
    given = Local.of(2, 3, []).environment(1)
    assert (given["OMP_NUM_THREADS"], given["GOMP_SPINCOUNT"]) == ("3", found)


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU that torch can use")
def test_a_job_sees_the_gpu_that_it_was_given(monkeypatch: pytest.MonkeyPatch):
    name = f"GPU-{torch.cuda.get_device_properties(0).uuid}"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", name)
    environment = support.environment(**Local.of(None, 1, None).environment(1))
    done = subprocess.run([sys.executable, "-c", SEEN], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", name.removeprefix("GPU-")]


def test_gpus_that_torch_cannot_use_are_refused():
    """It would train on the CPU without a word."""
    unknown = str(torch.cuda.device_count() + 7)
    with pytest.raises(UserError, match=rf"--gpus {unknown} names 1 GPU, but torch can use 0 of them: give those that"):
        Local.of(1, 1, [unknown]).check_gpus()
    Local.of(1, 1, []).check_gpus()


def test_gpus_that_nobody_named_are_not_checked(monkeypatch: pytest.MonkeyPatch):
    """They are what torch has found."""
    count = torch.cuda.device_count() + 7  # a check would find fewer
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    local = Local.of(None, 1, None)
    assert local.jobs == count
    local.check_gpus()
