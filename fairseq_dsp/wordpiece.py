"""Text in BERT's WordPieces, and as the words of a fairseq dictionary."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from . import extras
from .errors import UserError

SPECIALS = {"[CLS]": "<s>", "[PAD]": "<pad>", "[SEP]": "</s>", "[UNK]": "<unk>"}
"""BERT's symbols and those of fairseq that mean the same, in fairseq's order."""


class WordPiece:
    """A WordPiece model; a text that says ``[SEP]`` or the like holds no special symbol for it.

    :param tokenizer: of the package ``tokenizers``.
    :param positions: the most tokens that the model takes; None where the file does not say.
    """

    def __init__(self, tokenizer: Any, positions: int | None = None) -> None:
        self._tokenizer, self.positions = tokenizer, positions

    @property
    def words(self) -> list[str]:
        """The words of the fairseq dictionary that texts may hold, beside fairseq's own symbols."""
        return dictionary_words(list(self._tokenizer.get_vocab()))

    @staticmethod
    def make(
        vocabulary: Sequence[str],
        *,
        lowercase: bool,
        strip_accents: bool | None,
        split_chinese: bool,
        positions: int | None = None,
    ) -> WordPiece:
        """Return the model of a vocabulary; BERT's settings say the rest.

        :raises UserError: if the library is not installed.
        """
        tokenizers = extras.tokenizers()
        pieces = {piece: i for i, piece in enumerate(vocabulary)}
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(pieces, unk_token="[UNK]"))
        tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
            lowercase=lowercase, strip_accents=strip_accents, handle_chinese_chars=split_chinese
        )
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        return WordPiece(tokenizer, positions)

    @staticmethod
    def read(path: Path) -> WordPiece:
        """Read a model that `save` wrote.

        :raises UserError: if the file is missing or holds none, or the library is not installed.
        """
        tokenizers = extras.tokenizers()
        try:
            tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(
                f"the WordPiece model {path} cannot be read ({error.strerror}): give a folder that fairseq-dsp "
                "import-bert wrote"
            ) from error
        except Exception as error:  # the library raises nothing narrower
            raise UserError(
                f"{path} holds no WordPiece model ({error}): give a folder that fairseq-dsp import-bert wrote"
            ) from error
        positions = (tokenizer.truncation or {}).get("max_length")
        tokenizer.no_truncation()  # a pair is cut as a whole
        return WordPiece(tokenizer, positions)

    def save(self, path: Path) -> None:
        """Write the model as one JSON file; the most tokens of an input are its ``truncation``, as is usual there."""
        if self.positions is not None:
            self._tokenizer.enable_truncation(self.positions)
        path.write_text(self._tokenizer.to_str(), encoding="utf-8")
        self._tokenizer.no_truncation()

    def encode(self, lines: Iterable[str]) -> list[str]:
        """Return texts as words of the fairseq dictionary, separated by spaces."""
        found = self._tokenizer.encode_batch(list(lines), add_special_tokens=False)
        return [" ".join(SPECIALS.get(piece, piece) for piece in encoding.tokens) for encoding in found]


def dictionary_words(vocabulary: Sequence[str]) -> list[str]:
    """Return the words of the fairseq dictionary of a vocabulary, in their order after fairseq's four symbols."""
    return [piece for piece in vocabulary if piece not in SPECIALS]


def cut(sentences: Sequence[list[str]], room: int) -> bool:
    """Take pieces from the end of the longest sentence until all have *room* together; return whether any was taken.

    :param sentences: each as its pieces, changed in place.
    """
    was_cut = False
    while sum(map(len, sentences)) > room:
        max(sentences, key=len).pop()
        was_cut = True
    return was_cut
