"""Raw text through both kinds of exported folder: the translations of ``evaluate``, line by line as they come."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import support

import fairseq_dsp
from fairseq_dsp.cli import main
from fairseq_dsp.deployment.text import read_bpe
from fairseq_dsp.deployment.translator import Search
from fairseq_dsp.errors import UserError
from fairseq_dsp.removal.export_check import log_probabilities

pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")

EXPORTS = ("export-folder", "export-ctranslate2")
TRAINING = "--max-tokens 1200 --max-update 250 --lr 0.01 --dropout 0 --heads-to-keep 6".split()
POSITIONS = ("--max-source-positions", 64, "--max-target-positions", 64)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some generated phrases, in subwords of tokenised text."""
    out = tmp_path_factory.mktemp("phrases") / "data"
    sizes = "--train-size 1500 --valid-size 20 --test-size 40 --vocab-size 300 --tokenizer moses --bpe subword-nmt"
    assert main(["prepare", "phrases", str(out), *sizes.split()]) == 0
    return out


@pytest.fixture(scope="module")
def checkpoint(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compact model, trained until the best translation of most sentences is far from the second best."""
    run = tmp_path_factory.mktemp("run")
    flags = (*TRAINING, *POSITIONS, "--no-save-optimizer-state")
    support.run_fairseq("train", *support.tiny_train_args(corpus / "data-bin", run, *flags, arch="transformer_dsp"))
    assert main(["compact", str(run / "checkpoint_last.pt"), str(run / "compact.pt")]) == 0
    return run / "compact.pt"


@pytest.fixture(scope="module")
def folders(checkpoint: Path, corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The exported folders by the command."""
    made = tmp_path_factory.mktemp("folders")
    for name in EXPORTS:
        assert main([name, str(checkpoint), str(made / name), "--data", str(corpus / "data-bin")]) == 0
    return {name: made / name for name in EXPORTS}


class Translated(NamedTuple):
    """What ``fairseq-dsp translate`` gave: its status, the lines of standard output, standard error."""

    status: int
    lines: list[str]
    told: str


@pytest.fixture
def translate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: Any) -> Callable[..., Translated]:
    """``translate(FOLDER, BYTES, *options)`` runs the command in this process."""

    def translate(folder: Path, text: bytes, *options: object) -> Translated:
        (tmp_path / "input").write_bytes(text)
        capfdbinary.readouterr()
        with (
            (tmp_path / "input").open() as given,
            open(1, "w", closefd=False) as output,
            monkeypatch.context() as patched,
        ):
            patched.setattr(sys, "stdin", given)
            patched.setattr(sys, "stdout", output)
            status = main(["translate", str(folder), "--threads", "1", *map(str, options)])
        lines, told = capfdbinary.readouterr()
        assert lines.endswith(b"\n") or not lines
        return Translated(status, lines.decode().split("\n")[:-1], told.decode())

    return translate


def nearly_tied(folders: dict[str, Path], line: str, lenpen: float) -> bool:
    """Whether the best translations of a line by the engine and by fairseq have the same score, but for 0.001.

    The engine takes the end of the sentence out of what the first word may be before it makes probabilities, fairseq
    afterwards. That adds a little to each log-probability, which the length penalty makes more of in short sentences.
    """
    ours, engine = (fairseq_dsp.from_pretrained(folders[name], threads=1) for name in EXPORTS)
    source = ours.text.encode(line).split()
    best = [model.best([source], Search(beam=4, lenpen=lenpen, max_len_b=30))[0].split() for model in (engine, ours)]
    scores = [
        sum(log_probabilities(ours.model, ours.task, [(source, words)])) / (len(words) + 1) ** lenpen for words in best
    ]
    return abs(scores[0] - scores[1]) < 0.001


@pytest.mark.parametrize("lenpen", [0.0, 1.2, 1.5])
@pytest.mark.parametrize("name", EXPORTS)
def test_raw_text_gives_the_translations_of_evaluate(
    name: str, lenpen: float, folders: dict[str, Path], checkpoint: Path, corpus: Path, tmp_path: Path, translate: Any
) -> None:
    search = ("--beam", "4", "--max-len-b", "30", "--lenpen", str(lenpen))
    out = tmp_path / "translations"
    assert main(["evaluate", str(checkpoint), "--data", str(corpus), "--translations", str(out), "--cpu", *search]) == 0
    expected = out.read_text(encoding="utf-8").splitlines()
    assert len(set(expected)) > 2  # the little model says few things, and how few differs between machines
    source = (corpus / "raw/test.de").read_bytes()
    status, found, told = translate(folders[name], source, *search, "--batch-size", 7)
    assert (status, len(found), told) == (0, 40, "")
    for line, one, other in zip(source.decode().splitlines(), found, expected, strict=True):
        assert one == other or (name == "export-ctranslate2" and nearly_tied(folders, line, lenpen)), (one, other)
    # a line that is too long, an empty one, one of blanks, none at the end
    lines = source.splitlines()
    long = b" ".join([lines[3]] * 30)
    mixed = b"\n".join([b"\xef\xbb\xbf" + long, b"", lines[0] + b"\r", " \u2009\t".encode(), lines[1]])
    status, (first, *others), told = translate(folders[name], mixed, *search)
    assert status == 0
    assert others == ["", found[0], "", found[1]]
    assert told.startswith("line 1 has ")
    assert told.endswith("but the model takes 63: the rest of it is not translated\n")
    model: Any = fairseq_dsp.from_pretrained(folders[name], threads=1)
    cut = model.text.encode(long.decode()).split()[:63]
    assert first == model.text.decode(*model.best([cut], Search(beam=4, lenpen=lenpen, max_len_b=30)))


@pytest.mark.parametrize("name", EXPORTS)
def test_a_line_is_translated_before_the_next_is_there(
    name: str, folders: dict[str, Path], corpus: Path, monkeypatch: pytest.MonkeyPatch, translate: Any
) -> None:
    lines = (corpus / "raw/test.de").read_bytes().splitlines(keepends=True)[:3]
    expected = translate(folders[name], b"".join(lines)).lines
    (given, give), (read, written) = os.pipe(), os.pipe()
    found: list[str] = []

    def converse() -> None:
        with open(give, "wb", buffering=0) as source, open(read, encoding="utf-8") as target:
            for line in lines:
                source.write(line[:4])  # half a line is none
                source.write(line[4:])
                found.append(target.readline().removesuffix("\n"))

    with open(given) as source, open(written, "w") as target:
        monkeypatch.setattr(sys, "stdin", source)
        monkeypatch.setattr(sys, "stdout", target)
        other = threading.Thread(target=converse)
        other.start()
        assert main(["translate", str(folders[name]), "--threads", "1"]) == 0
        other.join()
    assert found == expected


def test_the_engine_needs_neither_torch_nor_fairseq(folders: dict[str, Path], corpus: Path) -> None:
    script = (
        "import sys, fairseq_dsp\n"
        "print(fairseq_dsp.from_pretrained(sys.argv[1]).translate(['Montag']))\n"
        "from fairseq_dsp.cli import main\n"
        "assert main(['translate', sys.argv[1]]) == 0\n"
        "assert not {'torch', 'fairseq'} & set(sys.modules)\n"
    )
    done = support.run_command([sys.executable, "-c", script, folders["export-ctranslate2"]])
    assert done.stdout.startswith("['")


def test_a_folder_of_torch_without_torch(folders: dict[str, Path], corpus: Path) -> None:
    script = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'torch':\n"
        "            raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from fairseq_dsp.cli import main\n"
        "sys.exit(main(['translate', sys.argv[1]]))\n"
    )
    command = [sys.executable, "-c", script, str(folders["export-folder"])]
    done = subprocess.run(command, input="", capture_output=True, text=True, env=support.environment())
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert "needs torch and fairseq, and torch is not installed: install it, or give a folder of" in done.stderr


@pytest.mark.parametrize("name", EXPORTS)
def test_bytes_that_are_no_text(name: str, folders: dict[str, Path], corpus: Path, translate: Any) -> None:
    lines = (corpus / "raw/test.de").read_bytes().splitlines(keepends=True)[:2]
    expected = translate(folders[name], b"".join(lines)).lines
    status, found, told = translate(folders[name], b"".join([*lines, b"M\xe4rz\n", *lines]))
    assert (status, found) == (1, expected)
    assert "line 3 of the input is not UTF-8 (byte 0xe4), and nothing after it is translated" in told
    assert len(told.splitlines()) == 1


def refused(*words: object, capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence of a command that fails."""
    assert main(list(map(str, words))) == 1
    told = capsys.readouterr().err.strip().splitlines()
    return told[-1]


def test_folders_that_cannot_be_read(folders: dict[str, Path], tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "empty").mkdir()
    assert "is neither a folder that fairseq-dsp export-folder" in refused("translate", tmp_path, capsys=capsys)
    assert "there is no folder" in refused("translate", tmp_path / "nowhere", capsys=capsys)
    engine = tmp_path / "engine"
    shutil.copytree(folders["export-ctranslate2"], engine)
    config = json.loads((engine / "text.json").read_text())
    changes: list[tuple[Callable[[], object], str]] = [
        (lambda: (engine / "bpecodes").write_text("#version: 0.2\na b\n"), "not as it was written"),
        (lambda: (engine / "bpecodes").unlink(), "the file bpecodes is missing in"),
        (lambda: write(config | {"sha256": {}, "bpe": "sp"}), r"does not say how raw text is .*bpe is sp"),
        (lambda: write(config | {"bpe_model": "../codes"}), "names ../codes, but only files of its own folder"),
        (lambda: write(config | {"sha256": {}}), "the subword_nmt model .*bpecodes cannot be read"),
        (lambda: write(config | {"sha256": {}, "positions": None}), "does not say how raw text is cut into subwords"),
        (lambda: write([]), "does not say how raw text is cut into subwords"),
        (lambda: write(config | {"format": "other 2"}), "of the format other 2, but fairseq_dsp text 1"),
        (lambda: (engine / "text.json").unlink(), "has no text.json, .* export the model again"),
    ]

    def write(content: Any) -> None:
        (engine / "text.json").write_text(json.dumps(content))

    write(config | {"lowercase": True})
    with pytest.raises(UserError, match=r"text\.json in .* is not as it was written"):
        fairseq_dsp.from_pretrained(engine)
    write(config)
    for change, told in changes:
        change()
        with pytest.raises(UserError, match=told):
            fairseq_dsp.from_pretrained(engine)
    whole, folder = folders["export-ctranslate2"], folders["export-folder"]
    assert "the device cuda:99 cannot be used" in refused("translate", folder, "--device", "cuda:99", capsys=capsys)
    assert "cannot load" in refused("translate", whole, "--device", "tpu", capsys=capsys)
    assert "threads is 0" in refused("translate", whole, "--threads", 0, capsys=capsys)
    assert "beam is 0" in refused("translate", whole, "--beam", 0, capsys=capsys)


def test_weights_that_are_damaged(folders: dict[str, Path], tmp_path: Path) -> None:
    engine = tmp_path / "engine"
    shutil.copytree(folders["export-ctranslate2"], engine)
    weights = engine / "model.bin"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 64
    weights.write_bytes(content)
    with pytest.raises(UserError, match=r"the file model\.bin in .* is not as it was written"):
        fairseq_dsp.from_pretrained(engine)
    weights.unlink()
    with pytest.raises(UserError, match=r"the file model\.bin is missing in"):
        fairseq_dsp.from_pretrained(engine)


def test_standard_streams_that_are_closed(folders: dict[str, Path], corpus: Path) -> None:
    """As a service may start it: no input is no line, and where nobody listens nothing is said."""
    translate = [sys.executable, "-m", "fairseq_dsp.cli", "translate", folders["export-ctranslate2"], "--threads", "1"]
    script = 'text=$1; shift; "$@" <&- && "$@" <"$text" >&- && "$@" <"$text" 2>&-'
    shell = ["sh", "-c", script, "sh", corpus / "raw/test.de"]
    done = support.run_command([*shell, *translate])
    assert len(done.stdout.splitlines()) == 40


def test_a_subword_model_of_another_kind(checkpoint: Path, corpus: Path, tmp_path: Path, capsys: Any) -> None:
    codes = corpus / "bpe/bpecodes"
    pieces = tmp_path / "pieces.model"
    pieces.write_bytes(b"\n\x0e\n\x05<unk>\x15\x00\x00\x00\x00\x18\x02\xff")
    for name in EXPORTS:
        words = (name, checkpoint, tmp_path / "out", "--data", corpus / "data-bin")
        told = refused(*words, "--bpe", "sentencepiece", "--bpe-model", codes, capsys=capsys)
        assert f"{codes} is not a model of sentencepiece" in told
        told = refused(*words, "--bpe", "subword_nmt", "--bpe-model", pieces, capsys=capsys)
        assert f"{pieces} is not a table of BPE merges" in told
        assert not (tmp_path / "out").exists()
    assert read_bpe(None, tmp_path) is None


@pytest.mark.parametrize(
    ("name", "file"),
    [("export-ctranslate2", "model.bin"), ("export-folder", "model.safetensors"), ("export-folder", "config.json")],
)
def test_a_subword_model_with_the_name_of_another_file(
    name: str, file: str, checkpoint: Path, corpus: Path, tmp_path: Path, capsys: Any
) -> None:
    codes = shutil.copyfile(corpus / "bpe/bpecodes", tmp_path / file)
    words = (name, checkpoint, tmp_path / "out", "--data", corpus / "data-bin")
    told = refused(*words, "--bpe", "subword_nmt", "--bpe-model", codes, capsys=capsys)
    assert f"{codes} has the name of another file of the folder: rename it" in told
    assert not (tmp_path / "out").exists()


def test_a_preparation_without_its_subword_model(
    checkpoint: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(corpus, tmp_path / "data")
    for model in (tmp_path / "data").rglob("bpecodes"):
        model.unlink()
    words = ("export-ctranslate2", checkpoint, tmp_path / "engine", "--data", tmp_path / "data/data-bin")
    assert main(list(map(str, words))) == 0
    assert "will translate subwords only, not raw text" in capsys.readouterr().out
    assert "has no text.json" in refused("translate", tmp_path / "engine", capsys=capsys)
    assert "does not exist" in refused(
        *words[:2], tmp_path / "other", *words[3:], "--bpe", "subword-nmt", capsys=capsys
    )
