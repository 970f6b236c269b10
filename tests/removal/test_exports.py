"""Exports: stock fairseq, a folder of safetensors, CTranslate2; and the map of the heads."""

from __future__ import annotations

import json
import shlex
import shutil
import socket
import subprocess
import sys

import pytest
import sentencepiece
import torch
import yaml
from tiny_pruned import HEADS

import fairseq_dsp
from fairseq_dsp.cli import main
from fairseq_dsp.deployment.text import Text, own_checksum
from fairseq_dsp.errors import UserError
from fairseq_dsp.preparation.tokens import tokenise


def sentences(tiny_data):
    return (tiny_data.parent / "test.xx").read_text().splitlines()


def generated(run_fairseq, tiny_data, path, results, *flags):
    # without the plugin's fixes, a last batch that is no multiple of 8 is lost
    batches = ("--batch-size", 20, "--required-batch-size-multiple", 1)
    run_fairseq("generate", tiny_data, "--path", path, "--beam", 5, *batches, "--results-path", results, *flags)
    lines = (results / "generate-test.txt").read_text().splitlines()
    found = dict(line.split("\t")[::2] for line in lines if line.startswith("H-"))
    return [found[f"H-{i}"] for i in range(20)]


@pytest.fixture(scope="module")
def expected(run_fairseq, tiny_data, pruned, tmp_path_factory):
    return generated(run_fairseq, tiny_data, pruned, tmp_path_factory.mktemp("out"), "--user-dir", "fairseq_dsp")


@pytest.mark.parametrize("source", ["pruned", "compact"])
def test_stock_fairseq_without_the_plugin(source, request, run_fairseq, tiny_data, tmp_path, expected):
    out = tmp_path / "stock.pt"
    assert main(["export-fairseq", str(request.getfixturevalue(source)), str(out)]) == 0
    torch.load(out, weights_only=True)
    assert generated(run_fairseq, tiny_data, out, tmp_path) == expected


def test_the_printed_command_translates_all_sentences(pruned, run_fairseq, tiny_data, tmp_path, capsys):
    assert main(["export-fairseq", str(pruned), str(tmp_path / "stock.pt")]) == 0
    _, data, *words = shlex.split(capsys.readouterr().out.partition("; ")[2])
    assert data == "DATA"
    printed = run_fairseq("generate", tiny_data, *words, "--cpu").stdout
    assert sum(line.startswith("H-") for line in printed.splitlines()) == len(sentences(tiny_data)) == 20


def test_an_exported_model_can_be_validated_without_the_plugin(train_tiny, run_fairseq, tiny_data, tmp_path):
    criterion = ("--criterion", "label_smoothed_cross_entropy_dsp", "--heads-to-keep", 5, "--max-update", 2)
    train_tiny(tmp_path / "run", *criterion, arch="transformer_dsp")
    assert main(["export-fairseq", str(tmp_path / "run/checkpoint_last.pt"), str(tmp_path / "stock.pt")]) == 0
    flags = ("--path", tmp_path / "stock.pt", "--task", "translation", "--cpu", "--max-tokens", 400)
    assert "valid on 'valid' subset | loss" in run_fairseq("validate", tiny_data, *flags).stdout


@pytest.fixture(scope="module")
def folder(compact, tiny_data, tmp_path_factory):
    target = tmp_path_factory.mktemp("folder") / "model"
    assert main(["export-folder", str(compact), str(target), "--data", str(tiny_data)]) == 0
    return target


def test_folder_translates_the_same(folder, tiny_data, expected):
    model = fairseq_dsp.from_pretrained(folder)
    assert model.translate(sentences(tiny_data), batch_size=7) == expected
    assert not [file for file in folder.iterdir() if file.suffix in (".pt", ".bin", ".pkl")]
    with pytest.raises(UserError, match="list of sentences"):
        model.translate("one")


def test_text_of_an_unknown_preparation_is_told(compact, tiny_data, tmp_path, capsys):
    assert main(["export-folder", str(compact), str(tmp_path / "out"), "--data", str(tiny_data)]) == 0
    assert "The folder will take raw text to be words with spaces between them" in capsys.readouterr().out
    # such as those of a data-bin that somebody segmented: the sign of a space is part of a word
    text = Text(json.loads((tmp_path / "out/config.json").read_text()), tmp_path / "out")
    assert text.encode("\u2581Ein  \u2581H und \u2581.") == "\u2581Ein \u2581H und \u2581."


def test_a_reader_that_ends_is_no_fault(pruned):
    command = [sys.executable, "-m", "fairseq_dsp.cli", "heads", str(pruned)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        process.stdout.close()
        error = process.stderr.read()
    assert process.returncode == 0
    assert "BrokenPipe" not in error


def test_text_is_tokenised_as_for_training(folder, tmp_path):
    text = ["Ein well-known Fall z. B. in den U.S.", 'Er sagte: "Ja, bald." Und 5-6 Dr. Schmidts ...', "a-b c--d e.g."]
    shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text()) | {"tokenizer": "moses", "lowercase": True}
    config["sha256"]["config.json"] = own_checksum(config, "config.json")
    (tmp_path / "copy/config.json").write_text(json.dumps(config))
    model = fairseq_dsp.from_pretrained(tmp_path / "copy")
    tokenised = [model.text.tokenised(sentence) for sentence in text]
    assert tokenised == list(tokenise(text, "xx", lowercase=True))
    assert tokenised[0].endswith("in den u.s .")
    assert " well-known " in tokenised[0]


@pytest.mark.parametrize("name", ["model.safetensors", "dict.xx.txt"])
def test_missing_or_altered_file(folder, tmp_path, name):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-2] + b"?\n")
    with pytest.raises(UserError, match=f"{name} in .* not as it was written"):
        fairseq_dsp.from_pretrained(copy)
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name} is missing"):
        fairseq_dsp.from_pretrained(copy)
    for content in ("{", "[]", "\N{DAGGER}".encode("utf-16").decode("latin-1"), '{"format": null}'):
        (copy / "config.json").write_text(content, encoding="latin-1")
        with pytest.raises(UserError, match=r"not a model's configuration|is of the format"):
            fairseq_dsp.from_pretrained(copy)
    with pytest.raises(UserError, match="export-folder wrote"):
        fairseq_dsp.from_pretrained(tmp_path / "nowhere")


def test_altered_configuration(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "copy" / "config.json").write_text(json.dumps({**config, "lowercase": True}))
    with pytest.raises(UserError, match=r"config\.json in .* not as it was written"):
        fairseq_dsp.from_pretrained(tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))  # another layout of the same
    fairseq_dsp.from_pretrained(tmp_path / "copy")


def altered(folder, copy, change):
    """A copy of a folder with a changed configuration and the checksum of it, as whoever means harm would make it."""
    shutil.copytree(folder, copy)
    config = change(json.loads((folder / "config.json").read_text()))
    config["sha256"]["config.json"] = own_checksum(config, "config.json")
    (copy / "config.json").write_text(json.dumps(config))
    return copy


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("../codes", {"bpe": "subword_nmt", "bpe_model": "../codes"}),
        ("/etc/passwd", {"bpe": "sentencepiece", "bpe_model": "/etc/passwd"}),
        ("xx/../../dict.xx", {"source_lang": "xx/../../dict.xx"}),
        ("../secret", {"sha256": {"../secret": "0"}}),
    ],
)
def test_a_folder_names_its_own_files_only(folder, tmp_path, name, change):
    (tmp_path / "codes").write_text("#version: 0.2\n")
    (tmp_path / "secret").write_text("")
    copy = altered(folder, tmp_path / "copy", lambda config: config | change)
    with pytest.raises(UserError, match=f"names {name}, but only files of its own folder are read"):
        fairseq_dsp.from_pretrained(copy)


def test_a_checkpoint_exports_into_the_folder_only(compact, tiny_data, tmp_path, capsys):
    data, language = tmp_path / "in/data", "x/../../escaped"
    (data / "dict.x").mkdir(parents=True)
    shutil.copy(tiny_data / "dict.yy.txt", data)
    shutil.copy(tiny_data / "dict.xx.txt", data / f"dict.{language}.txt")
    state = torch.load(compact)
    state["cfg"]["task"].update(source_lang=language, target_lang="yy")
    torch.save(state, tmp_path / "hostile.pt")
    out = tmp_path / "somewhere/deep/out"
    out.parent.mkdir(parents=True)
    assert main(["export-folder", str(tmp_path / "hostile.pt"), str(out), "--data", str(data)]) == 1
    assert "has the language x/../" in capsys.readouterr().err
    assert list(out.parent.iterdir()) == []


def test_the_model_of_a_folder_is_made_of_no_other_file(folder, tmp_path):
    heads = json.loads((folder / "config.json").read_text())["model"]["kept_heads"]
    (tmp_path / "elsewhere").write_text(heads)

    def with_option(name):
        return lambda config: config | {"model": config["model"] | {name: str(tmp_path / "elsewhere")}}

    with pytest.raises(UserError, match="not a model's configuration"):
        fairseq_dsp.from_pretrained(altered(folder, tmp_path / "heads", with_option("kept_heads")))
    # where the training's embeddings came from: the trained ones are in the weights
    model = fairseq_dsp.from_pretrained(altered(folder, tmp_path / "embeddings", with_option("encoder_embed_path")))
    assert len(model.translate(["ba di"])) == 1


def test_folder_is_all_that_is_needed(compact, tiny_data, tmp_path, monkeypatch):
    pieces = {"input": str(tiny_data.parent / "train.xx"), "vocab_size": 40, "minloglevel": 2}
    sentencepiece.SentencePieceTrainer.train(model_prefix=str(tmp_path / "pieces"), **pieces)
    subwords = ("--bpe", "sentencepiece", "--bpe-model", str(tmp_path / "pieces.model"))
    out = tmp_path / "made"
    assert main(["export-folder", str(compact), str(out), "--data", str(tiny_data), *subwords]) == 0
    assert len({path.stat().st_mode for path in out.iterdir()}) == 1, "whom the folder is for can read all of it"
    expected = fairseq_dsp.from_pretrained(out).translate(sentences(tiny_data)[:3])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    shutil.copytree(out, elsewhere / "moved")
    shutil.rmtree(out)
    (tmp_path / "pieces.model").unlink()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(socket, "socket", None)  # no network
    assert fairseq_dsp.from_pretrained("moved").translate(sentences(tiny_data)[:3]) == expected
    # what a model hub reads, and what its publisher completes
    card = elsewhere / "moved" / "README.md"
    front, _, text = card.read_text().removeprefix("---\n").partition("---\n")
    assert yaml.safe_load(front)["language"] == ["xx", "yy"]
    assert yaml.safe_load(front)["library_name"] == "fairseq_dsp"
    assert "5 of 12 attention heads" in text
    assert "The other heads were pruned and are gone." in text
    assert "pieces.model" in text
    card.write_text(card.read_text().replace("# license", "license: mit #"))
    assert fairseq_dsp.from_pretrained("moved").translate(sentences(tiny_data)[:3]) == expected


def test_ctranslate2_translates_the_same(compact, tiny_data, tmp_path, expected, capsys):
    ctranslate2 = pytest.importorskip("ctranslate2", reason="the optional extra ctranslate2 is not installed")
    target = tmp_path / "engine"
    assert main(["export-ctranslate2", str(compact), str(target), "--data", str(tiny_data)]) == 0
    # two layers of one head, two of two in each attention of the decoder
    assert "5 heads and 5 of zeros for padding; padding costs time: --uniform-heads" in capsys.readouterr().out
    engine = ctranslate2.Translator(str(target))
    found = engine.translate_batch([s.split() for s in sentences(tiny_data)], beam_size=5, max_decoding_length=200)
    same = [" ".join(result.hypotheses[0]) == text for result, text in zip(found, expected, strict=True)]
    assert sum(same) >= 16  # a model of 20 updates has many near-ties, which the engine's arithmetic breaks its own way


def test_heads_as_text_json_and_picture(pruned, compact, tmp_path, capsys):
    assert main(["heads", str(pruned)]) == 0
    text = capsys.readouterr().out
    assert "5 of 12 heads are kept" in text
    assert "  layer  0   . #   1 kept     -1.000    1.000" in text
    assert main(["heads", str(compact), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == HEADS
    assert main(["heads", str(pruned), "--format", "json", "--heads-to-keep", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["kept"] == 0
    assert main(["heads", str(pruned), "--format", "png", "--output", str(tmp_path / "heads.png")]) == 0
    assert (tmp_path / "heads.png").read_bytes().startswith(b"\x89PNG")
