"""What a preparation depends on: its options, and the keys of its stages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..corpus import SUMMARY
from ..errors import UserError
from ..files import read_json, settings_key
from .cleaning import Cleaning
from .corpora import Corpus
from .download import text_hash
from .lines import RULES
from .stages import Workspace, say
from .subwords import NORMALISATION


@dataclass(frozen=True)
class Options:
    """How a corpus is prepared.

    :param bpe: ``sentencepiece`` or ``subword-nmt``.
    :param vocab_size: pieces of sentencepiece, or merges of subword-nmt; None with a ready model.
    :param tokenizer: ``moses`` or ``none``.
    :param lowercase: lower-case the text.
    :param joined_dictionary: one dictionary for both languages.
    :param coverage: share of the characters that sentencepiece has to know.
    :param sample: pairs of the training text to learn BPE on, at most.
    :param seed: of their choice.
    :param model: a ready BPE model.
    :param dictionaries: ready dictionaries for source and target.
    :param cleaning: what is left out of the training text.
    :param shard_size: pairs of the training text in a folder; None for all.
    :param workers: processes; the result does not depend on it.
    """

    bpe: str
    vocab_size: int | None
    tokenizer: str
    lowercase: bool
    joined_dictionary: bool
    coverage: float
    sample: int
    seed: int
    model: Path | None
    dictionaries: tuple[Path | None, Path | None]
    cleaning: Cleaning
    shard_size: int | None
    workers: int


def settings_of(corpus: Corpus, options: Options) -> dict[str, Any]:
    """All that the result depends on, under the names of the command line; what is not asked for is not there."""
    learned = options.bpe == "sentencepiece" and options.model is None
    settings: dict[str, Any] = {
        "corpus": corpus.name,
        "text-rules": RULES,
        "source-lang": corpus.languages[0],
        "target-lang": corpus.languages[1],
        "input": corpus.origin,
        "tokenizer": options.tokenizer,
        "lowercase": options.lowercase,
        "bpe": options.bpe,
        "vocab-size": options.vocab_size,
        "normalisation": NORMALISATION if learned else None,
        "character-coverage": options.coverage if learned else None,
        "joined-dictionary": options.joined_dictionary,
    }
    settings |= (cleaning := options.cleaning.settings())
    if corpus.splits_late and cleaning.keys() - {"normalise"}:
        settings["cleaned"] = "after the split"  # of earlier versions before it
    if options.model:
        settings["bpe-model"] = text_hash(options.model)
    elif not corpus.codes:
        settings["bpe-sample"] = [options.sample, options.seed]
    for name, path in zip(("source-dictionary", "target-dictionary"), options.dictionaries, strict=True):
        if path:
            settings[name] = text_hash(path)
    if options.shard_size:
        settings["shard-size"] = options.shard_size
    return settings


def stage_keys(settings: dict[str, Any], *, tokenised: bool) -> dict[str, str]:
    """The key of each stage of this recipe, in their order: of all settings that its result depends on.

    :param settings: those of `settings_of`.
    :param tokenised: the corpus comes tokenised, so there is a stage for that whatever the settings.
    """
    of_stage = {
        "raw": ["corpus", "text-rules", "source-lang", "target-lang", "input", "cleaned", *Cleaning.names()],
        "tokenised": ["tokenizer", "lowercase"],
        "bpe": ["bpe", "vocab-size", "character-coverage", "normalisation", "bpe-sample", "bpe-model"],
        "data-bin": ["joined-dictionary", "source-dictionary", "target-dictionary", "shard-size"],
    }
    keys, steps = {}, []
    for stage, names in of_stage.items():
        steps.append({name: settings[name] for name in names if name in settings})
        keys[stage] = settings_key(steps)
    keys["references"] = keys["bpe"]
    if not tokenised and settings["tokenizer"] == "none" and not settings["lowercase"]:
        del keys["tokenised"]
    return keys


def is_done(space: Workspace, settings: dict[str, Any], keys: dict[str, str], force: bool) -> bool:
    """Whether all is there, the text that scoring reads too, and say so; other settings never silently replace it."""
    space.check(keys)
    path = space.out / SUMMARY
    there = read_json(path)
    if path.exists() and not (isinstance(there, dict) and isinstance(there.get("settings"), dict)):
        raise UserError(f"{path} was not written by fairseq-dsp prepare: choose another output folder")
    if not there:
        return False
    if there["settings"] != settings:
        if not force:
            raise UserError(
                f"{space.out} was prepared with other settings ({_differences(there['settings'], settings)}), and "
                "models may have been trained on it: choose another output folder, or give --force to replace it"
            )
        return False
    names = there.get("data_bins", ["data-bin"])
    stages = keys | {name: keys[names[0]] + name for name in names[1:]}
    done = all(space.finished(stage, key) for stage, key in stages.items())
    if done:
        say(f"{space.out / names[0]} is ready: nothing to do")
    return done


def _differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    found = []
    for key in sorted({*old, *new}):
        if old.get(key) != new.get(key):
            difference = (
                "other input" if key == "input" else f"{key} {old.get(key, 'not set')}, now {new.get(key, 'not set')}"
            )
            found.append(difference)
    return "; ".join(found)
