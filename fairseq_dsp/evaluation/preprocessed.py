"""Anyone's binarised corpus: a folder that ``fairseq-preprocess`` made, its references, what its text went through."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..corpus import CLASSIFICATION, SUMMARY, folder_of, method_of
from ..errors import UserError
from ..files import settings_key
from ..languages import bleu_tokenizer
from .prepared import PreparedData

BPE = ("sentencepiece", "subword-nmt", "none")
TOKENIZERS = ("none", "moses")
_LOOKS = {
    "sentencepiece": (lambda word: word.startswith("\u2581"), "start with \u2581"),
    "subword-nmt": (lambda word: word.endswith("@@"), "end with @@"),
}
"""How the entries of a dictionary tell the subword method: many of them do so."""

_COMPARED = 200
_ALIKE = 10.0
"""A BLEU that the text of the references has with them, and another translation of the same, too."""

KEYS = ("references", "bpe", "tokenizer", "lowercase")
"""What is given of a text, under the names of the command line."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options for a folder of fairseq-preprocess."""
    group = parser.add_argument_group("for a DATA that fairseq-preprocess made")
    group.add_argument(
        "--references", metavar="FILE", help="references of the data-bin's text, untokenised, one sentence per line"
    )
    group.add_argument("--bpe", type=method_of, choices=BPE, help="subword method of the data-bin (default: none)")
    group.add_argument(
        "--tokenizer", choices=TOKENIZERS, help="tokeniser that was used before the subwords (default: none)"
    )
    group.add_argument("--lowercase", action="store_true", default=None, help="the text of the data-bin is lower-cased")


def given_by(args: argparse.Namespace) -> dict[str, Any]:
    """What a command line says about a text."""
    return {key: getattr(args, key) for key in KEYS if getattr(args, key) is not None}


def read_data(path: Any, split: str, given: Mapping[str, Any] | None = None) -> PreparedData:
    """Read a preparation, or a folder of fairseq-preprocess with what is given of its text.

    :param path: the folder; or, in a study, a mapping with it as ``folder`` and with what is given.
    :param split: the text that is to be scored.
    :param given: of `KEYS`; of a preparation, other references only.
    :raises UserError: if it is neither, or what is given does not fit it.
    """
    if isinstance(path, Mapping):
        given = {**{key: value for key, value in path.items() if key != "folder"}, **(given or {})}
        path = path.get("folder")
    given = {key: value for key, value in (given or {}).items() if value is not None}
    for key, value in given.items():
        known = {"bpe": BPE, "tokenizer": TOKENIZERS, "lowercase": (True, False)}.get(key, (value,))
        if key not in KEYS or value not in known:
            raise UserError(
                f"{key} is {value!r}, but a data-bin is described by {', '.join(('folder', *KEYS))}, with bpe one of "
                f"{BPE}"
            )
    if not isinstance(path, (str, Path)):
        raise UserError(f"the data is {path!r}, but a folder is expected")
    references = given.get("references")
    if references is None:
        if given:
            raise UserError(
                f"{', '.join(given)} describes the text of a data-bin from fairseq-preprocess: give its references too"
            )
        labelled = _labelled(Path(path))
        return labelled or PreparedData.read(path)
    if "," in split:
        raise UserError(f"the references given are of one text, but the split {split} names several: name one text")
    references = Path(str(references)).absolute()
    folder = Path(path)
    if (folder_of(folder) / SUMMARY).is_file():
        data = _with_references(PreparedData.read(path), split, references, given)
        _check_lengths(data, split)
        return data
    return _binarised(folder, split, references, given, _languages(folder, split))  # its length: see `for_model`


def for_model(data: PreparedData, state: Mapping[str, Any], split: str) -> PreparedData:
    """A folder of fairseq-preprocess in the direction of a model, whichever its files are named after, as fairseq has
    it; a preparation as it is.

    :param state: what fairseq loaded from the model's checkpoint.
    :param split: the text that is to be scored.
    :raises UserError: if the references are not as many as this text has sentences, or the subwords are others.
    """
    from ..model.dictionaries import direction  # help needs none of its packages

    if not data.serves_both_directions:
        return data
    source, target = direction(state)
    if source and target and data.languages != (source, target):
        own = replace(data, summary={**data.summary, "source_lang": source, "target_lang": target})
        name = own.text_name(split)
        if (data.data_bin / f"{name}.{source}.idx").is_file():
            given = data.summary["given"]
            if name != f"{split}.{source}-{target}":
                print(
                    f"the texts in {data.folder} are named {'-'.join(data.languages)}, but the model translates from "
                    f"{source} into {target}: {given['references']} is taken for {target}",
                    file=sys.stderr,
                )
            data = _binarised(data.folder, split, Path(given["references"]), given, (source, target))
    _check_lengths(data, split)
    dictionary = data.dictionary(f"dict.{data.languages[1]}.txt")
    _check_subwords(data, dictionary)
    _compare(data, split, dictionary)
    return data


def _labelled(folder: Path) -> PreparedData | None:
    """A folder in which fairseq's recipe binarised sentences and labels, unless a preparation made it."""
    prepared = (folder_of(folder) / SUMMARY).is_file()
    if not prepared and (folder / "label" / "valid.label").is_file():  # as fairseq's recipe has them for a regression
        raise UserError(
            f"{folder / 'label'} holds numbers to predict, but labels are expected: give a corpus with labels"
        )
    if prepared or not (folder / "label" / "dict.txt").is_file():
        return None
    content = hashlib.sha256()
    for name in ("input0", "label"):
        content.update(_read(folder / name / "dict.txt"))
    name = folder.absolute().name
    summary = {
        "task": CLASSIFICATION,
        "corpus": name,
        "data_bin": ".",
        "key": content.hexdigest(),
    }
    return PreparedData(folder, summary)


def flags(data: PreparedData) -> list[str]:
    """The words of a command line that give the same again, after ``--data``."""
    words = []
    for key, value in data.summary.get("given", {}).items():
        words += [f"--{key}"] if value is True else [f"--{key}", str(value)]
    return words


def _with_references(data: PreparedData, split: str, references: Path, given: Mapping[str, Any]) -> PreparedData:
    if data.classifies:
        raise UserError(f"references are given, but {data.folder} is a corpus with labels: leave them out")
    others = sorted(set(given) - {"references"})
    if others:
        raise UserError(f"{data.folder / SUMMARY} says how its text was prepared: leave out {', '.join(others)}")
    summary = {
        **data.summary,
        "references": {**data.summary["references"], split: str(references)},
        "ceiling": {name: best for name, best in data.summary.get("ceiling", {}).items() if name != split},
        "given": {"references": str(references)},
        "key": settings_key([data.summary.get("key"), hashlib.sha256(_read(references)).hexdigest()]),
    }
    return replace(data, summary=summary)


def _binarised(
    folder: Path, split: str, references: Path, given: Mapping[str, Any], languages: tuple[str, str]
) -> PreparedData:
    source, target = languages
    content = hashlib.sha256(_read(references))
    for language in (source, target):
        content.update(_read(folder / f"dict.{language}.txt"))
    summary = {
        "source_lang": source,
        "target_lang": target,
        "data_bin": ".",
        "bpe": given.get("bpe", "none"),
        "tokenizer": given.get("tokenizer", "none"),
        "lowercase": bool(given.get("lowercase", False)),
        "references": {split: str(references)},
        # an option that is false is as good as not given
        "given": {
            **{name: value for name, value in given.items() if value is not False},
            "references": str(references),
        },
        "key": content.hexdigest(),
    }
    return PreparedData(folder, summary)


def _languages(folder: Path, split: str) -> tuple[str, str]:
    """Source and target of a binarised text, which the names of its files say."""
    known = sorted(path.name.removeprefix("dict.").removesuffix(".txt") for path in folder.glob("dict.*.txt"))
    for source, target in itertools.permutations(known, 2):
        if (folder / f"{split}.{source}-{target}.{source}.idx").is_file():
            return source, target
    raise UserError(
        f"{folder} is neither a prepared corpus nor a data-bin with a text called {split}: give the folder with "
        "dict.*.txt and that text"
    )


def _check_lengths(data: PreparedData, split: str) -> None:
    binarised = data.binarised(f"{data.text_name(split)}.{data.languages[0]}")
    there, references = len(binarised or ()), len(data.references(split))
    if there != references:
        raise UserError(
            f"{data.summary['references'][split]} has {references} lines, but the text {split} in {data.data_bin} has "
            f"{there} sentences: give the references of this text, one sentence per line"
        )


def _check_subwords(data: PreparedData, dictionary: Any) -> None:
    """Check that the dictionary does not look like one of other subwords than are given: BLEU would be near 0."""
    path = data.data_bin / f"dict.{data.languages[1]}.txt"
    given, words = data.summary["bpe"], dictionary.symbols[dictionary.nspecial :]
    for bpe, (looks_like, how) in _LOOKS.items():
        number = sum(map(looks_like, words))
        if bpe != given and number > len(words) / 10:
            raise UserError(
                f"bpe is {given}, but {number} of the {len(words)} entries of {path} {how}, as those of {bpe} do: give "
                f"--bpe {bpe}"
            )


def _compare(data: PreparedData, split: str, dictionary: Any) -> None:
    """Say so where the references are not those of the binarised text, which may be in another language."""
    from sacrebleu.metrics import BLEU  # help needs none of its packages

    from ..removal.data_bin import POST_PROCESS
    from .scoring import detokenised

    target = data.languages[1]
    text = data.binarised(f"{data.text_name(split)}.{target}")
    if text is None:
        return
    references = data.references(split)[: min(_COMPARED, len(text))]
    own = [dictionary.string(text[i], POST_PROCESS.get(data.summary["bpe"])) for i in range(len(references))]
    bleu = BLEU(lowercase=True, tokenize=bleu_tokenizer(target), effective_order=True)  # of short sentences, too
    alike = bleu.corpus_score(detokenised(data, own), [references]).score
    if alike < _ALIKE:
        print(
            f"{data.summary['references'][split]} has little in common with the text {split} in {data.data_bin} in "
            f"{target} (BLEU {alike:.0f}): are these its references, in this language and untokenised?",
            file=sys.stderr,
        )


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): give another file") from error
