"""Languages by their codes, and lines that are blank."""

from __future__ import annotations

import importlib.util
import unicodedata

import pytest

from fairseq_dsp.languages import base, bleu_tokenizer
from fairseq_dsp.plain import is_blank

JAPANESE = "ja-mecab" if importlib.util.find_spec("ipadic") and importlib.util.find_spec("MeCab") else "char"


@pytest.mark.parametrize(
    ("codes", "language", "tokenizer"),
    [
        ("zh Zh ZH zho chi cmn yue wuu zh-Hant zh_CN zho_Hans cmn-Hans-CN cn", "zh", "zh"),
        ("ja jpn JA ja-JP jpn_Jpan jp", "ja", JAPANESE),
        ("ko kor ko-KR kor_Hang", "ko", "ko-mecab" if importlib.util.find_spec("mecab_ko") else "char"),
        ("th tha", "th", "char"),
        ("my mya bur", "my", "char"),
        ("km khm", "km", "char"),
        ("de deu ger de-AT DE", "de", "13a"),
        ("kok", "kok", "13a"),  # Konkani is not Korean
        ("zha", "za", "13a"),  # Zhuang is not Chinese
        ("jav", "jv", "13a"),
        ("xx", "xx", "13a"),
    ],
)
def test_languages_by_all_their_codes(codes: str, language: str, tokenizer: str) -> None:
    for code in codes.split():
        assert (base(code), bleu_tokenizer(code)) == (language, tokenizer), code


INVISIBLE = (
    "\u200b \ufeff \u200e \u2581 \x02 \x7f \xad \u00a0 \u3000 \u2800 \u3164 \u115f \ufe0f \u2060 \u061c \x85 \U000e0020"
)


def test_blank() -> None:
    assert is_blank("")
    for character in INVISIBLE.split(" "):
        assert is_blank(character), hex(ord(character))
        assert is_blank(f" {character}\t{character} ")
        assert not is_blank(f"{character}a")
    # a combining accent, a lone Arabic number sign, private and unassigned characters may be seen
    assert not any(map(is_blank, ["\u0301", "\u0600", "\ue000", "\u0378", "0", ".", "…", "\u4e00"]))


def test_every_letter_mark_number_and_sign_is_seen_but_fillers() -> None:
    kinds = ("L", "M", "N", "P", "S")
    blank = [c for c in map(chr, range(0x110000)) if unicodedata.category(c)[0] in kinds and is_blank(c)]
    known = {*"\u034f\u115f\u1160\u17b4\u17b5\u2581\u2800\u3164\uffa0"}
    variants = {*map(chr, [*range(0x180B, 0x1810), *range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0)])}
    assert set(blank) <= known | variants
