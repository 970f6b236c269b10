"""Natural language inference: pairs of sentences with a label, for fairseq's task ``sentence_prediction``.

The stages, each a folder of the output folder and each made from the one before::

    raw/         the two sentences and the label of each pair, checked, a line each
    pieces/      the sentences in the WordPieces of the encoder
    data-bin/    dictionaries and binarised pairs, for fairseq; with the encoder's dictionary and tokeniser
    prepare.json the settings, the names of the test sets, the sizes: written last
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..corpus import CLASSIFICATION
from ..errors import UserError
from ..evaluation.prepared import refuse_colon
from ..files import settings_key, sha256
from ..wordpiece import WordPiece, cut
from .arguments import positive
from .corpora import split_names
from .download import text_hash
from .lines import stored_lines, write_lines
from .nli_layouts import LABELS, Texts, read_corpus
from .stages import Workspace, say, told_in_one_sentence

NAME = "nli"
HELP = "sentence pairs of SICK, SNLI or MNLI, from a folder"
DESCRIPTION = """SICK, SNLI or MNLI, as GLUE or the corpora themselves ship them, from a local folder; which one it is,
the names of the files say. Training pairs that recur in a test set are left out. Without a training set, all
validation pairs but those held out are for training; without a validation set, pairs of the training set are held
out."""
COLUMNS = ("input0", "input1", "label")


@dataclass(frozen=True)
class Encoder:
    """What ``fairseq-dsp import-bert`` wrote: the dictionary and the tokeniser of an encoder."""

    folder: Path

    @property
    def dictionary(self) -> Path:
        """The fairseq dictionary."""
        return self.folder / "dict.txt"

    @property
    def tokeniser(self) -> Path:
        """The WordPiece model."""
        return self.folder / "wordpiece.json"

    def check(self) -> None:
        """Raise a `UserError` if a file is missing."""
        for path in (self.dictionary, self.tokeniser):
            if not path.is_file():
                raise UserError(f"{path} is missing: give --encoder the folder that fairseq-dsp import-bert wrote")

    def check_dictionary(self) -> None:
        """Raise a `UserError` if the dictionary does not have all words of the tokeniser."""
        from .binarise import check_dictionary  # help needs none of its packages

        known, words = check_dictionary(self.dictionary), WordPiece.read(self.tokeniser).words
        if lacking := [word for word in words if word not in known]:
            raise UserError(
                f"{self.dictionary} lacks {len(lacking)} of the {len(words)} words of {self.tokeniser.name}, such as "
                f"{min(lacking)}, so one of them is another encoder's: give --encoder the folder that fairseq-dsp "
                "import-bert wrote"
            )


def add_command(commands: Any) -> None:
    """Add the sub-command to those of ``fairseq-dsp prepare``."""
    parser = commands.add_parser(NAME, help=HELP, description=DESCRIPTION)
    parser.epilog = "example: %(prog)s data/sick --raw-dir SICK --encoder bert/"
    add = parser.add_argument
    add("out", metavar="OUT", type=Path, help="folder for the results")
    add("--raw-dir", required=True, metavar="DIR", type=Path, help="folder of the corpus; files may be compressed")
    add("--encoder", required=True, metavar="DIR", type=Path, help="folder that fairseq-dsp import-bert wrote")
    add("--valid-size", type=positive, metavar="N", help="pairs to hold out where a set is missing (default: 500)")
    add("--seed", type=int, default=1, metavar="N", help="seed of that choice (default: %(default)s)")
    add(
        "--max-positions",
        type=positive,
        metavar="N",
        help="maximum number of tokens of a pair; longer pairs are cut (default: as many as the encoder takes)",
    )
    add("--force", action="store_true", help="replace a finished preparation in OUT that has other settings")
    parser.set_defaults(prepare=run)


def run(args: argparse.Namespace) -> None:
    """Prepare the corpus that the command line asks for.

    :raises UserError: if the input is bad, or OUT holds a finished preparation with other settings.
    """
    from .settings import is_done

    with told_in_one_sentence(args.out):
        encoder = Encoder(args.encoder)
        encoder.check()
        positions = _positions(encoder, args.max_positions)
        refuse_colon(args.out / "data-bin")
        corpus = read_corpus(args.raw_dir, held_out=args.valid_size or 500, seed=args.seed)
        if args.valid_size and corpus.held_out is None:
            raise UserError(
                f"--valid-size {args.valid_size} is given, but {args.raw_dir} has a training and a validation set, so "
                "nothing is held out: leave it out"
            )
        settings = {
            "corpus": corpus.name,
            "input": {name: text_hash(path) for name, path in corpus.files.items()},
            "held-out": corpus.held_out,
            "encoder": {path.name: sha256(path) for path in (encoder.dictionary, encoder.tokeniser)},
            "max-positions": positions,
        }
        of_raw = {name: settings[name] for name in ("corpus", "input", "held-out")}
        keys = {"raw": settings_key(of_raw), "pieces": settings_key(settings), "data-bin": settings_key(settings)}
        with Workspace(args.out) as space:
            if is_done(space, settings, keys, args.force):
                return
            encoder.check_dictionary()
            raw = space.stage("raw", keys["raw"], lambda folder: _write(corpus.texts, folder))
            splits = split_names(len(corpus.test_sets))
            pieces = space.stage(
                "pieces", keys["pieces"], lambda folder: _encode(raw, splits, encoder, positions, folder)
            )
            space.stage("data-bin", keys["data-bin"], lambda folder: _binarise(pieces, splits, encoder, folder))
            summary = {
                "task": CLASSIFICATION,
                "corpus": corpus.name,
                "data_bin": "data-bin",
                "bpe": "wordpiece",
                "bpe_model": f"data-bin/{encoder.tokeniser.name}",
                "labels": list(LABELS),
                "max_positions": positions,
                "test_sets": dict(zip(splits[2:], corpus.test_sets, strict=True)),
                "pairs": {split: len(rows) for split, rows in corpus.texts.items()},
                "left_out": corpus.left_out,
                "settings": settings,
                "key": keys["data-bin"],
            }
            space.finish(summary)
    say(f"{args.out / 'data-bin'} is ready for fairseq-train --task sentence_prediction --num-classes {len(LABELS)}")


def _positions(encoder: Encoder, given: int | None) -> int:
    """Return the most tokens of a pair: those that the encoder takes, unless fewer are asked for."""
    most = WordPiece.read(encoder.tokeniser).positions
    if given is not None and given < 5:
        raise UserError(f"--max-positions is {given}, but a pair takes at least 5 tokens")
    if given is not None and most is not None and given > most:
        raise UserError(
            f"--max-positions is {given}, but the encoder in {encoder.folder} takes {most} tokens: give no more, or "
            "leave it out"
        )
    return given or most or 512  # what an earlier import wrote does not say


def _write(texts: Texts, folder: Path) -> None:
    for split, rows in texts.items():
        for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True):
            write_lines(folder / f"{split}.{name}", column)


def _encode(raw: Path, splits: list[str], encoder: Encoder, positions: int, folder: Path) -> None:
    """Write the pairs in WordPieces; one of more than *positions* tokens loses the ends of its longer sentence."""
    model = WordPiece.read(encoder.tokeniser)
    room = positions - 3  # the symbol at the beginning, and one at the end of each sentence
    for split in splits:
        texts = [list(stored_lines(raw / f"{split}.{name}")) for name in COLUMNS[:2]]
        sides = [model.encode(text) for text in texts]
        pairs = [(first.split(" "), second.split(" ")) for first, second in zip(*sides, strict=True)]
        empty = [pair for pair, words in enumerate(pairs) if not all(map(any, words))]
        if empty:
            first = tuple(text[empty[0]] for text in texts)
            raise UserError(
                f"{len(empty)} pairs of {split} have a sentence without any WordPiece, such as one of control "
                f"characters alone, the first of them {first!a}: remove them"
            )
        longer = sum(cut(pair, room) for pair in pairs)
        if longer:
            say(f"{split}: {longer} of {len(pairs)} pairs have more than {positions} tokens, whose longer side was cut")
        for name, side in zip(COLUMNS[:2], zip(*pairs, strict=True), strict=True):
            write_lines(folder / f"{split}.{name}", map(" ".join, side))
        write_lines(folder / f"{split}.label", stored_lines(raw / f"{split}.label"))


def _binarise(pieces: Path, splits: list[str], encoder: Encoder, folder: Path) -> None:
    from .binarise import binarise  # help needs none of its packages

    for name in COLUMNS:
        (folder / name).mkdir()
        dictionary = folder / name / "dict.txt"
        if name == "label":
            write_lines(dictionary, [f"{label} 1" for label in LABELS])
        else:
            shutil.copyfile(encoder.dictionary, dictionary)
        for split in splits:
            binarise(pieces / f"{split}.{name}", dictionary, folder / name / split, workers=1)
    for path in (encoder.dictionary, encoder.tokeniser):
        shutil.copyfile(path, folder / path.name)
