"""What a run was made from: written beside its results, and compared when a sweep goes on in the same folder.

A record holds the part of the study that the run depends on, the options of its trainings as fairseq resolved them,
defaults included, the version of this package, and checksums of what was read of other runs. Going on with a changed
study or another version

- keeps what is finished where the change has no effect on it: options for logging or loading data; how often is
  validated, where the last checkpoint counts; another checkpoint, text or beam while nothing is scored yet;
- refuses to mix results: what is finished or half trained stays, and the message says what differs and what to do.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ..errors import UserError
from ..files import find_object, read_json, settings_key, write_json
from ..version import __version__
from .runs import RESULT, SCORING, TEXT, Run

RECORD = "run.json"
UNKNOWN = "unknown"
"""The version of a record that does not say it."""

OTHER_RUNS = "start", "teacher", "heads_of", "larger"
"""Where the identity of a run has those of others: its record has them as what it needs."""

FILES = "files"
"""Where a record has, for each file of another run that went into the run, RUN/FILE, a checksum of its content."""
AND = " and "
"""Between two checksums, if the file was another one when it was read again."""

_OWN = {"version", "needs", "resolved", FILES}
"""What a record has beside a run's identity."""

NO_EFFECT = {
    # what is shown, and where
    "no_progress_bar", "log_interval", "log_format", "log_file", "aim_repo", "aim_run_hash", "tensorboard_logdir",
    "wandb_project", "azureml_logging", "profile", "reset_logging", "suppress_crashes", "debug_param_names",
    "eval_bleu_print_samples", "no_seed_provided",
    # how data and memory are handled
    "num_workers", "data_buffer_size", "use_plasma_view", "plasma_path", "empty_cache_freq", "all_gather_list_size",
    "max_tokens_valid", "batch_size_valid",
    # which other checkpoints are kept
    "keep_interval_updates", "keep_interval_updates_pattern", "keep_last_epochs", "keep_best_checkpoints", "no_save",
    "no_epoch_checkpoints", "no_last_checkpoints", "no_save_optimizer_state", "write_checkpoints_asynchronously",
    # where files are; which models are started from is recorded by the runs that made them
    "data", "user_dir", "save_dir", "restore_file", "finetune_from_model", "kept_heads",
}  # fmt: skip
"""Options of fairseq-train without effect on the checkpoint that a training leaves."""

_VALIDATION = {
    "disable_validation", "valid_subset", "combine_valid_subsets", "ignore_unused_valid_subsets", "validate_interval",
    "validate_interval_updates", "validate_after_updates", "fixed_validation_seed", "max_valid_steps", "save_interval",
    "save_interval_updates", "best_checkpoint_metric", "maximize_best_checkpoint_metric", "eval_bleu",
    "eval_bleu_args", "eval_bleu_detok", "eval_bleu_detok_args", "eval_tokenized_bleu", "eval_bleu_remove_bpe",
}  # fmt: skip
"""Further ones without effect on the last checkpoint, unless the training itself goes by the validation."""


@dataclass(frozen=True)
class Change:
    """How a run differs from its record.

    :param training: what has an effect on what it trains, in words.
    :param scoring: what has an effect on its scores alone.
    :param study: whether the study itself says something else, not only the defaults.
    """

    training: tuple[str, ...]
    scoring: tuple[str, ...]
    study: bool


def with_records(runs: Sequence[Run], options: Mapping[str, Mapping[str, dict[str, Any]]]) -> list[Run]:
    """Return the runs with :attr:`Run.record`.

    :param runs: those first that others need.
    :param options: of each run by its name, of each of its trainings by the step's name, all options.
    """
    made: dict[str, str] = {}
    found = []
    for run in runs:
        record = {"version": __version__} | {k: v for k, v in run.identity.items() if k not in OTHER_RUNS}
        record |= {"needs": {name: made[name] for name in run.needs}, "resolved": dict(options[run.name])}
        record = json.loads(json.dumps(record))
        made[run.name] = _digest(record)
        found.append(replace(run, record=record))
    return found


def check_records(runs: Sequence[Run], *, finished: bool) -> list[str]:
    """Hold all runs against the records in their folders.

    :param finished: whether all runs are finished, so that nothing is added to what other defaults made.
    :return: what to tell the user, sentences.
    :raises UserError: if a folder holds something else, or results that new ones could not be compared with.
    """
    said = []
    for run in runs:
        try:
            _changed(run)
        except _OtherDefaultsError as error:
            if not finished:
                raise UserError(str(error)) from error
            said.append(str(error))
    versions = Counter(_version(run) for run in runs if (run.folder / RESULT).is_file())
    said += [
        f"{number} of the finished runs {'was' if number == 1 else 'were'} made by version {version}, and this is "
        f"{__version__}: their results stay, and the tables tell the versions"
        for version, number in versions.items()
        if version != __version__
    ]
    return said


def stale_steps(run: Run) -> set[str]:
    """The steps of a run, by name, whose products a change of the study made useless.

    :raises UserError: as `check_records`.
    """
    _, change = _changed(run)
    return {step.name for step in run.steps if change and (change.training or step.name in ("compact", "evaluate"))}


def begin(run: Run) -> None:
    """Write a run's record before something of it is made, and remove what is stale.

    :raises UserError: as `check_records`.
    """
    stale = stale_steps(run)
    for step in run.steps:
        if step.name in stale:
            for path in (step.marker(run.folder), *(() if step.checkpoints else step.products)):
                path.unlink(missing_ok=True)
    if (run.folder / RESULT).is_file():
        return  # some of its files are made again
    there, record = _read(run), run.record or run.identity
    if there and (_trained(run) or any(step.marker(run.folder).exists() for step in run.steps)):
        versions = [*str(there.get("version", UNKNOWN)).split(", "), __version__]
        record = record | {"version": ", ".join(dict.fromkeys(versions)), FILES: there.get(FILES, {})}
    write_json(run.folder / RECORD, record)


def version_of(run: Run) -> str:
    """The versions that made a run, as its record has them."""
    return str((_read(run) or {}).get("version", UNKNOWN))


class _OtherDefaultsError(UserError):
    """A run was made under other defaults; the study says the same."""


def _version(run: Run) -> str:
    # reading the results tells what is wrong with one
    return str((read_json(run.folder / RESULT) or {}).get("version", UNKNOWN))


def _changed(run: Run) -> tuple[dict[str, Any] | None, Change | None]:
    """A run's record and how it differs, unless that does not matter.

    :raises UserError: if the two must not be mixed.
    """
    there = _read(run)
    if there is None and run.record and ((run.folder / RESULT).is_file() or _trained(run)):
        raise UserError(
            f"{run.folder} has no {RECORD}, which says what made the results in it: give another folder for the "
            "results, or remove that one"
        )
    change = there and _change(there, run)
    if not there or not change:
        return there, None
    finished = (run.folder / RESULT).is_file()
    what = "; ".join(change.training + change.scoring)
    if change.training and (finished or _trained(run)):
        if not change.study:
            raise _OtherDefaultsError(
                f"{run.folder} was made with other defaults than today's ({what}), by version "
                f"{there.get('version', UNKNOWN)}, and this is {__version__}: to keep those, write them into the "
                "study; or remove that folder to make the run anew; or give another folder for the results"
            )
        raise UserError(
            f"{run.folder} holds results of another study, or of this one before it was changed ({what}): give another "
            "folder for the results, or remove that one"
        )
    if change.scoring and finished and run.scored:
        raise UserError(
            f"{run.folder} holds scores of this study before it was changed ({what}): give another folder for "
            f"the results, or remove {RESULT} there to have it scored anew, without training"
        )
    return there, change


def _trained(run: Run) -> bool:
    """Whether there are checkpoints."""
    return any(step.checkpoints and any(step.checkpoints.glob("*.pt")) for step in run.steps)


def _read(run: Run) -> dict[str, Any] | None:
    path = run.folder / RECORD
    there = find_object(path, "give another folder for the results")
    if there is None:
        return None
    if there.get("name") != run.name:
        raise UserError(f"{path} was not written by a sweep: give another folder for the results")
    return there


def _change(there: dict[str, Any], run: Run) -> Change | None:
    ours = json.loads(json.dumps(run.identity))
    training: list[str] = []
    scoring: list[str] = []
    if "resolved" in there and run.record:
        needed, needs = there.get("needs", {}), run.record["needs"]
        newly = {(ours.get("larger") or {}).get("name")} - needed.keys() - {None}
        # recoveries of a range once started from its own model; if that of more heads is not there, the study has more
        old = {name for name in newly if (run.folder.parent / str(name) / RESULT).is_file()}
        study = needed.keys() != needs.keys() - old
        training = _differing_steps(there, run.record) + _other_heads(there, ours)
        for name in _differing(needed, needs):
            if name in needed and name in needs:
                training.append(f"other {name}")
            elif name in newly:
                training.append(f"the recovery starts from that of {name} now")
            else:
                training.append(f"{name} needed, now not" if name in needed else f"{name} not needed, now needed")
        known = {"options", "recovery", *OTHER_RUNS}
        if "score-heads" in there["resolved"]:
            known |= {"score_heads", "compensate"}  # steps of their own
    else:  # of a version that recorded the study alone
        study = any((there.get(key) is None) != (ours.get(key) is None) for key in OTHER_RUNS)
        for key in ("options", "recovery"):
            one, other = _underscored(there.get(key)), _underscored(ours[key])
            training += _differing_options(one, other, str(ours["checkpoint"]), {*one, *other})
        training += [f"other {key}" for key in OTHER_RUNS if _needed(there.get(key)) != _needed(ours.get(key))]
        known = {"options", "recovery", *OTHER_RUNS}
    early = {TEXT: ours.get(TEXT)} if ours.get(TEXT) is not None else {}  # what early versions did not record
    differing = _differing(early | {key: value for key, value in there.items() if key not in _OWN}, ours)
    for key in differing:
        if key not in known:
            own = key in SCORING and not (key == "checkpoint" and ours["recovery"])
            one, other = (part.get(key, "as usual") for part in (there, ours))
            (scoring if own else training).append(f"{key} {one}, now {other}")
    if not training and not (scoring and run.scored):
        return None
    study |= any(key not in OTHER_RUNS for key in differing)
    return Change(tuple(training), tuple(scoring) if run.scored else (), study)


def _other_heads(there: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    """Say which other heads the study itself gives to a training: by a file, or, drawn by the seed, as they are."""
    one, other = (_underscored(part.get("options")).get("kept_heads") for part in (there, ours))
    return [f"kept-heads {one}, now {other}"] if one and other and one != other else []


def _differing_steps(there: dict[str, Any], ours: dict[str, Any]) -> list[str]:
    given = {name for part in (there, ours) for key in ("options", "recovery") for name in _underscored(part.get(key))}
    found = []
    for step in dict.fromkeys([*there["resolved"], *ours["resolved"]]):
        one, other = there["resolved"].get(step), ours["resolved"].get(step)
        if one is None or other is None:
            found.append(f"{step} {'left out' if other is None else 'added'}")
        else:
            found += _differing_options(one, other, ours["checkpoint"], given)
    return list(dict.fromkeys(found))


def _differing_options(one: dict[str, Any], other: dict[str, Any], checkpoint: str, given: Iterable[str]) -> list[str]:
    """What differs between the options of a training; an option that only one version knows does if it was given."""
    one, other = _effective(one, checkpoint), _effective(other, checkpoint)
    return [
        f"{name.replace('_', '-')} {one.get(name, 'not given')}, now {other.get(name, 'not given')}"
        for name in _differing(one, other)
        if (name in one and name in other) or name in given
    ]


def _effective(options: Mapping[str, Any], checkpoint: str) -> dict[str, Any]:
    """Those of a training's options that have an effect on the checkpoint it leaves, ``best`` or ``last``."""
    by_validation = options.get("patience", -1) > 0 or options.get("lr_scheduler") == "reduce_lr_on_plateau"
    left_out = NO_EFFECT if checkpoint == "best" or by_validation else NO_EFFECT | _VALIDATION
    if options.get("best_checkpoint_metric", "loss") != "bleu":
        left_out = left_out | {name for name in _VALIDATION if name.startswith("eval_")}
    return {name: value for name, value in options.items() if name not in left_out}


def _digest(record: dict[str, Any]) -> str:
    """What a run's trainings depend on, in short, for the records of those that need it."""
    parts = {key: record[key] for key in ("data", "seed", "checkpoint", "needs")}
    parts["score_heads"] = _without_memory(record["score_heads"])
    parts["resolved"] = [_effective(one, record["checkpoint"]) for one in record["resolved"].values()]
    return settings_key(parts)


def _without_memory(words: Sequence[str] | None) -> list[str] | None:
    """The options of a scoring without those that say how it fits into memory."""
    if words is None:
        return None
    left_out = {i for i, word in enumerate(words) if word == "--cpu" or "--max-tokens" in (word, *words[i - 1 : i])}
    return [word for i, word in enumerate(words) if i not in left_out]


def _needed(identity: dict[str, Any] | None) -> dict[str, Any] | None:
    """The part of the identity of a run that those that need it depend on."""
    if identity is None:
        return None
    own = {key: value for key, value in identity.items() if key not in SCORING or key == "checkpoint"}
    for key in ("options", "recovery"):
        own[key] = _effective(_underscored(own.get(key)), str(own.get("checkpoint")))
    return own | {key: _needed(own.get(key)) for key in OTHER_RUNS}


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def _underscored(options: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name.replace("-", "_"): value for name, value in (options or {}).items()}
