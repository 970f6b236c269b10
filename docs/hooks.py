"""What MkDocs does beside Markdown: reference pages from the package itself, formulas as MathML.

A page asks for a generated part by a line of its own, ``{{ NAME }}`` with a NAME of :data:`PARTS`.
"""

from __future__ import annotations

import argparse
import html
import importlib
import logging
import os
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]
_PART = re.compile(r"^\{\{ (\w+) \}\}$", re.MULTILINE)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.+?)\\[)\]]</\1>', re.DOTALL)
_ROLE = re.compile(r":\w+:<code>~?\.*([^<]*)</code>")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put the generated parts into a page."""
    return _PART.sub(lambda found: PARTS[found[1]](), markdown)


def on_page_content(content: str, **_: Any) -> str:
    """Turn formulas into MathML, and the roles of docstrings (``:func:`~.anneal` ``) into plain code."""

    def mathml(found: re.Match[str]) -> str:
        return convert(html.unescape(found[3]), display="inline" if found[1] == "span" else "block")

    return _ROLE.sub(r"<code>\1</code>", _FORMULA.sub(mathml, content))


def on_startup(**_: Any) -> None:
    """Import the package, and fairseq with it, without the handlers that fairseq adds for the logs of all programs."""
    os.environ["COLUMNS"] = "88"  # of the usages
    handlers = list(logging.root.handlers)
    importlib.import_module("fairseq_dsp")
    importlib.import_module("fairseq_cli.train")
    logging.root.handlers[:] = handlers


@cache
def commands() -> str:
    """All sub-commands of ``fairseq-dsp``, from their parsers."""
    from fairseq_dsp.cli import COMMANDS

    parts = []
    for name, (module, purpose) in COMMANDS.items():
        chosen = importlib.import_module(module, "fairseq_dsp")
        parser = argparse.ArgumentParser(prog=f"fairseq-dsp {name}")
        chosen.add_arguments(parser)
        about = parser.epilog or chosen.__doc__ or ""
        parts += [f"## {name}", f"{purpose}.", *_sections(parser)]
        parts += ["```text", about.strip(), "```"]
    return "\n\n".join(_joined(parts))


def _joined(parts: list[str]) -> Iterator[str]:
    """The parts with each block of code in one piece, since a blank line after its fence would belong to it."""
    rest = iter(parts)
    for part in rest:
        yield "\n".join([part, next(rest), next(rest)]) if part == "```text" else part


def _sections(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The usage and the options of a parser, then those of its sub-commands."""
    yield from ("```text", _usage(parser), "```")
    rows = [action for action in parser._actions if action.help != argparse.SUPPRESS and action.dest != "help"]
    subs = [action for action in rows if isinstance(action, argparse._SubParsersAction)]
    yield _table(parser, [action for action in rows if action not in subs])
    for action in subs:
        for sub in action.choices.values():
            yield f"### {sub.prog.removeprefix('fairseq-dsp ')}"
            yield from _sections(sub)


def _usage(parser: argparse.ArgumentParser) -> str:
    return parser.format_usage().removeprefix("usage: ").strip()


def _table(parser: argparse.ArgumentParser, actions: list[argparse.Action]) -> str:
    if not actions:
        return ""
    rows = ["| argument | meaning |", "|---|---|"]
    for action in actions:
        metavar = action.metavar or (action.dest.upper() if action.nargs != 0 else "")
        if action.choices and action.metavar is None:
            metavar = "{" + ",".join(map(str, action.choices)) + "}"
        names = ", ".join(action.option_strings)
        if isinstance(metavar, tuple):
            metavar = " ".join(metavar)
        title = f"{names} {metavar}".strip() if action.nargs != 0 else names
        help_text = parser._get_formatter()._expand_help(action) if action.help else ""
        rows.append(f"| `{_cell(title)}` | {_cell(help_text)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    """Text that may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


@cache
def model_options() -> str:
    """The options that the architectures of this package add to fairseq's Transformer."""
    from fairseq.models import MODEL_REGISTRY

    ours, stock = argparse.ArgumentParser(), argparse.ArgumentParser()
    MODEL_REGISTRY["transformer_dsp"].add_args(ours)
    MODEL_REGISTRY["transformer"].add_args(stock)
    return _new_options(ours, stock)


@cache
def criterion_options() -> str:
    """The options that the criterion adds to fairseq's label-smoothed cross-entropy."""
    from fairseq.criterions import CRITERION_DATACLASS_REGISTRY
    from fairseq.dataclass.utils import gen_parser_from_dataclass

    ours, stock = argparse.ArgumentParser(), argparse.ArgumentParser()
    for parser, name in ((ours, "label_smoothed_cross_entropy_dsp"), (stock, "label_smoothed_cross_entropy")):
        gen_parser_from_dataclass(parser, CRITERION_DATACLASS_REGISTRY[name]())
    return _new_options(ours, stock)


def _new_options(ours: argparse.ArgumentParser, stock: argparse.ArgumentParser) -> str:
    known = {word for action in stock._actions for word in action.option_strings}
    rows = ["| option | meaning | default |", "|---|---|---|"]
    for action in ours._actions:
        if action.help != argparse.SUPPRESS and not known & set(action.option_strings):
            default = "none" if action.default in (None, argparse.SUPPRESS) else f"`{action.default}`"
            if action.nargs == 0:
                default = "off"
            choices = f" ({', '.join(f'`{choice}`' for choice in action.choices)})" if action.choices else ""
            meaning = _cell((action.help or "").replace("%%", "%"))
            rows.append(f"| `{action.option_strings[0]}` | {meaning}{choices} | {default} |")
    return "\n".join(rows)


@cache
def architectures() -> str:
    """The names for ``--arch``."""
    from fairseq.models import ARCH_MODEL_REGISTRY

    names = sorted(name for name in ARCH_MODEL_REGISTRY if "_dsp" in name)
    return "\n".join(f"- `{name}`" for name in names)


@cache
def study_keys() -> str:
    """The keys of a study file, as the command that reads it explains them."""
    from fairseq_dsp.cli import COMMANDS

    about = importlib.import_module(COMMANDS["sweep"][0], "fairseq_dsp").__doc__ or ""
    keys = about.split("the keys of a study", 1)[1].split("\nexamples:", 1)[0]
    return f"```text\nthe keys of a study{keys.rstrip()}\n```"


@cache
def configs() -> str:
    """The hydra configs, each as it is."""
    parts = []
    for path in sorted((ROOT / "fairseq_dsp/config").rglob("*.yaml")):
        name = path.relative_to(ROOT / "fairseq_dsp/config").with_suffix("")
        content = "".join(f"    {line}\n" for line in path.read_text(encoding="utf-8").splitlines())
        parts.append(f'??? note "{name}"\n\n    ```yaml\n{content}    ```')
    return "\n\n".join(parts)


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part for part in (commands, model_options, criterion_options, architectures, study_keys, configs)
}
