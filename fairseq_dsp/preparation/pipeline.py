"""From a corpus to the folder that ``fairseq-train`` reads.

The stages, each a folder of the output folder and each made from the one before::

    raw/         the text as it is, UTF-8, checked: raw/test.* are the references of detokenised BLEU
    tokenised/   Moses-tokenised, lower-cased; only in recipes that ask for either
    bpe/         the BPE model, learned on the training text, and every text in subwords
    data-bin/    dictionaries and binarised text, for fairseq; with a copy of the BPE model
    data-bin1/ … the same, for further parts of the training text; only where it is to be in shards
    references/  what the subwords of the references give back
    prepare.json the settings, the names of the test sets, the sizes, the best scores possible: written last
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..corpus import SUMMARY
from ..deployment.text import joined
from ..evaluation.prepared import PreparedData, read_dictionary, refuse_colon
from ..files import read_json, write_json
from . import ceiling
from .binarise import binarise, read_counts, write_counts
from .cleaning import Cleaning, Texts, say_known
from .corpora import Corpus
from .lines import count_lines, stored_lines, write_lines
from .settings import Options, is_done, settings_of, stage_keys
from .stages import Workspace, say
from .subwords import MODEL_NAMES, Learning, count_merges, encode_pairs, encode_text, encoder, learn
from .tokens import detokenise, tokenise
from .vocabularies import make_dictionaries

POSITIONS = 1024  # of fairseq models by default; one is for the end of the sentence


def prepare(corpus: Corpus, options: Options, out: Path, *, force: bool = False) -> None:
    """Run the stages that are not finished yet; prints where the data lie.

    :param corpus: the text.
    :param options: what to do to it.
    :param out: the folder that all results go to.
    :param force: replace a finished preparation with other settings.
    :raises UserError: if the input is bad, or *out* holds a finished preparation with other settings.
    """
    settings = settings_of(corpus, options)
    keys = stage_keys(settings, tokenised=bool(corpus.write_tokenised))
    refuse_colon(out / "data-bin")
    with Workspace(out) as space:
        if is_done(space, settings, keys, force):
            _name_test_sets(space.out / SUMMARY, corpus)
            return
        work = _Work(corpus, options, space, keys)
        work.make_text()
        shards = work.make_data()
        summary = work.summary(settings, shards)
        space.stage("references", keys["references"], work.make_references)
        _choose_references(PreparedData(out, summary))
        summary["ceiling"] = ceiling.measure(PreparedData(out, summary))
        space.finish(summary)
    say(f"{work.data_bin} is ready for fairseq-train; settings and names of the test sets are in {out / SUMMARY}")
    if len(shards) > 1:
        say(f"fairseq-train reads the {len(shards)} shards as {':'.join(str(out / name) for name in shards)}")
    if any("-" in language for language in corpus.languages):
        say(
            "fairseq-train needs the languages, since it cannot tell them from the file names: "
            f"--source-lang {corpus.languages[0]} --target-lang {corpus.languages[1]}"
        )


def _name_test_sets(path: Path, corpus: Corpus) -> None:
    """Take over other names of the same test sets."""
    there = read_json(path)
    names = corpus.test_names()
    if there["test_sets"] != names:
        write_json(path, {**there, "test_sets": names})
        say(f"the test sets are called {', '.join(corpus.test_sets)} from now on")


@dataclass
class _Work:
    """The stages of one preparation.

    :param keys: of the stages.
    :param raw: the folder of the raw text, and so on.
    """

    corpus: Corpus
    options: Options
    space: Workspace
    keys: dict[str, str]
    raw: Path = Path()
    plain: Path = Path()
    bpe: Path = Path()
    data_bin: Path = Path()

    def make_text(self) -> None:
        """The text as it is, tokenised, and in subwords."""
        self.raw = self.plain = self.space.stage("raw", self.keys["raw"], self._make_raw)
        if "tokenised" in self.keys:
            self.plain = self.space.stage("tokenised", self.keys["tokenised"], self._tokenise)
        self.bpe = self.space.stage("bpe", self.keys["bpe"], self._encode)

    def _make_raw(self, folder: Path) -> dict[str, Any]:
        cleaning = self.options.cleaning
        if self.corpus.splits_late:  # what is to train on is not known yet
            cleaning = Cleaning(normalise=cleaning.normalise)
        texts = Texts(folder, self.corpus.languages, cleaning)
        self.corpus.write_raw(texts)
        return texts.finish(["test"] if self.corpus.write_tokenised else self.corpus.splits())

    def _tokenise(self, folder: Path) -> dict[str, Any] | None:
        if self.corpus.write_tokenised:
            texts = Texts(folder, self.corpus.languages, self.options.cleaning)
            self.corpus.write_tokenised(self.raw, texts)
            return texts.finish(self.corpus.splits())
        for split in self.corpus.splits():
            for language in self.corpus.languages:
                lines = stored_lines(self.raw / f"{split}.{language}")
                if self.options.tokenizer == "moses":
                    lines = tokenise(
                        lines, language, lowercase=self.options.lowercase, workers=self.options.workers,
                        label=f"tokenising {split}.{language}",
                    )  # fmt: skip
                else:
                    lines = (line.lower() for line in lines)
                write_lines(folder / f"{split}.{language}", lines)
        return None

    def _encode(self, folder: Path) -> dict[str, Any]:
        """Learn BPE and apply it; returns the number of subwords of the ``longest`` sentences."""
        corpus, options = self.corpus, self.options
        say_known(self.plain, corpus.splits(), corpus.languages)
        model = folder / MODEL_NAMES[options.bpe]
        ready = options.model or corpus.codes
        if ready:
            shutil.copyfile(ready, model)
        else:
            assert options.vocab_size is not None
            pairs = count_lines(self.plain / f"train.{corpus.languages[0]}")
            learn(
                Learning(
                    options.bpe, options.vocab_size, options.coverage, self.plain, corpus.languages, pairs,
                    options.sample, options.seed, model,
                )
            )  # fmt: skip
        encoder(options.bpe, model)  # loaded before the processes are started, so that they share it
        longest: dict[str, dict[str, int]] = {}
        empty = {}
        for split in corpus.splits():
            scored = split not in ("train", "valid")
            work = partial(
                encode_pairs, kind=options.bpe, model=model, limit=POSITIONS - 1, training=split == "train",
                limited=1 if scored else 2,
            )  # fmt: skip
            found = encode_text(self.plain, folder, split, corpus.languages, work, options.workers)
            longest[split] = dict(zip(corpus.languages, found.longest, strict=True))
            if found.too_long:
                fate = "translation cuts them" if scored else "training leaves them out"
                what = "sources" if scored else "pairs"
                say(
                    f"{split}: {found.too_long} {what} have more than {POSITIONS - 1} subwords, the limit of a model "
                    f"with fairseq's usual {POSITIONS} positions, so {fate}: train with --max-source-positions "
                    f"{'' if scored else 'and --max-target-positions '}for more"
                )
            if split == "train":
                for language, words in zip(corpus.languages, found.words, strict=True):
                    write_counts(words, folder / f"vocab.{language}")
                if found.empty:
                    say(f"train: left out {found.empty} pairs with a side that is empty after the BPE")
                    empty = {"train": {"without subwords": found.empty}}
        return {"longest": longest, "left_out": empty}

    def make_data(self) -> list[str]:
        """The folders for fairseq; returns their names."""
        shards = self._shards()
        names = ["data-bin" + (str(i) if i else "") for i in range(len(shards))]
        for name, shard in zip(names, shards, strict=True):
            key = self.keys["data-bin"] + (name if name != "data-bin" else "")
            folder = self.space.stage(name, key, partial(self._binarise, shard=shard, first=name == "data-bin"))
            if name == "data-bin":
                self.data_bin = folder
        return names

    def _shards(self) -> list[list[tuple[int, int]]]:
        """For each folder the bytes of the training text, of source and target, from and to."""
        size = self.options.shard_size
        sides = []
        for language in self.corpus.languages:
            path = self.bpe / f"train.{language}"
            if size is None:
                sides.append([(0, path.stat().st_size)])
                continue
            ends, place = [0], 0
            with path.open("rb") as file:
                for number, line in enumerate(file, 1):
                    place += len(line)
                    if number % size == 0:
                        ends.append(place)
            if ends[-1] != place:
                ends.append(place)
            sides.append(list(pairwise(ends)))
        return [list(pair) for pair in zip(*sides, strict=True)]

    def _binarise(self, folder: Path, *, shard: list[tuple[int, int]], first: bool) -> None:
        corpus = self.corpus
        dictionaries = [folder / f"dict.{language}.txt" for language in corpus.languages]
        if first:
            counts = [read_counts(self.bpe / f"vocab.{language}") for language in corpus.languages]
            make_dictionaries(counts, dictionaries, self.options.dictionaries, joined=self.options.joined_dictionary)
        else:
            for path in dictionaries:
                path.write_bytes((self.data_bin / path.name).read_bytes())
        pair = "-".join(corpus.languages)
        for language, dictionary, (start, end) in zip(corpus.languages, dictionaries, shard, strict=True):
            for split in corpus.splits() if first else ["train"]:
                part = {"start": start, "end": end} if split == "train" else {}
                out = folder / f"{split}.{pair}.{language}"
                text = self.bpe / f"{split}.{language}"
                binarise(text, dictionary, out, **part, workers=self.options.workers)
        model = MODEL_NAMES[self.options.bpe]
        (folder / model).write_bytes((self.bpe / model).read_bytes())

    def make_references(self, folder: Path) -> None:
        """What the subwords of the references give back, the dictionary left aside."""
        language = self.corpus.languages[1]
        for split in self.corpus.splits()[1:]:
            lines = (joined(self.options.bpe, line) for line in stored_lines(self.bpe / f"{split}.{language}"))
            plain = detokenise(lines, language) if self.options.tokenizer == "moses" else lines
            write_lines(folder / f"{split}.{language}", plain)

    def summary(self, settings: dict[str, Any], shards: list[str]) -> dict[str, Any]:
        """What later steps need: paths are relative to the output folder, so that it can be moved."""
        corpus, options = self.corpus, self.options
        source, target = corpus.languages
        tests = corpus.splits()[2:]
        scored = ["valid", *tests] if (self.raw / f"valid.{target}").is_file() else tests  # IWSLT'14 has none
        of_text = self.space.reports["tokenised" if corpus.write_tokenised else "raw"]
        of_bpe = self.space.reports["bpe"]
        return {
            "corpus": corpus.name,
            "source_lang": source,
            "target_lang": target,
            "data_bin": "data-bin",
            "data_bins": shards,
            "bpe": options.bpe,
            "bpe_model": f"bpe/{MODEL_NAMES[options.bpe]}",
            "vocab_size": self._vocab_size(),
            "tokenizer": options.tokenizer,
            "lowercase": options.lowercase,
            "normalise": options.cleaning.normalise,
            "joined_dictionary": options.joined_dictionary,
            "test_sets": corpus.test_names(),
            "references": {split: f"raw/{split}.{target}" for split in scored},
            "references_are_detokenised": corpus.detokenised,
            "pairs": {
                split: of_text["pairs"][split] - sum(of_bpe.get("left_out", {}).get(split, {}).values())
                for split in corpus.splits()
            },
            "left_out": _together("left_out", self.space.reports["raw"], of_text, of_bpe),
            "rewritten": _together("rewritten", self.space.reports["raw"], of_text),
            "longest": of_bpe["longest"],
            "dictionary_sizes": {
                language: len(read_dictionary(self.data_bin / f"dict.{language}.txt")) for language in corpus.languages
            },
            "versions": {package: version(package) for package in (options.bpe, "sacremoses", "ve-fairseq")},
            "settings": settings,
            "key": self.keys["data-bin"],
        }

    def _vocab_size(self) -> int | None:
        """What was made: subword-nmt makes fewer merges than asked for where the text yields no more."""
        if self.options.vocab_size is None or self.options.bpe == "sentencepiece":
            return self.options.vocab_size
        return count_merges(self.bpe / MODEL_NAMES[self.options.bpe])


def _together(what: str, *reports: dict[str, Any]) -> dict[str, dict[str, int]]:
    """What was ``left_out`` or ``rewritten``, by text and reason."""
    found: dict[str, dict[str, int]] = {}
    for report in reports:
        for split, reasons in report.get(what, {}).items():  # of an earlier version, subwords have none
            found[split] = found.get(split, {}) | reasons
    return found


def _choose_references(data: PreparedData) -> None:
    """Have translations scored against what the recipe's subwords give back, where that is not the raw text."""
    for split in data.splits:
        raw, path = data.references(split), f"references/{split}.{data.languages[1]}"
        made = list(stored_lines(data.folder / path))
        if not ceiling.regained(data, split, made, raw):
            data.summary["references"][split] = path
            data.summary["references_are_detokenised"] = True
