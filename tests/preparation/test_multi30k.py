"""Multi30k from its raw text: what comes out is what went in, twice does nothing twice, downloads are checked."""

from __future__ import annotations

import functools
import gzip
import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import preparing
import pytest

from fairseq_dsp.errors import UserError
from fairseq_dsp.preparation import corpora as known
from fairseq_dsp.preparation.cleaning import Texts


@pytest.fixture(scope="module")
def prepared(small_multi30k: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished preparation with sentencepiece, by the script that users call."""
    out = tmp_path_factory.mktemp("prepared") / "multi30k"
    command = ["scripts/preprocess.sh", "multi30k", out, "--raw-dir", small_multi30k, "--vocab-size", "600"]
    environment = preparing.environment(PYTHON=sys.executable)
    subprocess.run(command, cwd=preparing.REPOSITORY, env=environment, check=True, stdout=subprocess.DEVNULL)
    return out


def test_fairseq_reads_back_the_raw_text(prepared: Path, small_multi30k: Path) -> None:
    import sentencepiece
    from fairseq.data import Dictionary, data_utils

    data_bin = prepared / "data-bin"
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(data_bin / "sentencepiece.bpe.model"))
    names = {"train": "train", "valid": "val", "test": "test_2016_flickr", "test1": "test_2017_flickr"}
    for split, name in names.items():
        for language in ("de", "en"):
            dictionary = Dictionary.load(str(data_bin / f"dict.{language}.txt"))
            data = data_utils.load_indexed_dataset(str(data_bin / f"{split}.de-en.{language}"), dictionary)
            raw = [" ".join(line.split()) for line in preparing.lines(small_multi30k / f"{name}.{language}")]
            assert preparing.lines(prepared / "raw" / f"{split}.{language}") == raw
            read = [dictionary.string(data[i], "sentencepiece") for i in range(len(data))]
            assert len(read) == len(raw)
            same = [a == pieces.decode(pieces.encode(b)) for a, b in zip(read, raw, strict=True) if "<unk>" not in a]
            assert all(same)
            assert len(same) == len(raw) if split == "train" else len(same) > 0.5 * len(raw)


def test_fairseq_trains_on_it(prepared: Path, tmp_path: Path, run_fairseq: Callable[..., object]) -> None:
    model = "--arch transformer_iwslt_de_en --encoder-layers 1 --decoder-layers 1 --share-all-embeddings"
    training = "--optimizer adam --lr 0.001 --criterion label_smoothed_cross_entropy --max-tokens 500 --max-update 1"
    rest = "--disable-validation --no-save --cpu"
    run_fairseq("train", prepared / "data-bin", "--save-dir", tmp_path, *f"{model} {training} {rest}".split())


def test_script_has_help_without_an_environment(tmp_path: Path) -> None:
    """A Python that has no package, and a checkout without .venv: nothing is installed before help is given."""
    checkout = tmp_path / "checkout"
    for name in ("scripts", "data-prep", "fairseq_dsp"):
        shutil.copytree(preparing.REPOSITORY / name, checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    (tmp_path / "bin/python3").chmod(0o755)
    environment = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    script = checkout / "scripts" / "preprocess.sh"
    corpora = ("phrases", "multi30k", "iwslt14", "custom", "nli")
    for arguments in (["--help"], *([corpus, "--help"] for corpus in corpora), ["custom", "a.de", "a.en", "-h"]):
        done = subprocess.run([script, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        of_corpus = "--encoder DIR" if arguments[0] == "nli" else "--vocab-size N"
        assert ("scripts/preprocess.sh CORPUS OUT" if len(arguments) == 1 else of_corpus) in done.stdout
        assert all(corpus in done.stdout for corpus in corpora) or len(arguments) > 1
    assert not (checkout / ".venv").exists()


def test_summary_tells_what_evaluation_needs(prepared: Path) -> None:
    summary = json.loads((prepared / "prepare.json").read_text())
    assert summary["test_sets"] == {"test": "test_2016_flickr", "test1": "test_2017_flickr"}
    assert (summary["source_lang"], summary["target_lang"], summary["lowercase"]) == ("de", "en", False)
    assert (summary["bpe"], summary["tokenizer"]) == ("sentencepiece", "none")
    assert summary["pairs"] == {"train": 300, "valid": 300, "test": 300, "test1": 300}
    assert (prepared / summary["bpe_model"]).is_file()
    assert all((prepared / reference).is_file() for reference in summary["references"].values())
    assert set(summary["dictionary_sizes"]) == {"de", "en"}


def test_twice_does_nothing_twice(prepared: Path, small_multi30k: Path) -> None:
    before = preparing.times(prepared)
    done = preparing.prepare("multi30k", prepared, "--raw-dir", small_multi30k, "--vocab-size", 600)
    assert "nothing to do" in done.stdout
    assert preparing.times(prepared) == before


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--vocab-size", 500], "vocab-size 600, now 500"), (["-s", "en"], "source-lang de, now en")],
)
def test_other_settings_are_refused(prepared: Path, small_multi30k: Path, options: list[object], told: str) -> None:
    before = preparing.times(prepared)
    options = ["--vocab-size", 600, *options]
    done = preparing.prepare("multi30k", prepared, "--raw-dir", small_multi30k, *options, check=False)
    sentence = preparing.the_sentence(done)
    assert told in sentence
    assert "--force" in sentence
    assert preparing.times(prepared) == before


def test_changed_input_is_redone_with_force(small_multi30k: Path, tmp_path: Path) -> None:
    """subword-nmt, the other direction, Moses tokenisation and lower case; then one sentence of the input changes."""
    raw = tmp_path / "raw"
    raw.mkdir()
    for path in small_multi30k.iterdir():
        if "2017" not in path.name:
            (raw / path.name).write_bytes(path.read_bytes())
    out = tmp_path / "out"
    command = [
        "multi30k",
        out,
        "--raw-dir",
        raw,
        "-s",
        "en",
        "--bpe",
        "subword-nmt",
        "--lowercase",
        "--vocab-size",
        300,
    ]
    preparing.prepare(*command)
    first = json.loads((out / "prepare.json").read_text())
    assert (first["tokenizer"], first["source_lang"], first["joined_dictionary"]) == ("moses", "en", False)
    tokenised = preparing.lines(out / "tokenised" / "test.de")
    assert tokenised == [line.lower() for line in tokenised]
    assert tokenised[0].endswith(" .")
    assert preparing.lines(out / "raw" / "test.de") == preparing.lines(raw / "test_2016_flickr.de")
    joined = [line.replace("@@ ", "") for line in preparing.lines(out / "bpe" / "test.de")]
    assert joined == tokenised
    assert (out / "data-bin" / "bpecodes").is_file()

    changed = preparing.lines(raw / "train.en")
    preparing.write(raw / "train.en", ["A completely different sentence.", *changed[1:]])
    assert "other input" in preparing.the_sentence(preparing.prepare(*command, check=False))
    preparing.prepare(*command, "--force")
    assert preparing.lines(out / "raw" / "train.en")[0] == "A completely different sentence."
    assert preparing.lines(out / "bpe" / "train.en")[0].replace("@@ ", "") == "a completely different sentence ."


class Server:
    """A web server that counts what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        outer = self

        class Handler(SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append(self.path)
                super().do_GET()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def mirror(corpora: Path, tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """The whole of Multi30k on a web server of this machine, and the folder that it serves."""
    folder = tmp_path / "served"
    folder.mkdir()
    for path in (corpora / "multi30k").iterdir():
        (folder / f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), 1))
    server = Server(folder)
    yield server, folder
    server.server.shutdown()


def test_download(mirror: tuple[Server, Path], corpora: Path, tmp_path: Path) -> None:
    """A download that fails half way keeps what is whole and right, and goes on there."""
    multi30k = known.module("multi30k")
    server, folder = mirror
    good = (folder / "val.en.gz").read_bytes()
    downloads, raw = tmp_path / "download", tmp_path / "raw"
    raw.mkdir()
    corpus = multi30k.multi30k(("de", "en"), None, server.url, downloads)

    (folder / "val.en.gz").write_bytes(gzip.compress(b"not the corpus\n"))
    with pytest.raises(UserError, match="expected 1f2a23d992769b"):
        corpus.write_raw(Texts(raw, ("de", "en")))
    (folder / "val.en.gz").write_bytes(good[: len(good) // 2])
    with pytest.raises(UserError, match="incomplete or damaged gzip file"):
        corpus.write_raw(Texts(raw, ("de", "en")))
    assert sorted(path.name for path in downloads.iterdir()) == ["train.de.gz", "train.en.gz", "val.de.gz"]

    (folder / "val.en.gz").write_bytes(good)
    server.asked.clear()
    texts = Texts(raw, ("de", "en"))
    corpus.write_raw(texts)
    texts.finish(corpus.splits())
    assert "/train.de.gz" not in server.asked
    assert "/val.en.gz" in server.asked
    for split, name in {"train": "train", "test3": "test_2018_flickr"}.items():
        expected = [" ".join(line.split()) for line in preparing.lines(corpora / "multi30k" / f"{name}.de")]
        assert preparing.lines(raw / f"{split}.de") == expected

    # What was downloaded and what lies in a folder is the same corpus.
    assert multi30k.multi30k(("de", "en"), corpora / "multi30k", "", downloads).origin == corpus.origin


def test_no_network(tmp_path: Path) -> None:
    done = preparing.prepare("multi30k", tmp_path / "out", "--url", "http://127.0.0.1:9", check=False)
    assert "--raw-dir" in preparing.the_sentence(done)
    assert not (tmp_path / "out" / "raw").exists()
