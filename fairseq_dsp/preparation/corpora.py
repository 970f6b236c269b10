"""What a corpus is, and the corpora there are.

What one corpus needs is a module of its own: ``custom`` here, the others in ``data-prep/`` of the repository, which an
installed package has as ``fairseq_dsp_corpora``. Such a module has

* ``HELP`` and ``DESCRIPTION`` for ``--help``, and ``RECIPE``, the defaults of the common options;
* ``add_arguments(parser)`` for its own options;
* ``corpus(args)``, which returns the :class:`Corpus` that the command line asks for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .cleaning import Texts

NAMES = ("phrases", "multi30k", "iwslt14", "custom")
PACKAGE = "fairseq_dsp_corpora"
FOLDER = Path(__file__).resolve().parents[2] / "data-prep"


@dataclass(frozen=True)
class Recipe:
    """The defaults of the options that all corpora share.

    :param bpe: ``sentencepiece`` or ``subword-nmt``.
    :param vocab_size: pieces or merges.
    :param languages: source and target, of which either may be the source; None where the user names them.
    :param fixed: what the recipe sets once and for all: ``tokenizer`` and ``lowercase``.
    """

    bpe: str
    vocab_size: int
    languages: tuple[str, str] | None = None
    fixed: dict[str, Any] | None = None


@dataclass
class Corpus:
    """Where a parallel text comes from.

    :param name: of the corpus.
    :param languages: source and target.
    :param origin: everything the text depends on: settings, and the SHA-256 of each input file; JSON-like.
    :param test_sets: their names, the first one the main one.
    :param write_raw: is given the texts ``{train,valid,test,test1,…}.{SRC,TGT}`` of raw/ to write them.
    :param write_tokenised: instead of tokenising all of raw/: is given the folder raw/ and the texts of tokenised/.
    :param codes: a ready table of BPE merges.
    :param detokenised: the references in raw/ had to be made from tokenised text.
    :param splits_late: raw/ has the text to train and to validate on as one, which *write_tokenised* splits.
    """

    name: str
    languages: tuple[str, str]
    origin: dict[str, Any]
    test_sets: list[str]
    write_raw: Callable[[Texts], None]
    write_tokenised: Callable[[Path, Texts], None] | None = None
    codes: Path | None = None
    detokenised: bool = False
    splits_late: bool = False

    def splits(self) -> list[str]:
        """The names of its texts."""
        return split_names(len(self.test_sets))

    def test_names(self) -> dict[str, str]:
        """What its test sets are called by users, by their names as texts."""
        return dict(zip(self.splits()[2:], self.test_sets, strict=True))


def split_names(test_sets: int) -> list[str]:
    """The names of the texts as fairseq numbers them: train, valid, test, test1, …"""
    return ["train", "valid", *("test" + (str(i) if i else "") for i in range(test_sets))]


def module(name: str) -> ModuleType:
    """The module of a corpus, or another one beside it."""
    if name == "custom":
        return importlib.import_module(f"{__package__}.custom")
    if PACKAGE not in sys.modules and FOLDER.is_dir():
        spec = importlib.util.spec_from_file_location(PACKAGE, FOLDER / "__init__.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[PACKAGE] = package = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(package)
    return importlib.import_module(f"{PACKAGE}.{name}")
