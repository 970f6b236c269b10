"""The embedded corpus: always the same, no sentence twice, and right in both languages."""

from __future__ import annotations

import hashlib
import random
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import preparing
import pytest

from fairseq_dsp.errors import UserError
from fairseq_dsp.preparation.cleaning import Texts
from fairseq_dsp.preparation.corpora import module

DRAW = """
import random, sys
from fairseq_dsp.preparation.corpora import module
Phrasebook = module("phrasebook").Phrasebook
book = Phrasebook(random.Random(1))
for _ in range(3000):
    sys.stdout.buffer.write("\\t".join(book.draw()).encode() + b"\\n")
"""


@pytest.fixture(scope="module")
def drawn() -> list[tuple[str, str]]:
    book = module("phrasebook").Phrasebook(random.Random(1))
    return [book.draw() for _ in range(3000)]


@pytest.mark.parametrize(
    "variables",
    [
        {"PYTHONHASHSEED": "1", "TZ": "America/Los_Angeles", "LANG": "C", "LC_ALL": "C"},
        {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "LANG": "de_DE.UTF-8", "LC_ALL": ""},
    ],
)
def test_same_phrases_on_every_machine(variables: dict[str, str], drawn: list[tuple[str, str]]) -> None:
    command = [sys.executable, "-c", DRAW]
    text = subprocess.run(command, env=preparing.environment(**variables), stdout=subprocess.PIPE, check=True).stdout
    assert text.decode() == "".join(f"{de}\t{en}\n" for de, en in drawn)
    if (version("babel"), version("num2words")) == ("2.18.0", "0.5.14"):
        assert hashlib.sha256(text).hexdigest() == "7798e069771cb8ca0b3d66d2a5db773d94131ffe39f3472af97cdc7eaee07457"


def test_no_sentence_twice(tmp_path: Path) -> None:
    """Neither within a split nor between them, in either language; a larger training text changes nothing else."""
    phrases = module("phrases")
    corpora = [phrases.phrases(("en", "de"), (size, 100, 100), 1) for size in (3000, 4000)]
    for corpus, folder in zip(corpora, (tmp_path / "a", tmp_path / "b"), strict=True):
        folder.mkdir()
        texts = Texts(folder, corpus.languages)
        corpus.write_raw(texts)
        texts.finish(corpus.splits())
    for language in ("de", "en"):
        splits = [preparing.lines(tmp_path / "a" / f"{name}.{language}") for name in ("train", "valid", "test")]
        assert [len(split) for split in splits] == [3000, 100, 100]
        together = [line for split in splits for line in split]
        assert len(set(together)) == len(together)
        assert splits[1:] == [preparing.lines(tmp_path / "b" / f"{name}.{language}") for name in ("valid", "test")]
    assert preparing.lines(tmp_path / "a" / "test.de")[0].startswith("Im Jahr ")


def test_tens_of_thousands_of_distinct_pairs() -> None:
    book = module("phrasebook").Phrasebook(random.Random(1))
    pairs = [book.draw() for _ in range(22000)]
    assert len({de for de, _ in pairs}) > 20000
    assert len({en for _, en in pairs}) > 20000


def test_sentences_are_well_formed(drawn: list[tuple[str, str]]) -> None:
    for pair in drawn:
        for text in pair:
            assert text[0].isupper() or text[0].isdigit(), text
            assert text[-1] in ".?", text
            assert " ".join(text.split()) == text, text
            assert not re.search(r"\s[.,?]|,,|,[.?]|\bNone\b|[{}]", text), text
        assert pair[0][-1] == pair[1][-1]


def test_both_languages_say_the_same(drawn: list[tuple[str, str]]) -> None:
    """The parts that can be checked without a translator: sums, half hours, digits, weekdays and months."""
    phrasebook = module("phrasebook")
    words = phrasebook.words
    number = {words(n)[i]: n for n in range(300) for i in (0, 1)}
    hours = {words(n)[0]: n for n in range(1, 13)}
    seen = dict.fromkeys(("sum", "half", "digits", "weekday", "month"), 0)
    for de, en in drawn:
        if found := re.fullmatch(r"(\w+) (plus|minus) (\w+) ist (\w+)\.", de):
            a, b, c = (number[found[i].lower()] for i in (1, 3, 4))
            assert c == (a + b if found[2] == "plus" else a - b), de
            assert [number[x] for x in re.split(r" plus | minus | is ", en.rstrip(".").lower())] == [a, b, c], en
            seen["sum"] += 1
        if found := re.search(r"halb (\w+)", de):
            hour = re.search(r"half past (\w+)", en)
            assert hour, (de, en)
            assert words((hours[found[1]] - 2) % 12 + 1)[1] == hour[1], (de, en)
            seen["half"] += 1
        if ":" not in de:  # the clock has other hours in English
            digits = [sorted(re.sub("[.,]", "", x) for x in re.findall(r"\d[\d.,]*", text)) for text in (de, en)]
            assert digits[0] == digits[1], (de, en)
            seen["digits"] += bool(digits[0])
        for name, names in (("weekday", phrasebook.WEEKDAYS), ("month", phrasebook.MONTHS)):
            for word_de, word_en in names:
                inside = bool(re.search(rf"\b{word_de}(morgen|nachmittag|abend)?\b", de))
                assert inside == bool(re.search(rf"\b{word_en}\b", en)), (de, en)
                seen[name] += inside
    assert min(seen.values()) > 20, seen


def test_all_kinds_of_content(drawn: list[tuple[str, str]]) -> None:
    phrasebook = module("phrasebook")
    german = "\n".join(de for de, _ in drawn)
    kinds = {
        "date": r"\d\. (Januar|Mai|Oktober) \d{4}",
        "time": r"\d\d:\d\d Uhr",
        "duration": r"drei (Stunden|Wochen)",
        "money": r"\d,\d\d €",
        "spelled money": r"zig Euro",
        "unit": r"\d,\d Kilometer",
        "temperature": "Grad Celsius",
        "number": r"hundert\w+und\w+zig",
        "verb at the end": r", weil .* (muss|hat|haben|wird)\.",
        "question": r"^(Wann|Warum|Wer) ",
    }
    for kind, pattern in kinds.items():
        assert len(re.findall(pattern, german, re.MULTILINE)) >= 5, kind
    assert sum(f" {de}" in german for de, _ in phrasebook.COUNTRIES) > 60
    assert sum(f" {de}" in german for de, _ in phrasebook.LANGUAGES) > 50


def test_more_pairs_than_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phrases = module("phrases")
    monkeypatch.setattr(phrases, "MOST_REPEATS", 3)  # in a row, which happens soon in the language as it is
    corpus = phrases.phrases(("de", "en"), (10**9, 1, 1), 1)
    with pytest.raises(UserError, match=r"1000000000 pairs for train are asked for, but after .* only repeat"):
        corpus.write_raw(Texts(tmp_path, corpus.languages))
