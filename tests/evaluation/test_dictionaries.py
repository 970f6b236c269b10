"""A checkpoint and a data-bin with other dictionaries: told wherever they meet, and nothing else is in the way."""

from __future__ import annotations

import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inprocess
import pytest
import support
import torch
from fairseq.data import Dictionary

from fairseq_dsp.cli import main
from fairseq_dsp.errors import UserError
from fairseq_dsp.model.dictionaries import check_words

Lines = list[str]
CHANGES: dict[str, tuple[Callable[[Lines], Lines], str]] = {
    "swapped": (lambda lines: [lines[1], lines[0], *lines[2:]], "40 words, here others"),
    "longer": (lambda lines: [*lines, "NEW 1"], "40 words, here 41"),
}


@pytest.fixture(scope="module")
def data(prepared_copy: Callable[[], Path]) -> dict[str, Path]:
    """Prepared corpora whose target dictionaries differ from that of training, by what was done to it."""
    found = {}
    for name, (change, _) in CHANGES.items():
        found[name] = prepared_copy()
        path = found[name] / "data-bin/dict.yy.txt"
        path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))
    return found


@pytest.fixture(scope="module")
def prepared_copy(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Path]:
    return lambda: Path(shutil.copytree(prepared, tmp_path_factory.mktemp("copy") / "data"))


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned model."""
    folder = tmp_path_factory.mktemp("trained")
    inprocess.train(tiny_data, folder, "--cpu", "--heads-to-keep", 6, "--cooldown-updates", 8)
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def stock(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of fairseq's own architecture."""
    folder = tmp_path_factory.mktemp("stock")
    inprocess.train(tiny_data, folder, "--cpu", "--max-update", 1, arch="transformer")
    return folder / "checkpoint_last.pt"


@pytest.fixture(scope="module")
def compact(trained: Path) -> Path:
    out = trained.with_name("compact.pt")
    assert main(["compact", str(trained), str(out)]) == 0
    return out


def told(capsys: Any, *arguments: object) -> str:
    """What a command of fairseq-dsp prints when it refuses; it writes one line."""
    assert main(list(map(str, arguments))) == 1
    lines = capsys.readouterr().err.splitlines()
    return next(line for line in lines if line.startswith("fairseq-dsp "))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", support.mostly_slow(["trained", "compact"], "trained"))
def test_the_commands_refuse(change: str, kind: str, request: Any, data: dict[str, Path], capsys: Any) -> None:
    checkpoint, folder = request.getfixturevalue(kind), data[change]
    data_bin, out = folder / "data-bin", checkpoint.with_name("nothing")
    message = f"another target dictionary ({CHANGES[change][1]})"
    assert message in told(capsys, "evaluate", checkpoint, "--data", folder, "--beam", 1, "--json", out)
    assert message in told(capsys, "export-folder", checkpoint, out, "--data", data_bin, "--bpe", "none")
    assert message in told(capsys, "export-ctranslate2", checkpoint, out, "--data", data_bin)
    if kind == "trained":
        assert message in told(capsys, "score-heads", checkpoint, "--data", data_bin, "--scores", out)
    assert f"{checkpoint} and {data_bin} do not belong together: the checkpoint was trained with another" in told(
        capsys, "evaluate", checkpoint, "--data", folder, "--beam", 1
    )
    assert not out.exists()


@pytest.mark.parametrize("change", support.mostly_slow(CHANGES, "swapped"))
def test_fairseqs_own_commands_refuse(change: str, trained: Path, data: dict[str, Path], tmp_path: Path) -> None:
    data_bin = data[change] / "data-bin"
    common = [data_bin, "--user-dir", support.PLUGIN, "--cpu"]
    message = f"another target dictionary ({CHANGES[change][1]})"

    def refused(tool: str, *arguments: object) -> None:
        done = support.run_fairseq(tool, *arguments, check=False)
        assert done.returncode == 1
        assert message in done.stdout.splitlines()[-1]
        assert "Traceback" not in done.stdout

    refused("generate", *common, "--path", trained)
    refused("validate", *common, "--path", trained, "--task", "translation", "--max-tokens", 400)
    pruned = ["--cpu", "--heads-to-keep", 6]
    training = support.tiny_train_args(data_bin, tmp_path / "tuned", *pruned, arch="transformer_dsp")
    refused("train", *training, "--finetune-from-model", trained)
    assert not list((tmp_path / "tuned").iterdir())
    shutil.copytree(trained.parent, tmp_path / "resumed", ignore=lambda *_: ["compact.pt"])
    more = support.tiny_train_args(data_bin, tmp_path / "resumed", *pruned, "--max-update", 30, arch="transformer_dsp")
    refused("train", *more)
    distilled = ["--criterion", "label_smoothed_cross_entropy_dsp", "--distill-from", trained]
    refused("train", *training, *distilled)


def test_the_same_words_elsewhere_are_the_same(
    trained: Path, compact: Path, stock: Path, prepared_copy: Callable[[], Path]
) -> None:
    folder = prepared_copy()
    # numbers of occurrences are no part of it
    path = folder / "data-bin/dict.yy.txt"
    path.write_text("".join(f"{line.split()[0]} 1\n" for line in path.read_text().splitlines()))
    for checkpoint in (trained, compact):
        assert main(["evaluate", str(checkpoint), "--data", str(folder), "--beam", "1"]) == 0
    state, of_stock = (torch.load(path, weights_only=True)["model"] for path in (trained, stock))
    assert {name for name in state if not name.startswith("heads.")} == set(of_stock)


def forgetful(checkpoint: Path, path: Path) -> Path:
    """A checkpoint as earlier versions wrote it, which knows no dictionaries."""
    state = torch.load(checkpoint, weights_only=True)
    state["model"] = dict(state["model"])
    torch.save(state, path)
    return path


def moved(checkpoint: Path, path: Path, data: Path) -> Path:
    """A checkpoint in another folder, of a training on other data."""
    path.parent.mkdir()
    state = torch.load(checkpoint, weights_only=True)
    state["cfg"]["task"]["data"] = str(data)
    torch.save(state, path)
    return path


def test_checkpoints_that_know_no_dictionaries(
    trained: Path, stock: Path, data: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    old = forgetful(trained, tmp_path / "old.pt")
    swapped, out = data["swapped"], tmp_path / "out"
    for checkpoint in (old, stock):  # the folder of its training is there, with its dictionaries
        message = f"{swapped}/data-bin/dict.yy.txt has other words than"
        scoring = ("--heads-to-keep", 6, "--out", out) if checkpoint == old else ()
        for command in (
            ("evaluate", checkpoint, "--data", swapped, "--beam", 1),
            ("score-heads", checkpoint, "--data", swapped / "data-bin", *scoring),
            ("prepare", "distilled", checkpoint, swapped, out),
        ):
            assert message in told(capsys, *command)
            assert not out.exists()
    shutil.copy(swapped / "data-bin" / "dict.yy.txt", tmp_path)  # beside the checkpoint: its training's, after all
    assert main(["evaluate", str(old), "--data", str(swapped), "--beam", "1"]) == 0
    (tmp_path / "dict.yy.txt").unlink()
    gone = moved(old, tmp_path / "moved" / "model.pt", tmp_path / "gone")
    assert main(["evaluate", str(gone), "--data", str(swapped), "--beam", "1"]) == 0
    shutil.copy(data["longer"] / "data-bin" / "dict.yy.txt", gone.parent)  # of another model: it says nothing
    assert main(["evaluate", str(gone), "--data", str(swapped), "--beam", "1"]) == 0
    capsys.readouterr()
    longer = data["longer"]
    differ = "because their dictionaries differ in size"
    for checkpoint, while_loading in ((old, "another target dictionary (40 words, here 41)"), (stock, differ)):
        assert while_loading in told(capsys, "score-heads", checkpoint, "--data", longer / "data-bin")
        for command in (
            ("evaluate", checkpoint, "--data", longer, "--beam", 1),
            ("prepare", "distilled", checkpoint, longer, out),
        ):
            said = told(capsys, *command)
            assert f"{checkpoint} and {longer}/data-bin do not belong together" in said
            assert "(40 words, here 41)" in said or differ in said
            assert not out.exists()


def test_a_training_with_other_words_on_purpose(trained: Path, data: dict[str, Path], tmp_path: Path) -> None:
    stock = tmp_path / "stock.pt"
    assert main(["export-fairseq", str(trained), str(stock)]) == 0
    flags = ["--cpu", "--heads-to-keep", 6, "--max-update", 1, "--finetune-from-model", stock]
    state = inprocess.train(data["swapped"] / "data-bin", tmp_path / "tuned", *flags)
    assert state["model"]


def test_one_dictionary_for_a_data_bin_of_two(trained: Path, prepared: Path, tmp_path: Path, capsys: Any) -> None:
    state = torch.load(trained)
    state["cfg"]["model"].share_all_embeddings = True
    torch.save(state, tmp_path / "shared.pt")
    said = told(capsys, "evaluate", tmp_path / "shared.pt", "--data", prepared)
    assert "do not belong together: the model has one dictionary for both languages" in said


def test_embeddings_of_a_file_that_is_gone(stock: Path, prepared: Path, tmp_path: Path, capsys: Any) -> None:
    state = torch.load(stock)
    state["cfg"]["model"].encoder_embed_path = "/nowhere/embeddings.txt"
    torch.save(state, tmp_path / "from-file.pt")
    given = (str(tmp_path / "from-file.pt"), "--data", str(prepared))
    assert main(["evaluate", *given]) == 0
    assert "BLEU" in capsys.readouterr().out
    scoring = ("--split", "train", "--sentences", "8", "--heads-to-keep", "6", "--out", str(tmp_path / "heads.json"))
    assert main(["score-heads", *given, *scoring]) == 0
    assert main(["prepare", "distilled", given[0], str(prepared), str(tmp_path / "distilled")]) == 0


@pytest.mark.parametrize("content", [b"\xff\xfe", b"foo bar\n"])
def test_a_damaged_dictionary(content: bytes, trained: Path, prepared_copy: Callable[[], Path], capsys: Any) -> None:
    data = prepared_copy()
    path = data / "data-bin/dict.yy.txt"
    path.write_bytes(content)
    assert f"{path} is no dictionary of fairseq's" in told(capsys, "evaluate", trained, "--data", data)


def test_a_model_of_the_other_direction_is_refused():
    """Where both languages have one dictionary, nothing else tells it."""
    words = Dictionary()
    state = {"cfg": {"task": Namespace(source_lang="de", target_lang="en")}, "model": {}}
    check_words(state, "model.pt", Path(), {"de": words, "en": words})
    check_words(state, "model.pt", Path(), {"de": words, "fr": words})
    check_words({"cfg": None, "model": {}}, "stock.pt", Path(), {"en": words, "de": words})
    told = (
        "model.pt translates from de into en, but the data is for a model from en into de: give the model or the data"
    )
    with pytest.raises(UserError, match=told):
        check_words(state, "model.pt", Path(), {"en": words, "de": words})
