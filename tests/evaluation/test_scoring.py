"""Scores, against sacrebleu called by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import sacrebleu
from sacremoses import MosesTokenizer

from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation.prepared import PreparedData
from fairseq_dsp.evaluation.scoring import detokenised, score

REFERENCES = ["That's a red car, isn't it?", "Two dogs run on the beach.", "She said: \"It's 5 o'clock\"."]


def corpus(folder: Path, *, tokenizer: str, lowercase: bool) -> PreparedData:
    """A corpus of three sentences, tokenised as asked for."""
    moses = MosesTokenizer("en")
    tokenised = [str(moses.tokenize(line, return_str=True)) for line in REFERENCES]
    for name, lines in (("raw", REFERENCES), ("tokenised", [t.lower() if lowercase else t for t in tokenised])):
        (folder / name).mkdir()
        (folder / name / "test.en").write_text("\n".join(lines) + "\n", encoding="utf-8")
    summary = {"target_lang": "en", "source_lang": "de", "tokenizer": tokenizer, "lowercase": lowercase}
    return PreparedData(folder, {**summary, "references": {"test": "raw/test.en"}})


def test_raw_text(tmp_path: Path) -> None:
    data = corpus(tmp_path, tokenizer="none", lowercase=False)
    hypotheses = [REFERENCES[0], "Two dogs run at the beach.", REFERENCES[2]]
    scores = score(data, "test", hypotheses)
    assert scores["bleu"]["score"] == pytest.approx(sacrebleu.corpus_bleu(hypotheses, [REFERENCES]).score, abs=1e-4)
    assert scores["chrf"]["score"] == pytest.approx(sacrebleu.corpus_chrf(hypotheses, [REFERENCES]).score, abs=1e-4)
    assert "case:mixed" in scores["bleu"]["signature"]
    assert "tok:none" in scores["tokenised_bleu"]["signature"]
    assert scores["tokenised_bleu"]["score"] < 100


def test_a_split_without_references_is_none(tmp_path: Path) -> None:
    data = corpus(tmp_path, tokenizer="none", lowercase=False)
    assert data.splits == ["test"]
    with pytest.raises(UserError, match="valid"):
        data.check_split("valid")
    (tmp_path / "raw/valid.en").write_text("A line.\n")
    assert data.splits == ["valid", "test"]


def test_tokenised_lower_cased_text(tmp_path: Path) -> None:
    data = corpus(tmp_path, tokenizer="moses", lowercase=True)
    perfect = data.tokenised_references("test") or []
    assert "&apos;s" in perfect[0]
    assert detokenised(data, perfect) == [line.lower() for line in REFERENCES]
    scores = score(data, "test", perfect)
    assert {name: one["score"] for name, one in scores.items()} == {"tokenised_bleu": 100, "bleu": 100, "chrf": 100}
    assert "case:lc" in scores["bleu"]["signature"]


def test_chinese_is_not_scored_by_moses_tokens(tmp_path: Path) -> None:
    """Moses takes most of a sentence for one word, whether the recipe uses it or scoring does."""
    lines = ["你好，世界！", "今天天气很好。", "他们在海滩上跑步。"]
    for tokenizer in ("none", "moses"):
        folder = tmp_path / tokenizer
        (folder / "raw").mkdir(parents=True)
        (folder / "raw/test.cmn").write_text("\n".join(lines) + "\n", encoding="utf-8")
        summary = {"target_lang": "cmn", "source_lang": "de", "tokenizer": tokenizer, "lowercase": False}
        data = PreparedData(folder, {**summary, "references": {"test": "raw/test.cmn"}})
        hypotheses = [lines[0], "今天天气不好。", lines[2]]
        scores = score(data, "test", hypotheses)
        expected = sacrebleu.corpus_bleu(hypotheses, [lines], tokenize="zh").score
        assert 60 < expected < 100
        assert scores["tokenised_bleu"]["score"] == scores["bleu"]["score"] == pytest.approx(expected, abs=1e-4)
        assert "tok:zh" in scores["tokenised_bleu"]["signature"]
