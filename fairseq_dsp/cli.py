"""The command ``fairseq-dsp``: one sub-command a module, imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from .errors import STOPPED, UserError, about_a_file

COMMANDS: dict[str, tuple[str, str]] = {
    "prepare": (".preparation.prepare", "Prepare a corpus: from raw text to a data-bin for fairseq-train"),
    "import-bert": (
        ".pretrained.import_bert",
        "Convert a published BERT into a checkpoint to start from, with its dictionary",
    ),
    "heads": (".removal.heads", "Show which heads a model keeps"),
    "score-heads": (
        ".importance.score_heads",
        "Score the heads of a trained model and choose some (Michel et al. 2019)",
    ),
    "compensate": (
        ".importance.compensate",
        "Have the heads that stay take over what the others did, before training on",
    ),
    "compact": (".removal.compact", "Remove the heads that a model does not keep, for good"),
    "export-fairseq": (".removal.export_fairseq", "Write a checkpoint for fairseq without this plugin"),
    "export-folder": (".removal.export_folder", "Write safetensors, dictionaries and subwords into one folder"),
    "export-ctranslate2": (".removal.export_ctranslate2", "Write a model for the engine CTranslate2"),
    "translate": (".deployment.translate", "Translate raw text with an exported model, line by line"),
    "bench": (".evaluation.bench", "Measure size, memory and speed of models side by side"),
    "evaluate": (".evaluation.evaluate", "Score models: tokenised and detokenised BLEU and chrF, or accuracy"),
    "sweep": (".study.sweep", "Run a study: many trainings, head counts and methods, ending in one table"),
    "prune": (".study.prune", "Prune a trained model: choose its heads, train on, make it compact, evaluate it"),
    "report": (".report", "Tables and pictures of a study: Markdown, HTML, CSV, LaTeX"),
}
"""Name of a command → (module, what it does). A module has ``add_arguments(parser)`` and ``run(args) -> None``;
one that sets a default for ``more`` is given there what is no argument of its own."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    _open_closed_streams()
    before = signal.signal(signal.SIGTERM, _stop)
    try:
        return _run(sys.argv[1:] if argv is None else list(argv))
    except KeyboardInterrupt:
        print(f"\n{STOPPED}", file=sys.stderr)
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, _: object) -> None:
    """End, so that what is half-written is cleared away."""
    sys.exit(128 + number)


def _run(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="fairseq-dsp", description="Prune the attention heads of translation models.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, help_text) in COMMANDS.items():
        command = commands.add_parser(
            name, help=help_text, description=help_text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name in argv[:1]:
            try:
                chosen = importlib.import_module(module, __package__)
            except UserError as error:  # the plugin cannot be loaded, as a file that the environment names is missing
                return _failed(name, error)
            command.epilog = chosen.__doc__
            chosen.add_arguments(command)
            command.set_defaults(run=chosen.run)
    try:
        args, more = parser.parse_known_args(argv)
        if more and not hasattr(args, "more"):
            commands.choices[args.command].error(f"unrecognized arguments: {' '.join(more)}")
        args.more = more
        args.run(args)
        sys.stdout.flush()
    except UserError as error:
        return _failed(argv[0], error)
    except BrokenPipeError:  # nobody reads on, as in … | head
        _drop_output()
    except OSError as error:
        told = about_a_file(error)
        if told is None:
            raise
        if error.filename is None:  # it was output that there was no room for
            _drop_output()
        return _failed(argv[0], told)
    return 0


def _drop_output() -> None:
    """Have what is still to be printed lead nowhere, so that Python's end does not fail for it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_closed_streams() -> None:
    """Have standard streams that the caller closed lead nowhere; Python has none of them."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 (as long as the process)


def _failed(command: str, error: UserError | str) -> int:
    print(f"fairseq-dsp {command}: {error}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
