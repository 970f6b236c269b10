"""What fairseq does silently or obscurely is refused in one sentence, printed without a traceback."""

import sys

import pytest
import ranks
import support
import torch

from fairseq_dsp.compat import tracebacks_for_users
from fairseq_dsp.errors import UserError, find_in_chain


def last_line(done) -> str:
    return done.stdout.rstrip().splitlines()[-1]


def test_torchrun_without_gpus_is_refused(train_tiny, tmp_path):
    torchrun = {"TORCHELASTIC_RUN_ID": "none", "WORLD_SIZE": "2", "RANK": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = train_tiny(tmp_path / "run", check=False, **torchrun)
    assert done.returncode == 1
    assert last_line(done).startswith("error: torchrun started 2 processes, but")
    assert "--distributed-world-size 2" in last_line(done)
    assert not (tmp_path / "run").exists()


def test_tpu_without_one_says_what_to_do(train_tiny, tmp_path):
    done = train_tiny(tmp_path, "--tpu", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert last_line(done).startswith("error: --tpu")
    assert last_line(done).endswith("torch_xla is not installed: leave out --tpu.")


def test_fp16_on_a_cpu_is_refused(train_tiny, tmp_path):
    done = train_tiny(tmp_path / "run", "--fp16", "--cpu", check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stdout
    assert last_line(done).startswith("error: --fp16 needs a GPU")
    assert not list((tmp_path / "run").glob("*.pt"))


def test_folders_and_texts_that_are_not_there(train_tiny, tiny_data, tmp_path):
    (tmp_path / "file").touch()
    for flags, told in (
        (("--train-subset", "nowhere"), f"Dataset not found: nowhere ({tiny_data}): correct its name, or that of"),
        (("--save-dir", tmp_path / "file"), f"{tmp_path}/file/dummy cannot be used (Not a directory): correct that"),
        (("--valid-subset", "nowhere"), "nowhere"),
    ):
        done = train_tiny(tmp_path / "run", *flags, check=False)
        assert done.returncode == 1
        assert "Traceback" not in done.stdout
        assert last_line(done).startswith("error: ")
        assert told in last_line(done)
    done = support.run_fairseq("train", *support.tiny_train_args(tmp_path / "none", tmp_path / "run"), check=False)
    assert last_line(done).startswith(f"error: {tmp_path}/none cannot be used (No such file or directory)")


def test_options_that_fairseq_refuses(train_tiny, tmp_path):
    for flags, told in (
        (
            ("--lr-scheduler", "polynomial_decay"),
            "--total-num-update is not given, but what --lr-scheduler chooses needs it: give it",
        ),
        (("--finetune-from-model", "none.pt"), "--finetune-from-model none.pt does not exist"),
        (
            ("--share-all-embeddings", "--encoder-embed-dim", 16, "--arch", "transformer_dsp"),
            "--share-all-embeddings requires a joined dictionary",
        ),
    ):
        done = train_tiny(tmp_path / "run", *flags, check=False)
        assert done.returncode == 1
        assert "Traceback" not in done.stdout
        assert last_line(done) == f"error: {told}"


@pytest.mark.parametrize("error", [RuntimeError("size mismatch"), ConnectionRefusedError(111, "Connection refused")])
def test_other_errors_keep_their_traceback(error, capsys):
    kept = []
    tracebacks_for_users._report(lambda *shown: kept.append(shown), type(error), error, None)
    assert kept == [(type(error), error, None)]
    assert capsys.readouterr().err == ""


def test_a_developer_can_have_the_traceback_of_a_user_error(train_tiny, tmp_path):
    done = train_tiny(tmp_path, "--tpu", check=False, LOGLEVEL="DEBUG")
    assert done.returncode == 1
    assert "Traceback" in done.stdout
    assert "UserError: --tpu" in last_line(done)


def test_a_programs_own_hook_is_left_alone():
    before = sys.excepthook
    tracebacks_for_users.apply()
    assert sys.excepthook is before


def test_a_user_error_is_found_behind_what_fairseq_made_of_it():
    shown = RuntimeError("please ensure that the architectures match")
    shown.__context__ = UserError("Give a number.")  # as if raised while that was handled
    assert str(find_in_chain(shown, UserError)) == "Give a number."
    assert find_in_chain(shown, OSError) is None


def test_what_a_process_of_a_gpu_says_is_printed_alone(capsys):
    with pytest.raises(torch.multiprocessing.ProcessRaisedException) as raised:
        torch.multiprocessing.spawn(ranks.refuse)
    tracebacks_for_users._report(sys.__excepthook__, raised.type, raised.value, None)
    assert capsys.readouterr().err == "error: give another number, such as 6\n"


def test_a_folder_that_a_process_of_a_gpu_does_not_find_is_told(capsys):
    with pytest.raises(torch.multiprocessing.ProcessRaisedException) as raised:
        torch.multiprocessing.spawn(ranks.open_nothing)
    tracebacks_for_users._report(sys.__excepthook__, raised.type, raised.value, None)
    assert capsys.readouterr().err == "error: [Errno 2] No such file or directory: 'nothing'\n"
