"""What raw text goes through before an exported model: options of a command, by default as the corpus was prepared."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..corpus import method_of
from ..deployment.engine import TEXT
from ..deployment.reading import CONFIG
from ..deployment.text import GPT2, KINDS_OF_BPE, read_bpe
from ..errors import UserError

_WRITTEN_LAST = CONFIG, TEXT, "README.md"


def add_arguments(parser: argparse.ArgumentParser, others: Sequence[str] = ()) -> None:
    """Add the options.

    :param others: further kinds of subwords.
    """
    kinds = [method_of(kind) for kind in (*KINDS_OF_BPE, *others, "none")]
    parser.add_argument("--bpe", choices=kinds, type=method_of, help="subword method (default: as prepared)")
    parser.add_argument("--bpe-model", metavar="FILE", help="the subword model (default: as prepared)")
    parser.add_argument("--tokenizer", choices=["moses", "none"], help="before the subwords (default: as prepared)")
    parser.add_argument(
        "--lowercase", action="store_true", help="lower-case before the subwords (default: as prepared)"
    )


def subwords(
    args: argparse.Namespace, prepared: dict[str, Any], others: Sequence[str] = ()
) -> tuple[str | None, Path | None]:
    """Return the kind of the subwords and the file of their model.

    :param prepared: what the preparation of the corpus says.
    :param others: further kinds of subwords.
    :raises UserError: if the file is missing, of another kind, or given without its kind.
    """
    kind = str(args.bpe or prepared.get("bpe", "none")).replace("-", "_")
    if kind not in (*KINDS_OF_BPE, *others):
        if args.bpe_model:
            raise UserError(
                f"--bpe-model {args.bpe_model} is given, but not what kind of subwords it has: give --bpe too, one of "
                f"{', '.join(map(method_of, (*KINDS_OF_BPE, *others)))}"
            )
        if not prepared and not args.bpe:
            print("The folder will take raw text to be words with spaces between them: --bpe and --bpe-model say more")
        return None, None
    file = args.bpe_model or prepared.get("bpe_model")
    if file is None or not Path(file).is_file():
        raise UserError(f"the {kind} model {file} does not exist: give --bpe-model FILE, or --bpe none")
    if kind in (*KINDS_OF_BPE, GPT2):
        read_bpe(kind, Path(file))
    return kind, Path(file)


def copy_subwords(file: Path, folder: Path) -> None:
    """Copy a file of a subword model into a folder that is being written.

    :raises UserError: if it has the name of another file there.
    """
    if (folder / file.name).exists() or file.name in _WRITTEN_LAST:
        raise UserError(f"the subword model {file} has the name of another file of the folder: rename it")
    shutil.copyfile(file, folder / file.name)


def text_settings(args: argparse.Namespace, prepared: dict[str, Any], task: Any) -> dict[str, Any]:
    """Return what raw text goes through beside the subwords, and the languages.

    :param task: fairseq's translation task.
    """
    return {
        "tokenizer": args.tokenizer or str(prepared.get("tokenizer", "none")),
        "lowercase": bool(args.lowercase or prepared.get("lowercase")),
        "normalise": prepared.get("normalise"),
        "source_lang": task.cfg.source_lang,
        "target_lang": task.cfg.target_lang,
    }
