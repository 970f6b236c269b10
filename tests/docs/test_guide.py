"""The commands of the guide, run in the order of the pages, at a small size.

What stands in a block of ``sh`` or ``python`` is run; ``yaml`` with a title is the file of that name. Blocks of
``console`` are not run: they need a network, a GPU, a cluster or hours.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import support
import yaml
from fairseq import options
from quick_python import quick_python

from fairseq_dsp.cli import COMMANDS

PAGES = (
    "start/install start/quickstart start/prune guide/data guide/training guide/pruning guide/choosing-k "
    "guide/removing guide/studies guide/cluster guide/cuda method/selections"
).split()
BLOCK = re.compile(r"^```(sh|python|yaml)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)

TINY = (
    "--encoder-embed-dim 16 --decoder-embed-dim 16 --encoder-ffn-embed-dim 16 --decoder-ffn-embed-dim 16 "
    "--max-update 6 --max-tokens 800 --num-workers 0"
).split()
SMALLER = {
    "scripts/preprocess.sh phrases": "--train-size 200 --valid-size 15 --test-size 15 --vocab-size 200".split(),
    "scripts/train.sh": TINY,
    "fairseq-train": TINY,
    "scripts/prune.sh": ["--max-update", "4"],
    "scripts/evaluate.sh": ["--max-len-b", "8"],
    "fairseq-generate": ["--max-len-b", "8"],
    "fairseq-dsp bench": "--runs 1 --batch-sizes 1 --length 5 --no-memory".split(),
}
"""What is added to the commands that begin so; of an option that is given twice the last one counts."""

COOLDOWN = re.compile(r"(--cooldown-updates) \d+")
THIN = {"preprocess": "prepare", "prune": "prune", "evaluate": "evaluate", "sweep": "sweep"}
"""Scripts that are a command of ``fairseq-dsp`` in the package's environment."""


def blocks() -> list[tuple[str, str, str, str]]:
    """Page, language, title and text of each block."""
    return [
        (page, *found.groups(default=""))
        for page in PAGES
        for found in BLOCK.finditer((support.REPOSITORY / f"docs/{page}.md").read_text(encoding="utf-8"))
    ]


def commands(text: str) -> list[str]:
    """The commands of a block, each on one line and small."""
    lines = [line.strip() for line in text.replace("\\\n", " ").splitlines()]
    return [smaller(line) for line in lines if line and not line.startswith("#")]


def smaller(command: str) -> str:
    """A command with a small model, little text and few updates."""
    for begin, words in SMALLER.items():
        if command.startswith(begin):
            return shlex.join([*shlex.split(COOLDOWN.sub(r"\1 2", command), comments=True), *words])
    return command


def small_study(text: str) -> str:
    """A study with a small model, a seed and few updates."""
    study = yaml.safe_load(text)
    if "recipe" not in study:
        return text
    sizes = dict(zip(*[iter(word.removeprefix("--") for word in TINY)] * 2, strict=True))
    study["recipe"] |= {name: value for name, value in sizes.items() if name != "num-workers"}
    study |= {"heads": study["heads"][:1], "seeds": study["seeds"][:1], "methods": study["methods"][-1:]}
    study["evaluate"] = {"beam": 1, "max-len-b": 8}
    for method in study["methods"]:
        method["options"] = {name: 2 if name == "cooldown-updates" else 4 for name in method["options"]}
    return yaml.safe_dump(study)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout."""
    folder = tmp_path_factory.mktemp("guide")
    for name in ("scripts", "fairseq_dsp", "data-prep"):
        (folder / name).symlink_to(support.REPOSITORY / name)
    return folder


def unredirected(words: list[str]) -> list[str]:
    """The words of a command without where its input comes from and its output goes to."""
    return list(itertools.takewhile(lambda word: word not in ("<", ">", "|"), words))


def run(step: str, place: Path) -> None:
    """Run a command, fairseq's and this package's in processes that have fairseq imported already."""
    thin = re.match(rf"scripts/({'|'.join(THIN)})\.sh ", step)
    if thin:
        step = f"fairseq-dsp {THIN[thin[1]]} {step[thin.end() :]}"
    tool = re.match(r"fairseq-(\w+) ", step)
    if tool:
        module = "fairseq_dsp.cli" if tool[1] == "dsp" else f"fairseq_cli.{tool[1]}"
        step = f"{quick_python()} -m {module} {step[tool.end() :]}"
    variables = {"PYTHON": quick_python(), "PYTHONPATH": str(place)}
    support.run_command(["bash", "-c", step], cwd=place, timeout=900, **variables)


@pytest.mark.slow
def test_the_commands_of_the_guide_work(place: Path) -> None:
    done: set[str] = set()
    for _, language, title, text in blocks():
        if language == "yaml":
            (place / title).write_text(small_study(text), encoding="utf-8")
            continue
        steps = [shlex.join([quick_python(), "-c", text])] if language == "python" else commands(text)
        for step in steps:
            if step not in done:
                done.add(step)
                run(step, place)
    made = ["pruned/compact.pt", "my-model/model.safetensors", "engine/model.bin", "stock.pt", "scored.pt"]
    made += ["results/my-study/report/report.html"]
    assert [name for name in made if not (place / name).exists()] == []


def test_the_guide_has_commands() -> None:
    found = [command for _, language, _, text in blocks() if language == "sh" for command in commands(text)]
    assert len(found) > 15
    for begin in SMALLER:
        assert any(command.startswith(begin) for command in found), begin


def shown() -> Iterator[tuple[str, list[str]]]:
    """Page and words of each command that the documents show, those that are not run included."""
    pages = [*(support.REPOSITORY / "docs").rglob("*.md"), support.REPOSITORY / "README.md"]
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for _, language, block in re.findall(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
            lines = block if language in ("sh", "console", "") else ""
            for line in lines.replace("\\\n", " ").splitlines():
                words = unredirected(shlex.split(line, comments=True))
                while words and "=" in words[0]:  # variables of the environment
                    words.pop(0)
                if words:
                    yield page.name, words


def check(words: list[str]) -> bool:
    """Have a command's own parser read its words; return whether it has one."""
    thin = re.fullmatch(r"scripts/(\w+)\.sh", words[0])
    if thin and thin[1] in THIN:
        words = ["fairseq-dsp", THIN[thin[1]], *words[1:]]
    if words[0] == "fairseq-train" or (thin and thin[1] == "train"):
        of_the_script = ["--arch", "transformer_dsp", "--criterion", "label_smoothed_cross_entropy_dsp"]
        given = words[2:] if words[0] == "fairseq-train" else [*of_the_script, *words[3:]]
        given = ["6" if word == "K" else word for word in given]
        if "--user-dir" in given:
            place = given.index("--user-dir")
            del given[place : place + 2]
        options.parse_args_and_arch(options.get_training_parser(), ["DATA", *given])
    elif words[0] == "fairseq-dsp" and words[1] in COMMANDS:
        command = importlib.import_module(COMMANDS[words[1]][0], "fairseq_dsp")
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        args, more = parser.parse_known_args(words[2:])
        assert not more or hasattr(args, "more"), more
    else:
        return False
    return True


def test_commands_that_are_only_shown_are_understood() -> None:
    read = 0
    for page, words in shown():
        try:
            read += check(words)
        except (SystemExit, AssertionError) as error:
            raise AssertionError(f"{page}: {shlex.join(words)}: {error}") from error
    assert read > 50
