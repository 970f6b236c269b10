"""No option of a checkpoint, of an exported folder, of a study or of a corpus runs code, whatever it says."""

from __future__ import annotations

import argparse
import ast
import json
import logging
import subprocess
import sys
import tarfile
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import inprocess
import pytest
import support
import torch
from fairseq import models, options, utils
from fairseq.data.fasta_dataset import FastaDataset
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import generate

import fairseq_dsp
from fairseq_dsp.cli import main
from fairseq_dsp.compat.options_are_evaluated import read_literal
from fairseq_dsp.deployment.text import own_checksum
from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation import runners
from fairseq_dsp.importance import score_heads
from fairseq_dsp.model.flat_options import flat_names
from fairseq_dsp.model.pruning_options import PruningConfig

pytestmark = pytest.mark.slow

PAYLOAD, SHELL_PAYLOAD = "open('ran','w')", "$(touch ran)"
"""Make the file ``ran`` in the working folder: as Python, and as the plugin that `hostile` puts there; in a shell."""

Key = tuple[str, ...]
MORE = [("model", f"{stack}_xformers_att_config") for stack in ("encoder", "decoder")]
"""Texts that a Transformer reads, though they are not in the configurations that it saves."""
READ_BY_MODEL = {*flat_names(), *PruningConfig.__dataclass_fields__, "_name"}


@pytest.fixture(autouse=True)
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work in a folder with a plugin called `PAYLOAD`; nothing may have run in the end."""
    folder = tmp_path / "hostile"
    (folder / PAYLOAD).mkdir(parents=True)
    (folder / PAYLOAD / "__init__.py").write_text("open('ran', 'w')")
    monkeypatch.chdir(folder)
    yield
    assert not (folder / "ran").exists()


@pytest.fixture(scope="module")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Checkpoints of this package's Transformer and of fairseq's."""
    states = {}
    for arch in ("transformer_dsp", "transformer"):
        folder = tmp_path_factory.mktemp(arch)
        flags = ["--heads-to-keep", 6] if arch == "transformer_dsp" else []
        inprocess.train(tiny_data, folder, "--cpu", "--max-update", 1, *flags, arch=arch)
        states[arch] = {**inprocess.checkpoint(folder), "last_optimizer_state": None}
    return states


@pytest.fixture(scope="module")
def folder(trained: dict[str, Any], tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder."""
    place = tmp_path_factory.mktemp("exported")
    torch.save(trained["transformer_dsp"], place / "model.pt")
    assert main(["export-folder", str(place / "model.pt"), str(place / "folder"), "--data", str(tiny_data)]) == 0
    return place / "folder"


def test_the_payload_is_hostile(tmp_path: Path):
    proof = Path("ran")
    for run in (
        lambda: eval(PAYLOAD),
        lambda: subprocess.run(f"cat {SHELL_PAYLOAD}", shell=True, stdin=subprocess.DEVNULL),
        lambda: utils.import_user_module(Namespace(user_dir=PAYLOAD)),
    ):
        run()
        assert proof.exists()
        proof.unlink()
    del sys.modules[PAYLOAD]
    utils.import_user_module.memo.remove(str(Path(PAYLOAD).resolve()))


# --- every option -------------------------------------------------------------------------------------------------


def leaves(config: Any, where: Key = ()) -> Iterator[Key]:
    """The places of all texts in a configuration, and of all that is not given and might be one."""
    config = vars(config) if isinstance(config, Namespace) else config
    if isinstance(config, dict):
        for name, value in config.items():
            yield from leaves(value, (*where, name))
    elif config is None or isinstance(config, str):
        yield where


def poisoned(config: Any, places: Sequence[Key]) -> Any:
    """A copy of a configuration with the payload at these places."""
    if () in places:
        return PAYLOAD
    if not isinstance(config, (Namespace, dict)):
        return config
    options = vars(config) if isinstance(config, Namespace) else config
    options = {**options, **{place[0]: None for place in places if place[0] not in options}}
    made = {
        name: poisoned(value, [place[1:] for place in places if place[0] == name]) for name, value in options.items()
    }
    return Namespace(**made) if isinstance(config, Namespace) else made


def try_all(run: Callable[[Sequence[Key]], None], places: Sequence[Key]) -> list[BaseException]:
    """Have each option either in a run that came to its end, or in one that failed with it alone; return failures."""
    try:
        run(places)
    except (Exception, SystemExit) as error:
        assert not Path("ran").exists(), places
        if len(places) == 1:
            return [error]
        middle = len(places) // 2
        return [*try_all(run, places[:middle]), *try_all(run, places[middle:])]
    assert not Path("ran").exists(), places
    return []


def refusals(errors: Sequence[BaseException]) -> list[str]:
    """The sentences of the errors about an option that would have been evaluated."""
    sentences = [str(error) for error in errors if isinstance(error, UserError)]
    assert not [sentence for sentence in sentences if "\n" in sentence]
    return [sentence for sentence in sentences if "only literals are accepted" in sentence]


def translate(path: str, data: Path) -> None:
    flags = ["--user-dir", str(support.PLUGIN), "--path", path, "--cpu", "--quiet", "--beam", "1", "--max-len-b", "2"]
    flags += ["--num-workers", "0", "--max-tokens", "400"]
    args = options.parse_args_and_arch(options.get_generation_parser(), [str(data), *flags])
    generate.main(convert_namespace_to_omegaconf(args))


def measure(path: str, data: Path) -> None:
    runners.load(path, 1, 2, "cpu", "float32")


def _score_heads(path: str, data: Path) -> None:
    parser = argparse.ArgumentParser()
    score_heads.add_arguments(parser)
    score_heads.run(
        parser.parse_args([path, "--data", str(data), "--sentences", "1", "--scores", "scores.json", "--cpu"])
    )


@pytest.mark.parametrize(
    ("program", "arch"), [(translate, "transformer_dsp"), (measure, "transformer"), (_score_heads, "transformer")]
)
def test_no_option_of_a_checkpoint_runs(program: Callable[..., None], arch: str, trained: dict[str, Any], tiny_data):
    state = trained[arch]
    places = [*leaves(state["cfg"]), *MORE]
    assert len(places) > 140
    assert ("common", "user_dir") in places
    logging.disable(logging.INFO)

    def run(changed: Sequence[Key]) -> None:
        torch.save({**state, "cfg": poisoned(state["cfg"], changed)}, "poisoned.pt")
        program("poisoned.pt", tiny_data)

    try:
        run([])
        read = [place for place in places if place[0] == "model" and place[1] in READ_BY_MODEL]
        errors = try_all(run, [place for place in places if place not in read])
        errors += [error for place in read for error in try_all(run, [place])]
    finally:
        logging.disable(logging.NOTSET)
    assert len(refusals(errors)) == 3


def test_no_option_of_a_folder_runs(folder: Path, tmp_path: Path):
    config = json.loads((folder / "config.json").read_text())
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in folder.iterdir():
        (copy / file.name).symlink_to(file)  # as a model hub's cache does

    def run(changed: Sequence[Key]) -> None:
        made = poisoned(config, changed)
        if isinstance(made["sha256"], dict):
            made["sha256"]["config.json"] = own_checksum(made, "config.json")
        (copy / "config.json").unlink()
        (copy / "config.json").write_text(json.dumps(made))
        assert len(fairseq_dsp.from_pretrained(copy).translate(["ba di"], max_len_b=2)) == 1

    run([])
    errors = try_all(run, list(dict.fromkeys([*leaves(config), *MORE, ("user_dir",), ("model", "user_dir")])))
    assert [error for error in errors if not isinstance(error, UserError) or "\n" in str(error)] == []
    assert len(refusals(errors)) == 3


@pytest.mark.parametrize("option", ["encoder_xformers_att_config", "decoder_xformers_att_config"])
def test_a_refusal_is_one_sentence(option: str, trained: dict[str, Any], tiny_data: Path, run_fairseq, capsys):
    state = trained["transformer_dsp"]
    torch.save({**state, "cfg": poisoned(state["cfg"], [("model", option)])}, "poisoned.pt")
    path = Path("poisoned.pt").resolve()
    done = run_fairseq("generate", tiny_data, "--user-dir", support.PLUGIN, "--path", path, cwd=Path.cwd(), check=False)
    assert done.returncode == 1
    assert done.stdout.rstrip().splitlines()[-1].startswith("error: an option is \"open('ran',")
    assert "Traceback" not in done.stdout
    for words in (["bench", path], ["score-heads", path, "--data", tiny_data]):
        assert main(list(map(str, words))) == 1
        assert capsys.readouterr().err.startswith(f"fairseq-dsp {words[0]}: an option is \"open('ran',")


@pytest.mark.parametrize(
    ("arch", "option"),
    [
        ("fconv", "encoder_layers"), ("fconv", "decoder_attention"), ("lstm", "decoder_attention"),
        ("lightconv", "adaptive_softmax_cutoff"), ("fconv_self_att", "pretrained"), ("wav2vec", "conv_feature_layers"),
    ],
)  # fmt: skip
def test_a_checkpoint_may_name_any_architecture(arch: str, option: str, trained: dict[str, Any]):
    config = Namespace(arch=arch, _name=arch)
    models.ARCH_CONFIG_REGISTRY[arch](config)
    setattr(config, option, PAYLOAD)
    torch.save({**trained["transformer"], "cfg": {"model": config}}, "poisoned.pt")
    with pytest.raises(UserError, match=r"only literals are accepted|cannot be built"):
        runners.load("poisoned.pt", 1, 2, "cpu", "float32")


def test_what_a_study_gives_to_a_training_is_read_as_literals(tiny_data: Path, tmp_path: Path, train_tiny, capsys):
    done = train_tiny(tmp_path / "run", "--adam-betas", PAYLOAD, cwd=Path.cwd(), check=False)
    assert done.returncode == 1
    assert done.stdout.rstrip().splitlines()[-1].startswith("error: an option is")
    words = [
        str(tiny_data),
        "--arch",
        "lightconv",
        "--criterion",
        "cross_entropy",
        "--encoder-kernel-size-list",
        PAYLOAD,
    ]
    with pytest.raises(SystemExit):
        options.parse_args_and_arch(options.get_training_parser(), words)
    assert "argument --encoder-kernel-size-list: invalid" in capsys.readouterr().err


# --- what is read, and what not -----------------------------------------------------------------------------------


def test_every_module_of_fairseq_reads_literals():
    found = set()
    for name, module in sorted(sys.modules.items()):
        file = str(getattr(module, "__file__", None))
        if not name.startswith("fairseq.") or not file.endswith(".py"):
            continue
        for call in (node for node in ast.walk(ast.parse(Path(file).read_text())) if isinstance(node, ast.Call)):
            called = ast.unparse(call.func)
            assert called not in ("exec", "compile", "__import__"), name
            if called == "eval":
                found.add(name)
                assert module.eval is read_literal
            if any(word.arg == "shell" for word in call.keywords):
                assert name == "fairseq.data.fasta_dataset"
    assert {"fairseq.utils", "fairseq.optim.adam", "fairseq.models.wav2vec.wav2vec2"} <= found


def test_what_fairseqs_own_architectures_say_is_read():
    texts = {"(0.9, 0.98)", "(1e-30, 1e-3)", "[(512, 10, 5)] + [(512, 3, 2)] * 4", "True", "{'a': [-1, +2.5]}", "1-1/3"}
    for arch, defaults in models.ARCH_CONFIG_REGISTRY.items():
        if models.ARCH_MODEL_NAME_REGISTRY[arch] in ("fconv", "fconv_lm", "fconv_self_att", "lstm", "transformer_lm"):
            config = Namespace()
            defaults(config)
            texts |= {text for text in vars(config).values() if isinstance(text, str) and text[:1] in tuple("[(T")}
    assert len(texts) > 10
    for text in texts:
        assert read_literal(f" {text}") == eval(text)


@pytest.mark.parametrize(
    "text",
    ["f()", "a", "a.b", "[x for x in (1, 2)]", "lambda: 1", "(a := 1)", "1 if 1 else 2", "f'{1}'", "2**9", "{**{}}",
     "'%s' % 1", "", "(", "(" * 200, "-" * 10000 + "1", "1/0", "[0] * 10**20", "1 + 'a'", "{[]: 1}"],
)  # fmt: skip
def test_all_else_is_refused_in_one_sentence(text: str):
    with pytest.raises(UserError, match=r"^an option is [^\n]+, but only literals are accepted[^\n]+$"):
        read_literal(text)


def test_what_is_no_text_is_no_literal():
    assert utils.eval_bool(True) is False, "as in stock fairseq, where eval raises a TypeError"
    assert utils.eval_bool("True") is True
    assert utils.eval_str_list("1, 2", int) == [1, 2]
    assert utils.eval_str_list("3", int) == [3]


# --- files --------------------------------------------------------------------------------------------------------


def test_the_path_of_a_corpus_is_no_shell_command():
    text = "ignored\n>one x\nABC\nDE\n>two\nFGHI\n>three\n\n>four\nA\n"
    Path(f"{SHELL_PAYLOAD}.fasta").write_text(text)
    data = FastaDataset(SHELL_PAYLOAD)
    assert data.offsets.tolist() == [8, 22, 32, 40]
    assert data.sizes.tolist() == [5, 4, 0, 1]
    assert data[1] == (">two", "FGHI")


@pytest.mark.parametrize("link", [None, "/", "../.."])
def test_an_archive_writes_into_its_own_folder_only(link: str | None):
    with tarfile.open("model.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("model/out" if link else "../../ran")
        info.type, info.linkname = (tarfile.SYMTYPE, link) if link else (tarfile.REGTYPE, "")
        archive.addfile(info)
    with pytest.raises(UserError, match=r"The archive model.tar.gz is refused: it would write outside"):
        fairseq_dsp.model.PrunableTransformer.from_pretrained("model.tar.gz")


def test_an_honest_archive_is_unpacked(trained: dict[str, Any], tiny_data: Path):
    torch.save(trained["transformer_dsp"], "model.pt")
    with tarfile.open("model.tar.gz", "w:gz") as archive:
        for file in (Path("model.pt"), tiny_data / "dict.xx.txt", tiny_data / "dict.yy.txt"):
            archive.add(file, f"model/{file.name}")
    model = fairseq_dsp.model.PrunableTransformer.from_pretrained("./model.tar.gz", source_lang="xx", target_lang="yy")
    assert len(model.translate(["ba di"])) == 1
