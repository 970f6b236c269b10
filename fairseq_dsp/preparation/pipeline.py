"""From a corpus to the folder that ``fairseq-train`` reads.

The stages, each a folder of the output folder and each made from the one before::

    raw/         the text as it is, UTF-8, checked: raw/test.* are the references of detokenised BLEU
    tokenised/   Moses-tokenised, lower-cased; only in recipes that ask for either
    references/  what the tokens of the references give back; only in recipes with Moses
    bpe/         the BPE model, learned on the training text, and every text in subwords
    data-bin/    dictionaries and binarised text, for fairseq; with a copy of the BPE model
    prepare.json the settings, the names of the test sets, the sizes, the best scores possible: written last
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..study.prepared import PreparedData
from . import ceiling
from .corpora import Corpus
from .stages import FULL_DISK, Workspace, read_json, say, settings_key, write_json
from .subwords import MODEL_NAMES, NORMALISATION, Subwords, copy_codes, learn
from .text import RULES, detokenise, load_pairs, read_lines, tokenise, write_lines, write_pairs
from .workers import end_with_parent

SUMMARY = "prepare.json"
POSITIONS = 1024  # of fairseq's models, unless told otherwise; one is for the end of the sentence
LINES_A_WORKER = 50_000  # with fewer, another process of fairseq costs more than it saves


@dataclass
class Options:
    """How a corpus is prepared.

    Attributes:
        bpe: ``sentencepiece`` or ``subword-nmt``.
        vocab_size: pieces of sentencepiece, or merges of subword-nmt.
        tokenizer: ``moses`` or ``none``.
        lowercase: lower-case the text.
        joined_dictionary: one dictionary for both languages.
        coverage: share of the characters that sentencepiece has to know.
        workers: processes; the result does not depend on it.
    """

    bpe: str
    vocab_size: int
    tokenizer: str
    lowercase: bool
    joined_dictionary: bool
    coverage: float = 1.0
    workers: int = field(default=1, compare=False)


def settings_of(corpus: Corpus, options: Options) -> dict[str, Any]:
    """All that the result depends on, under the names of the command line."""
    return {
        "corpus": corpus.name,
        "text-rules": RULES,
        "source-lang": corpus.languages[0],
        "target-lang": corpus.languages[1],
        "input": corpus.origin,
        "tokenizer": options.tokenizer,
        "lowercase": options.lowercase,
        "bpe": options.bpe,
        "vocab-size": options.vocab_size,
        "normalisation": NORMALISATION if options.bpe == "sentencepiece" else None,
        "character-coverage": options.coverage if options.bpe == "sentencepiece" else None,
        "joined-dictionary": options.joined_dictionary,
    }


def prepare(corpus: Corpus, options: Options, out: Path, *, force: bool = False) -> None:
    """Run the stages that are not finished yet; prints where the data lie.

    Args:
        corpus: the text.
        options: what to do to it.
        out: the folder that all results go to.
        force: replace a finished preparation with other settings.

    Raises:
        UserError: the input is bad, or ``out`` holds a finished preparation with other settings.
    """
    settings = settings_of(corpus, options)
    keys = _stage_keys(settings, tokenised=bool(corpus.write_tokenised))
    if ":" in str(out):
        raise UserError(
            f"the output folder {out} has a colon in its path, at which fairseq-train splits lists of data folders: "
            "choose another one"
        )
    with Workspace(out) as space:
        if is_done(space, settings, keys, force):
            say(f"{out / 'data-bin'} is ready: nothing to do")
            return
        raw = plain = space.stage("raw", keys["raw"], corpus.write_raw)
        if "tokenised" in keys:
            plain = space.stage("tokenised", keys["tokenised"], lambda folder: _tokenise(corpus, options, raw, folder))
        bpe = space.stage("bpe", keys["bpe"], lambda folder: _encode(corpus, options, plain, folder))
        data_bin = space.stage("data-bin", keys["data-bin"], lambda folder: _binarise(corpus, options, bpe, folder))
        summary = _summary(corpus, options, settings, keys["data-bin"], plain, data_bin)
        if "references" in keys:
            space.stage("references", keys["references"], lambda folder: _references(corpus, plain, folder))
            _choose_references(PreparedData(out, summary))
        summary["longest"] = space.reports["bpe"]["longest"]
        summary["ceiling"] = ceiling.measure(PreparedData(out, summary))
        write_json(out / SUMMARY, summary)
    say(f"{data_bin} is ready for fairseq-train; settings and names of the test sets are in {out / SUMMARY}")
    if any("-" in language for language in corpus.languages):
        say(
            "fairseq-train needs the languages, since it cannot tell them from the file names: "
            f"--source-lang {corpus.languages[0]} --target-lang {corpus.languages[1]}"
        )


def _stage_keys(settings: dict[str, Any], *, tokenised: bool) -> dict[str, str]:
    """The key of each stage of this recipe, in their order: of all settings that its result depends on.

    Args:
        settings: those of `settings_of`.
        tokenised: the corpus comes tokenised, so there is a stage for that whatever the settings.
    """
    of_stage = {
        "raw": ["corpus", "text-rules", "source-lang", "target-lang", "input"],
        "tokenised": ["tokenizer", "lowercase"],
        "bpe": ["bpe", "vocab-size", "character-coverage", "normalisation"],
        "data-bin": ["joined-dictionary"],
    }
    keys, steps = {}, []
    for stage, names in of_stage.items():
        steps.append({name: settings[name] for name in names})
        keys[stage] = settings_key(steps)
    if not tokenised and settings["tokenizer"] == "none" and not settings["lowercase"]:
        del keys["tokenised"]
    if settings["tokenizer"] == "moses":
        keys["references"] = keys["tokenised"]
    return keys


def is_done(space: Workspace, settings: dict[str, Any], keys: dict[str, str], force: bool) -> bool:
    """Whether all is there, the text that scoring reads too; other settings never silently replace a finished one."""
    path = space.out / SUMMARY
    there = read_json(path)
    if path.exists() and (not isinstance(there, dict) or "settings" not in there):
        raise UserError(f"{path} was not written by a preparation: choose another output folder")
    if not there:
        return False
    if there["settings"] != settings:
        if not force:
            raise UserError(
                f"{space.out} was prepared with other settings ({_differences(there['settings'], settings)}), and "
                "models may have been trained on it: choose another output folder, or give --force to replace it"
            )
        path.unlink()  # from here on it is not finished any more
        return False
    return all(space.finished(stage, key) for stage, key in keys.items())


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    found = []
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            before = old.get(key, "not recorded by the version then")
            told = "other input" if key == "input" else f"{key} {before}, now {new.get(key)}"
            found.append(told)
    return "; ".join(found)


def _tokenise(corpus: Corpus, options: Options, raw: Path, folder: Path) -> None:
    if corpus.write_tokenised:
        corpus.write_tokenised(raw, folder)
        return
    for split in corpus.splits():
        for language, lines in zip(corpus.languages, load_pairs(raw, split, corpus.languages), strict=True):
            if options.tokenizer == "moses":
                label = f"tokenising {split}.{language}"
                lines = tokenise(lines, language, lowercase=options.lowercase, workers=options.workers, label=label)
            else:
                lines = [line.lower() for line in lines]
            write_lines(folder / f"{split}.{language}", lines)


def _encode(corpus: Corpus, options: Options, plain: Path, folder: Path) -> dict[str, Any]:
    """Learn BPE and apply it; returns the number of subwords of the ``longest`` sentence, by text and language."""
    model = folder / MODEL_NAMES[options.bpe]
    if corpus.codes:
        copy_codes(corpus.codes, model)
    else:
        train = load_pairs(plain, "train", corpus.languages)
        learn(options.bpe, train, options.vocab_size, options.coverage, model)
    subwords = Subwords(options.bpe, model)
    longest: dict[str, dict[str, int]] = {}
    for split in corpus.splits():
        source, target = (
            subwords.encode(lines, label=f"BPE {split}.{language}")
            for language, lines in zip(corpus.languages, load_pairs(plain, split, corpus.languages), strict=True)
        )
        lengths = [[1 + line.count(" ") for line in side] for side in (source, target)]
        longest[split] = {language: max(side) for language, side in zip(corpus.languages, lengths, strict=True)}
        too_long = sum(max(pair) >= POSITIONS for pair in zip(*lengths, strict=True))
        if too_long:
            fate = "training leaves them out" if split in ("train", "valid") else "translation cuts their source"
            say(
                f"{split}: {too_long} of {len(source)} pairs have more than {POSITIONS - 1} subwords, which is what a "
                f"model of fairseq's usual {POSITIONS} positions takes, so {fate}: train with --max-source-positions "
                "and --max-target-positions for more"
            )
        write_pairs(folder, split, corpus.languages, (source, target))
    return {"longest": longest}


def _binarise(corpus: Corpus, options: Options, bpe: Path, folder: Path) -> None:
    source, target = corpus.languages
    tests = corpus.splits()[2:]
    workers = min(options.workers, 1 + _count_lines(bpe / f"train.{source}") // LINES_A_WORKER)
    run_preprocess(
        *("--source-lang", source, "--target-lang", target),
        # relative to the folder of the text: in a path, fairseq would take a comma for the end of it
        *("--trainpref", "train", "--validpref", "valid", "--testpref", ",".join(tests)),
        *("--destdir", str(folder.absolute()), "--workers", str(workers)),
        *(["--joined-dictionary"] if options.joined_dictionary else []),
        cwd=bpe,
        out=folder,
    )
    model = MODEL_NAMES[options.bpe]
    (folder / model).write_bytes((bpe / model).read_bytes())


def run_preprocess(*arguments: str, cwd: Path, out: Path) -> None:
    """Run fairseq-preprocess in the folder of the text.

    Args:
        arguments: of its command line.
        cwd: the folder of the text.
        out: the folder of the stage, for the message about a full disk.

    Raises:
        UserError: it failed.
    """
    command = [sys.executable, "-P", "-m", "fairseq_cli.preprocess", *arguments]
    say("fairseq-preprocess")
    run = subprocess.run(
        command,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        preexec_fn=end_with_parent,
    )
    if run.returncode:
        last = next((line for line in reversed(run.stdout.splitlines()) if line.strip()), "no message")
        number = re.search(r"\[Errno (\d+)\]", last)
        if number and int(number[1]) in FULL_DISK:
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(out.parent / "data-bin"))
        raise UserError(f"fairseq-preprocess failed with exit status {run.returncode}: {last.strip()}")
    for line in run.stdout.splitlines():
        if " replaced " in line:
            say(line[line.index("[") :])


def _references(corpus: Corpus, tokenised: Path, folder: Path) -> None:
    language = corpus.languages[1]
    for split in corpus.splits()[1:]:
        lines = read_lines(tokenised / f"{split}.{language}")
        write_lines(folder / f"{split}.{language}", detokenise(lines, language))


def _choose_references(data: PreparedData) -> None:
    """Have translations scored against what the recipe's tokens give back, where that is not the raw text."""
    for split in data.splits:
        raw, path = data.references(split), f"references/{split}.{data.languages[1]}"
        made = (data.folder / path).read_text(encoding="utf-8").removesuffix("\n").split("\n")
        if not ceiling.regained(data, split, made, raw):
            data.summary["references"][split] = path
            data.summary["references_are_detokenised"] = True


def _count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(1 for _ in file)


def _summary(
    corpus: Corpus, options: Options, settings: dict[str, Any], key: str, plain: Path, data_bin: Path
) -> dict[str, Any]:
    """What later steps need: paths are relative to the output folder, so that it can be moved."""
    source, target = corpus.languages
    tests = corpus.splits()[2:]
    scored = ["valid", *tests] if (data_bin.parent / f"raw/valid.{target}").is_file() else tests  # IWSLT'14 has none
    packages = {"sentencepiece": "sentencepiece", "subword-nmt": "subword-nmt"}[options.bpe], "sacremoses", "ve-fairseq"
    return {
        "corpus": corpus.name,
        "source_lang": source,
        "target_lang": target,
        "data_bin": "data-bin",
        "bpe": options.bpe,
        "bpe_model": f"bpe/{MODEL_NAMES[options.bpe]}",
        "vocab_size": options.vocab_size,
        "tokenizer": options.tokenizer,
        "lowercase": options.lowercase,
        "joined_dictionary": options.joined_dictionary,
        "test_sets": dict(zip(tests, corpus.test_sets, strict=True)),
        "references": {split: f"raw/{split}.{target}" for split in scored},
        "references_are_detokenised": corpus.detokenised,
        "pairs": {split: _count_lines(plain / f"{split}.{source}") for split in corpus.splits()},
        # Four more than the file lists: fairseq's own symbols.
        "dictionary_sizes": {lang: _count_lines(data_bin / f"dict.{lang}.txt") + 4 for lang in corpus.languages},
        "versions": {package: version(package) for package in packages},
        "settings": settings,
        "key": key,
    }
