"""A prepared corpus: what ``prepare.json``, written by the data preparation, says about it."""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import languages
from ..corpus import CLASSIFICATION, SUMMARY, folder_of
from ..errors import UserError, not_allowed
from ..files import read_object, settings_key, sha256

_MMAP = b"MMIDIDX"
"""What the index of a text begins with that fairseq binarised as it does by default."""


def refuse_colon(data_bin: Path) -> None:
    """Raise a `UserError` for a ``data-bin`` whose path fairseq-train would take for a list of folders."""
    if ":" in str(data_bin.absolute()):
        raise UserError(
            f"{data_bin.absolute()} has a colon in its path, at which fairseq-train splits lists of data folders: "
            "choose another folder, without one; what is there already may be moved or linked"
        )


@dataclass(frozen=True)
class PreparedData:
    """A folder that the data preparation made.

    :param folder: the folder with ``prepare.json``.
    :param summary: the content of that file.
    """

    folder: Path
    summary: dict[str, Any]

    @staticmethod
    def read(path: str | Path) -> PreparedData:
        """Read the preparation in *path*, which may also be its ``data-bin``.

        :raises UserError: if no finished preparation is there.
        """
        folder = folder_of(path)
        file = folder / SUMMARY
        if not folder.exists():
            raise UserError(f"there is no folder {path}: give the one that scripts/preprocess.sh wrote")
        if folder.suffix == ".pt" and folder.is_file():
            raise UserError(f"{path} is a checkpoint, but the folder of a prepared corpus is expected")
        if not file.exists():
            raise UserError(
                f"{path} holds no prepared corpus ({file} is missing): give the folder that scripts/preprocess.sh "
                "wrote; or, for a folder of fairseq-preprocess, its references too, with --references FILE and, as its "
                "text has them, --bpe and --tokenizer"
            )
        summary = read_object(file, "run scripts/preprocess.sh again")
        needed = {"source_lang", "target_lang", "data_bin", "bpe", "tokenizer", "lowercase", "references"}
        if summary.get("task") == CLASSIFICATION:
            needed = {"data_bin"}
        missing = needed - set(summary)
        if missing:
            raise UserError(f"{file} lacks {', '.join(sorted(missing))}: run scripts/preprocess.sh again")
        data = PreparedData(folder, summary)
        for data_bin in data.data_bins:
            if not data_bin.is_dir():
                raise UserError(f"{data_bin} is missing, but {file} names it: run scripts/preprocess.sh again")
        return data

    @property
    def data_bin(self) -> Path:
        """The folder that fairseq's tools read."""
        return self.folder / self.summary["data_bin"]

    @property
    def data_bins(self) -> list[Path]:
        """That folder and those of further parts of the training text."""
        return [self.folder / name for name in self.summary.get("data_bins", [self.summary["data_bin"]])]

    @functools.cached_property
    def key(self) -> str | None:
        """A checksum by which corpora are told apart; None of a preparation that has none.

        A data-bin from elsewhere says nothing of its texts: all of them are read for it.
        """
        key: str | None = self.summary.get("key")
        if self.summary["data_bin"] != ".":
            return key
        beside = self.folder.glob("*/*" if self.classifies else "*")
        texts = [path for path in beside if path.suffix in (".bin", ".idx")]
        return settings_key([key, {str(path.relative_to(self.folder)): sha256(path) for path in texts}])

    @property
    def training_data(self) -> str:
        """What fairseq-train is given: a folder, or several, joined by colons, one for each epoch in turn."""
        return ":".join(str(path.absolute()) for path in self.data_bins)

    def derived(self, folder: Path) -> PreparedData:
        """The corpus that is made of this one in *folder*: its data-bins have the same names, or are ``data-bin``
        where this one is a data-bin itself."""
        summary = dict(self.summary)
        if "given" in summary:
            summary["given"] = {"references": summary["given"]["references"]}
        if summary["data_bin"] == ".":
            summary["data_bin"] = "data-bin"
        return replace(self, folder=folder, summary=summary)

    def check_trainable(self) -> None:
        """Raise a `UserError` if fairseq-train would take the path of ``data-bin`` for a list of folders."""
        refuse_colon(self.data_bin)

    def check_distillable(self) -> None:
        """Raise a `UserError` unless its training text can be given a model's translations beside the references."""
        if self.classifies:
            raise UserError(f"{self.folder} is a corpus with labels, but distillation needs one to translate")
        if "models" in self.summary.get("settings", {}):
            raise UserError(f"{self.folder} has translations already: give the corpus that it was made of")
        for data_bin in self.data_bins:
            if any(data_bin.glob("train1.*")):
                raise UserError(
                    f"{data_bin} has further training texts beside train, as train1, but distillation needs one: "
                    "binarise them as one"
                )
            for index in data_bin.glob("train.*.idx"):
                with index.open("rb") as file:
                    mapped = file.read(len(_MMAP)) == _MMAP
                if not mapped:
                    raise UserError(
                        f"{index} is not of fairseq's format mmap, which distillation needs: binarise the text with "
                        "fairseq-preprocess --dataset-impl mmap"
                    )

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target language."""
        return self.summary["source_lang"], self.summary["target_lang"]

    @property
    def serves_both_directions(self) -> bool:
        """Whether it is somebody's own data-bin, with references in the language that a model translates into."""
        return "given" in self.summary and self.summary["data_bin"] == "."

    def text_name(self, split: str) -> str:
        """What the files of a binarised text are called before their language, of which fairseq takes either order."""
        source, target = self.languages
        first, second = f"{split}.{source}-{target}", f"{split}.{target}-{source}"
        other = not (self.data_bin / f"{first}.{source}.idx").is_file()
        return second if other and (self.data_bin / f"{second}.{source}.idx").is_file() else first

    @property
    def language_flags(self) -> list[str]:
        """The flags of fairseq's tools that say the languages of a parallel corpus."""
        if self.classifies:
            return []
        return languages.flags(*self.languages)

    @property
    def described(self) -> dict[str, Any] | None:
        """What was given of the text of somebody's own data-bin, such as its subwords; None for a prepared corpus."""
        given: dict[str, Any] | None = self.summary.get("given")
        return given and {name: value for name, value in given.items() if name != "references"}

    @property
    def classifies(self) -> bool:
        """Whether its sentences, or pairs of them, have labels; otherwise it is a parallel corpus."""
        return self.summary.get("task") == CLASSIFICATION

    @property
    def labels(self) -> list[str]:
        """The labels of a corpus that has some."""
        from ..model.labels import labels_of  # help needs none of its packages

        return labels_of(self._label_dictionary())

    @property
    def output_name(self) -> str:
        """What a file with a model's output for one of its texts is called."""
        return "predictions.txt" if self.classifies else "translations.txt"

    @property
    def splits(self) -> list[str]:
        """The texts that can be translated, or classified, and scored."""
        if self.classifies:
            return sorted(path.stem for path in (self.data_bin / "label").glob("*.idx") if path.stem != "train")
        references = list(self.summary["references"])
        # earlier preparations name those of the test sets only
        valid = "valid" not in references and (self.folder / f"raw/valid.{self.languages[1]}").is_file()
        return ["valid", *references] if valid else references

    def check_split(self, split: str) -> None:
        """Raise a `UserError` unless *split* is one of :attr:`splits`, or several, joined by commas."""
        parts = split.split(",")
        for part in parts:
            if part not in self.splits:
                known = ", ".join(self.splits)
                raise UserError(f"there is no text called {part!r} in {self.folder}: give one of {known}")
        if len(set(parts)) < len(parts):
            raise UserError(f"the split {split} names a text twice: give each text once")

    def parts(self, split: str) -> list[str]:
        """The texts that *split* names: one, or several that are scored as one."""
        self.check_split(split)
        return split.split(",")

    def references(self, split: str) -> list[str]:
        """The untokenised reference translations of a text, or its labels; of several texts, one after the other."""
        return [line for part in self.parts(split) for line in self._references(part)]

    def _references(self, split: str) -> list[str]:
        from ..model.labels import read_labels  # help needs none of its packages

        if self.classifies:
            dictionary = self._label_dictionary()
            return read_labels(self.binarised(f"label/{split}", dictionary), dictionary, split, self.data_bin)
        lines = self._lines(self.summary["references"].get(split, f"raw/{split}.{self.languages[1]}"))
        if "given" in self.summary:  # somebody's own file, of any system
            lines = [line.removesuffix("\r") for line in lines]
            lines[0] = lines[0].removeprefix("\ufeff")
        return lines

    def sources(self, split: str) -> list[str]:
        """The untokenised source sentences of a text."""
        self.check_split(split)
        return self._lines(f"raw/{split}.{self.languages[0]}")

    def ceiling(self, split: str) -> dict[str, float] | None:
        """The best score of each metric that a text leaves possible; None where it was not measured, as for several."""
        ceilings: dict[str, dict[str, float]] = self.summary.get("ceiling", {})
        return ceilings.get(split)

    def subwords(self, split: str, language: str) -> list[list[str]]:
        """The subwords of a text in one of the languages, a list a sentence, as the models are given them."""
        return [line.split() for part in self.parts(split) for line in self._lines(f"bpe/{part}.{language}")]

    def binarised(self, name: str, dictionary: Any = None) -> Any:
        """A text of ``data-bin`` as fairseq reads it, or None where it is not there.

        :param name: of its files, without ``.bin`` and ``.idx``.
        :raises UserError: if they are damaged or cut short.
        """
        from fairseq.data import data_utils

        path = self.data_bin / name
        try:
            text = data_utils.load_indexed_dataset(str(path), dictionary)
            if text is not None and text.supports_prefetch:  # of fairseq-preprocess --dataset-impl cached
                text.prefetch(range(len(text)))
            if text is not None and len(text):
                text[len(text) - 1]  # at the end of the file
        except PermissionError as error:
            raise not_allowed(error) from error
        except (ValueError, AssertionError, OSError, struct.error) as error:
            raise UserError(
                f"{path}.bin and {path.name}.idx are damaged, or one of them is cut short "
                f"({str(error).split('. ')[0]}): binarise the text again"
            ) from error
        return text

    def tokenised_references(self, split: str) -> list[str] | None:
        """The reference translations as the recipe tokenised them, or None where it did not."""
        if self.classifies or self.summary["tokenizer"] == "none" or "given" in self.summary:
            return None
        target = self.languages[1]
        return [line for part in self.parts(split) for line in self._lines(f"tokenised/{part}.{target}")]

    def dictionary(self, name: str) -> Any:
        """The dictionary of ``data-bin`` with this name, such as ``dict.en.txt``, as fairseq reads it.

        :raises UserError: if it is missing or damaged.
        """
        return read_dictionary(self.data_bin / name)

    @property
    def dictionaries(self) -> dict[str, Any]:
        """Those of the source and the target language, see `dictionary`."""
        return {language: self.dictionary(f"dict.{language}.txt") for language in self.languages}

    def _label_dictionary(self) -> Any:
        return self.dictionary("label/dict.txt")

    def _lines(self, name: str) -> list[str]:
        path = self.folder / name
        try:
            text = path.read_bytes().decode()
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}), but scoring needs it: run scripts/preprocess.sh again"
            ) from error
        except UnicodeDecodeError as error:
            number = error.object.count(b"\n", 0, error.start) + 1
            raise UserError(
                f"{path}, line {number}, is not UTF-8 (byte 0x{error.object[error.start]:02x}): give UTF-8 text"
            ) from error
        # only a line feed ends a line, as in the preparation
        return text.removesuffix("\n").split("\n")


def read_dictionary(path: Path) -> Any:
    """Read a dictionary as fairseq does.

    :raises UserError: if it is missing or damaged.
    """
    from fairseq.data import Dictionary

    try:
        return Dictionary.load(str(path))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: run scripts/preprocess.sh again") from error
    except Exception as error:  # fairseq raises what it likes
        reason = str(error).splitlines()[0]
        raise UserError(f"{path} is no dictionary of fairseq's ({reason}): run scripts/preprocess.sh again") from error
