"""Sequence-level distillation (Kim and Rush 2016): a corpus whose training text is there several times, with the
references and with what a trained model makes of it.

The stages, each a folder of the output folder::

    raw/ …        those of the corpus but the binarised ones, as they are
    translations/ the best translation of each training sentence, in subwords, then the second best of each, and so
                  on, a file for each data-bin
    data-bin/     that of the corpus, with the training text several times: with its references, then with these
                  translations; further data-bins likewise
    prepare.json  as that of the corpus: written last
"""

from __future__ import annotations

import argparse
import os
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..evaluation import preprocessed
from ..evaluation.prepared import PreparedData
from ..files import read_json, settings_key, sha256
from .arguments import positive
from .lines import write_lines
from .stages import STAMP, Workspace, say, told_in_one_sentence

NAME = "distilled"
HELP = "a prepared corpus, with a trained model's translations of its training text beside the references"
DESCRIPTION = """Sequence-level distillation: a copy of a prepared corpus in which each training sentence is there
several times, with its reference and with the best translations that CKPT gives it. A model with few heads learns more
from all of them than from references alone. The other texts stay as they are, so scores are comparable."""
BEAM = 5
_MOST = 2.0, 20
"""A and B: a translation of A · (length of the source) + B subwords has got stuck, and the reference is taken."""


def add_command(commands: Any) -> None:
    """Add the sub-command to those of ``fairseq-dsp prepare``."""
    parser = commands.add_parser(NAME, help=HELP, description=DESCRIPTION)
    parser.epilog = "example: %(prog)s base.pt data/multi30k data/multi30k-distilled"
    add = parser.add_argument
    add("checkpoint", metavar="CKPT", help="checkpoint of the trained model; several, joined by ':', are an ensemble")
    add("data", metavar="DATA", type=Path, help="the corpus that it was trained on")
    add("out", metavar="OUT", type=Path, help="folder for the new one")
    meaning = f"how many translations of each sentence, 1 to {BEAM}: the best of the beam (default: %(default)s)"
    add("--translations", type=int, choices=range(1, BEAM + 1), default=1, metavar="N", help=meaning)
    add("--max-tokens", type=positive, default=4096, metavar="N", help="tokens in a batch (default: %(default)s)")
    add("--cpu", action="store_true", help="do not use a GPU")
    add("--force", action="store_true", help="replace a finished preparation in OUT that has other settings")
    add("--split", help="the text that --references are of (default: test)")
    preprocessed.add_arguments(parser)
    parser.set_defaults(prepare=run)


def run(args: argparse.Namespace) -> None:
    """Prepare the corpus that the command line asks for.

    :raises UserError: if the model or the corpus cannot be used, or OUT holds a finished preparation with other
        settings.
    """
    from fairseq import checkpoint_utils

    from ..evaluation.inputs import checkpoint_paths  # help needs none of their packages
    from ..model.dictionaries import check_words
    from ..removal.data_bin import check_task
    from .settings import is_done

    with told_in_one_sentence(args.out):
        if args.split and not args.references:
            raise UserError(
                f"--split {args.split} is given, but no --references: it is the text that these are of, while the "
                "training text is what is translated; give both, or leave it out"
            )
        split = args.split or "test"
        data = preprocessed.read_data(args.data, split, preprocessed.given_by(args))
        data.check_distillable()
        out = args.out.resolve()
        if any(out in (folder.resolve(), *folder.resolve().parents) for folder in (data.folder, *data.data_bins)):
            raise UserError(f"{args.out} is the corpus itself, or holds it: give another folder for the new one")
        models = checkpoint_paths(args.checkpoint)
        for path in models:
            state = checkpoint_utils.load_checkpoint_to_cpu(path)
            check_task(state, path)
            data = preprocessed.for_model(data, state, split) if path == models[0] else data
            check_words(state, path, data.data_bin, data.dictionaries)
        made = data.derived(args.out)
        made.check_trainable()
        settings = {
            "corpus": data.summary.get("corpus"),
            "input": data.key or str(data.folder.absolute()),
            "models": [sha256(Path(path)) for path in models],
            "beam": BEAM,
            "translations": args.translations,
        }
        names = [path.name for path in made.data_bins]
        others = [path.name for path in sorted(data.folder.iterdir()) if read_json(path / STAMP)]
        others = [name for name in others if name not in (*names, "translations")]
        key = settings_key(settings)
        keys = dict.fromkeys((*others, "translations", names[0]), key)
        with Workspace(args.out) as space:
            if is_done(space, settings, keys, args.force):
                return
            space.check(names)
            for name in others:
                space.stage(name, key, partial(_copy, data.folder / name))
            batches = {"max_tokens": args.max_tokens, "cpu": args.cpu}
            parts = {name: _part(data, path) for name, path in zip(names, data.data_bins, strict=True)}
            translate = partial(_translate, args.checkpoint, parts, args.translations, batches)
            texts = space.stage("translations", key, translate)
            for i, (name, part) in enumerate(parts.items()):
                own = key + name if i else key
                space.stage(name, own, partial(_add, part, texts / f"{name}.{data.languages[1]}", args.translations))
            # what these count is another text now
            left = {name: value for name, value in made.summary.items() if name not in ("pairs", "longest")}
            space.finish({**left, "settings": settings, "key": key})
    if len(names) > 1:
        say(f"the training text is in {len(names)} parts, for fairseq-train {made.training_data}")
    say(f"{made.data_bin} is ready for fairseq-train; translations of each training sentence: {args.translations}")


def _part(data: PreparedData, data_bin: Path) -> PreparedData:
    """The corpus with one of its data-bins alone."""
    return replace(data, summary={**data.summary, "data_bin": str(data_bin.absolute())})


def _copy(folder: Path, to: Path, *but: str) -> None:
    """Fill the folder *to* with the files of another but its stamp, and those with some names before their endings.

    Stages have no folders in them: one that is there is somebody's own, or that of the new corpus. Their files never
    change, so they need no copy; those of fairseq-preprocess are written in place.
    """
    stage = (folder / STAMP).is_file()
    for path in folder.iterdir():
        if path.is_file() and path.name != STAMP and path.stem not in but:
            try:
                (os.link if stage else shutil.copy2)(path, to / path.name)
            except OSError:  # on another disk
                shutil.copy2(path, to / path.name)


def _translate(
    checkpoint: str, parts: dict[str, PreparedData], number: int, batches: dict[str, Any], folder: Path
) -> None:
    """Write translations of the training text of each data-bin; in place of one that is of no use the best, or else
    the reference."""
    from ..evaluation.beam_search import beam_search
    from ..evaluation.inputs import checkpoint_paths, positions

    a, b = _MOST
    longest_source, longest = positions(checkpoint_paths(checkpoint))
    for name, part in parts.items():
        source, target = part.languages
        dictionary = part.dictionary(f"dict.{target}.txt")
        sources, references = (part.binarised(f"{part.text_name('train')}.{side}") for side in (source, target))
        if sources is None or references is None:
            raise UserError(f"{part.data_bin} holds no training text: run scripts/preprocess.sh again")
        if len(sources) != len(references):
            raise UserError(
                f"{part.data_bin} has {len(sources)} training sentences of {source}, but {len(references)} of "
                f"{target}: binarise texts that belong together"
            )
        say(f"translating the {len(sources)} training sentences of {part.data_bin}")
        found, _ = beam_search(checkpoint, part, "train", beam=BEAM, best=number, max_len_a=a, max_len_b=b, **batches)
        texts, taken = [], 0
        for i in range(len(sources)):
            most = min(a * len(sources[i]) + b, longest - 1)
            own = [line for line in found.get(i, []) if line.strip() and len(line.split()) < most]
            own = own if 1 < len(sources[i]) <= longest_source else []  # of nothing, or of a part of it
            taken += not own
            own = own or [dictionary.string(references[i])]
            texts.append((own + own[:1] * number)[:number])
        if taken:
            say(f"{taken} of them have no translation that is whole, and keep their reference")
        write_lines(folder / f"{name}.{target}", (text[rank] for rank in range(number) for text in texts))


def _add(data: PreparedData, translations: Path, number: int, folder: Path) -> None:
    """Write a data-bin with the training text several times: with its references, then with translations.

    Half as often with references as with translations: there would be too few of them among four.
    """
    from .binarise import binarise, join

    source, target = data.languages
    train, new = data.text_name("train"), folder / "translations"
    _copy(data.data_bin, folder, f"{train}.{source}", f"{train}.{target}")
    binarise(translations, folder / f"dict.{target}.txt", new, workers=1)
    with_references = max(1, number // 2)
    sources, references = (data.data_bin / f"{train}.{language}" for language in (source, target))
    join([sources] * (with_references + number), folder / f"{train}.{source}")
    join([references] * with_references + [new], folder / f"{train}.{target}")
    for ending in ("bin", "idx"):
        new.with_suffix(f".{ending}").unlink()
