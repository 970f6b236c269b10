"""What raw text goes through before a model and after it, as the preparation of the training text did it."""

from __future__ import annotations

import hashlib
import io
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .. import extras, moses
from ..errors import UserError
from ..files import sha256
from ..plain import normalised, plain

KINDS_OF_BPE = ("sentencepiece", "subword_nmt")
"""fairseq's names of them, for translation."""
GPT2 = "gpt2"
"""fairseq's name of RoBERTa's."""
GPT2_IDS = "encoder.json"
"""The file with the numbers of its subwords, beside the one with its merges."""


class Subwords(ABC):
    """A subword model."""

    @abstractmethod
    def encode(self, text: str) -> str:
        """Return the subwords of a text with spaces between them."""

    def encode_all(self, texts: list[str]) -> list[str]:
        """Return those of each of some texts."""
        return list(map(self.encode, texts))

    @abstractmethod
    def decode(self, subwords: str) -> str:
        """Return the text that subwords make."""


def joined(kind: str, subwords: str) -> str:
    """Return the text that subwords make, as fairseq undoes them.

    :param kind: one of :data:`KINDS_OF_BPE`, or as data preparation spells it.
    """
    if kind == "sentencepiece":
        return subwords.replace(" ", "").replace("\u2581", " ").strip()
    return (subwords + " ").replace("@@ ", "").rstrip()


class _SentencePiece(Subwords):
    def __init__(self, path: Path) -> None:
        import sentencepiece

        try:
            # the library takes no bytes for no model, which it does not complain of before it is used
            self._model = sentencepiece.SentencePieceProcessor(model_proto=path.read_bytes() or b"nothing")
        except RuntimeError as error:
            raise UserError(
                f"{path} is not a model of sentencepiece: give the .model file that it wrote, or another --bpe for a "
                "table of merges"
            ) from error

    def encode(self, text: str) -> str:
        return " ".join(self._model.encode(text, out_type=str))

    def encode_all(self, texts: list[str]) -> list[str]:
        return [" ".join(pieces) for pieces in self._model.encode(texts, out_type=str)]  # in one call: faster

    def decode(self, subwords: str) -> str:
        return joined("sentencepiece", subwords)


class _SubwordNmt(Subwords):
    def __init__(self, path: Path) -> None:
        from subword_nmt.apply_bpe import BPE

        try:
            text = path.read_text(encoding="utf-8")
            merges = [line for line in text.removesuffix("\n").split("\n") if not line.startswith("#version:")]
            # at what is none, the library ends the process
            if not merges or any(len(line.strip("\r ").split(" ")) != 2 for line in merges):
                raise ValueError
            self._model = BPE(io.StringIO(text))
        except ValueError as error:
            raise UserError(
                f"{path} is not a table of BPE merges: give the codes that subword-nmt wrote, or another --bpe for a "
                "model of sentencepiece"
            ) from error

    def encode(self, text: str) -> str:
        return str(self._model.process_line(text))

    def decode(self, subwords: str) -> str:
        return joined("subword_nmt", subwords)


class _ByteLevel(Subwords):
    """GPT-2's subwords, of bytes; the words of a fairseq dictionary are their numbers."""

    def __init__(self, path: Path) -> None:
        files = path.with_name(GPT2_IDS), path
        for file in files:
            file.open().close()  # the library has one error for all that is wrong
        tokenizers = extras.tokenizers()
        try:
            self._model = tokenizers.ByteLevelBPETokenizer.from_file(*map(str, files))
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"{path} and {GPT2_IDS} beside it are no byte-level BPE ({error}): give the vocab.bpe of GPT-2"
            ) from error

    def encode(self, text: str) -> str:
        return " ".join(map(str, self._model.encode(text).ids))

    def decode(self, subwords: str) -> str:
        return str(self._model.decode(list(map(int, subwords.split()))))


def read_bpe(kind: str | None, path: Path) -> Subwords | None:
    """Read a subword model; there is none for a *kind* of None, which may be spelt with a hyphen too.

    :raises UserError: if the file is missing, or of another kind.
    """
    if kind is None:
        return None
    kind = kind.replace("-", "_")
    kinds: dict[str, Callable[[Path], Subwords]]
    kinds = {"sentencepiece": _SentencePiece, "subword_nmt": _SubwordNmt, GPT2: _ByteLevel}
    try:
        return kinds[kind](path)
    except OSError as error:
        raise UserError(
            f"the {kind} model {error.filename} cannot be read ({error.strerror}): give the file"
        ) from error


class Text:
    """Raw sentences to subwords and back.

    :param config: ``bpe`` (of `KINDS_OF_BPE`, or None), ``bpe_model`` (its file), ``tokenizer`` (``moses`` or
        ``none``), ``lowercase``, ``normalise`` (``nfc``, ``nfkc`` or None), ``source_lang`` and ``target_lang``.
    :param folder: where the subword model is.
    :raises UserError: if the subword model cannot be read.
    """

    def __init__(self, config: dict[str, Any], folder: Path) -> None:
        self._lowercase = config["lowercase"]
        self._normalise = config.get("normalise")  # earlier folders have none
        self._moses = config["tokenizer"] == "moses"
        self._languages = config["source_lang"], config["target_lang"]
        self._bpe = read_bpe(config["bpe"], folder / str(config["bpe_model"]))

    def encode(self, sentence: str) -> str:
        """Return the subwords of a raw sentence, with spaces between them."""
        # without a subword model, text may have been segmented already, with U+2581 for spaces
        one = plain(sentence) if self._bpe else " ".join(sentence.split())
        text = self.tokenised(normalised(one, self._normalise))
        return self._bpe.encode(text) if self._bpe else text

    def tokenised(self, sentence: str) -> str:
        """Return a plain sentence as the preparation of the training text would have tokenised it."""
        if self._moses:
            sentence = moses.tokenised(sentence, self._languages[0])
        return sentence.lower() if self._lowercase else sentence

    def decode(self, subwords: str) -> str:
        """Return the plain text of a translation's subwords."""
        text = self._bpe.decode(subwords) if self._bpe else subwords
        return moses.detokenised(text, self._languages[1]) if self._moses else text


def check_files(
    folder: Path,
    said_by: str,
    checksums: Mapping[str, str],
    others: Iterable[str],
    *,
    again: str,
    own: str | None = None,
) -> None:
    """Check the files that an exported folder says it has.

    :param said_by: the file that says so.
    :param checksums: for each file, its SHA-256.
    :param others: further files that it names.
    :param again: what to do if a file is missing or altered.
    :param own: the checksum of *said_by* itself, which holds it.
    :raises UserError: if one is outside of the folder, is missing, or is not as it was written.
    """
    for name in (*checksums, *others):
        if not is_plain(name):
            raise UserError(
                f"{said_by} names {name}, but only files of its own folder are read: do not trust this folder"
            )
    for name, checksum in checksums.items():
        if not (folder / name).is_file():
            raise UserError(f"the file {name} is missing in {folder}: {again}")
        if (own if own and name == said_by else sha256(folder / name)) != checksum:
            raise UserError(f"the file {name} in {folder} is not as it was written (its checksum differs): {again}")


def own_checksum(config: dict[str, Any], file: str) -> str:
    """Return the checksum of the content of a file that holds those of others, whatever it says its own is."""
    others = {name: checksum for name, checksum in config["sha256"].items() if name != file}
    return hashlib.sha256(json.dumps({**config, "sha256": others}, sort_keys=True).encode()).hexdigest()


def is_plain(name: str) -> bool:
    """Whether a name leads to no other folder."""
    return Path(name).name == name
