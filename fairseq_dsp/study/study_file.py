"""The study file: which models are to be compared, on what, how often."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import UserError, closest
from ..evaluation.beam_search import MAX_LEN_A, MAX_LEN_B
from ..evaluation.prepared import PreparedData
from ..evaluation.preprocessed import for_model, read_data
from .method_checks import (
    check_given_base,
    check_lengths,
    check_names,
    check_range,
    check_starts,
    check_structure,
    check_twice,
    check_units,
    read_shares,
    shares_of,
)
from .options import SHARES, Options, heads_by_type, read_options
from .start_model import read_pretrained, trained_base
from .titles import METHODS, read_title, with_titles
from .values import NAME, boolean, check_keys, is_name, mapping, numbers
from .yaml_file import read_yaml

FROM_BASE = {"pipelined", "voita", "michel"}
"""Methods that always start from the trained, unpruned model; ``random`` does unless it says ``start: scratch``,
``joint`` and ``ste`` with ``start: base``."""

_STUDY_KEYS = {
    "name", "description", "extends", "data", "recipe", "base", "heads", "seeds", "methods", "evaluate", "checkpoint",
    "compact", "compare", "local", "slurm", "pretrained", *SHARES,
}  # fmt: skip
_METHOD_KEYS = {
    "method", "name", "title", "heads", "seeds", "options", "recovery", "penalties", "low", "high", "start", "distill",
    "of", "compensate", *SHARES,
}  # fmt: skip
_KEYS_OF = {"penalties": "voita", "low": "range", "high": "range", "of": "structure", "compensate": "michel"}
_MICHEL_OPTIONS = {"split", "sentences", "steps", "min-heads-per-module", "max-tokens", "cpu"}
"""What ``options`` may hold for ``michel``: options of ``fairseq-dsp score-heads``."""


@dataclass(frozen=True)
class Method:
    """One curve of the comparison.

    :param method: one of :data:`~.titles.METHODS`.
    :param name: what file names and the key ``compare`` call it.
    :param heads: the numbers of heads K; empty for ``voita`` with penalties, which decide, and for shares.
    :param shares: the shares of the cost that heads and units have together, with the option that says of what.
    :param seeds: a training for each.
    :param options: further options of fairseq-train, on top of the recipe; for ``michel``, of score-heads.
    :param recovery: options of a further training with the chosen heads held fixed, or None for no such training.
    :param penalties: the λ of ``voita``, unless it has heads.
    :param low: the fewest heads of ``range``.
    :param high: the most heads of ``range``.
    :param from_base: whether its training starts from the trained, unpruned model of the same seed.
    :param distill: whether its trainings, recovery included, learn from that model's translations too.
    :param compensate: whether the output projections are fitted to the chosen heads; see `importance.compensation`.
    :param of: the method whose heads ``structure`` has.
    :param title: what tables and pictures call it; its name if empty.
    """

    method: str
    name: str
    heads: tuple[int, ...]
    seeds: tuple[int, ...]
    options: Options
    shares: tuple[tuple[str, float], ...] = ()
    recovery: Options | None = None
    penalties: tuple[float, ...] = ()
    low: int = 0
    high: int = 0
    from_base: bool = False
    distill: bool = False
    compensate: bool = False
    of: str | None = None
    title: str = ""

    @property
    def goes_on(self) -> bool:
        """Whether it trains the unpruned model on as `fairseq-dsp prune` does, where its options say nothing."""
        return self.from_base and self.method not in FROM_BASE


@dataclass(frozen=True)
class Study:
    """A checked study file.

    :param data: the prepared corpus.
    :param recipe: options of fairseq-train for every training.
    :param base: further options for the unpruned model.
    :param shape: of the unpruned model: for each attention type, the number of heads of each layer.
    :param checkpoint: ``best`` or ``last``: which checkpoint of a training is evaluated.
    :param compact: whether pruned models are evaluated as compact ones.
    :param split: the text that is translated.
    :param compare: the name of a method that the report compares the others with, if any.
    :param trained: the checkpoint of a model that is the unpruned one, instead of a training.
    :param pretrained: the checkpoint that trainings start from, unless they start from the unpruned model.
    """

    name: str
    description: str
    data: PreparedData
    recipe: Options
    base: Options
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    shape: dict[str, list[int]]
    checkpoint: str = "best"
    compact: bool = True
    split: str = "test"
    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = MAX_LEN_A
    max_len_b: int = MAX_LEN_B
    compare: str | None = None
    trained: Path | None = None
    pretrained: Path | None = None
    local: dict[str, Any] = field(default_factory=dict)
    slurm: dict[str, Any] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """N, the number of heads of the unpruned model."""
        return sum(map(sum, self.shape.values()))

    @property
    def on_cpu(self) -> bool:
        """Whether its trainings use no GPU: then what scores heads, translates and measures uses none either."""
        trainings = [method.recovery or method.options for method in self.methods]
        trainings += [] if self.trained else [self.base]
        return all((self.recipe | options).get("cpu") for options in trainings)


def read_study(path: str | Path, *, data: str | None = None, text: Mapping[str, Any] | None = None) -> Study:
    """Read and check a study file.

    :param data: another folder with the prepared corpus than the file names.
    :param text: what is given of the text of a folder that fairseq-preprocess made; see `read_data`.
    :raises UserError: if the file cannot be read, or anything in it does not make sense.
    """
    content = read_yaml(Path(path))
    try:
        return _study(content, data, text)
    except ValueError as error:
        raise UserError(f"the study {path}: {error}") from error


def _study(content: Mapping[str, Any], data: str | None, text: Mapping[str, Any] | None) -> Study:
    check_keys(content, _STUDY_KEYS, "the study", required=("name", "data", "recipe", "methods"))
    name = content["name"]
    if not is_name(name):
        raise ValueError(f"name is {name!r}, but {NAME}")
    pretrained, sizes = read_pretrained(content.get("pretrained"))
    recipe = sizes | read_options(content["recipe"], "recipe")
    base = read_options(_part(content, "base"), "base")
    model = trained_base(base)
    if model:
        recipe, base = model.sizes | recipe, {"max-update": model.updates}
    evaluate = _evaluate(content)
    split = evaluate.get("split", "test")
    prepared = for_model(read_data(data or content["data"], split, text), model.state if model else {}, split)
    prepared.check_trainable()
    shape = heads_by_type(prepared, {**recipe, **base})
    total = sum(map(sum, shape.values()))
    prepared.check_split(split)
    checkpoint = content.get("checkpoint", "best")
    if checkpoint not in ("best", "last"):
        raise ValueError(f"checkpoint is {checkpoint!r}, but best or last is expected")
    seeds = numbers(content.get("seeds", [1]), "seeds", int, 1, 2**31 - 1, least=1)
    heads = numbers(content.get("heads") or [], "heads", int, 0, total)
    shares = read_shares(content, "the study")
    methods = tuple(_method(entry, heads, shares, seeds, total) for entry in _entries(content))
    methods = tuple(
        replace(m, heads=(sum(map(sum, heads_by_type(prepared, {**recipe, **m.options}).values())),))
        if m.method == "unpruned"
        else m
        for m in methods
    )
    if model:
        check_given_base(model, prepared, recipe, methods)
    check_starts(prepared, recipe, base, methods, sizes if pretrained else None)
    check_names(methods)
    methods = with_titles(methods, recipe)
    check_twice(methods)
    compact = boolean(content.get("compact", True), "compact")
    for method in methods:
        if method.method == "michel":
            check_keys(method.options, _MICHEL_OPTIONS, f"options of {method.name}")
        if method.method == "range":
            check_range(method)
        if method.method == "structure":
            check_structure(method, methods, compact=compact)
    check_units(recipe, base, methods)
    if any(method.distill for method in methods):
        prepared.check_distillable()
    compare = content.get("compare")
    if compare is not None and compare not in (names := [method.name for method in methods]):
        raise ValueError(f"compare is {compare!r}, but the name of a method is expected: one of {', '.join(names)}")
    study = Study(
        name=name,
        description=str(content.get("description", "")).strip(),
        data=prepared,
        recipe=recipe,
        base=base,
        seeds=seeds,
        methods=methods,
        shape=shape,
        checkpoint=checkpoint,
        compact=compact,
        split=split,
        beam=numbers([evaluate.get("beam", 5)], "beam", int, 1, 1000)[0],
        lenpen=numbers([evaluate.get("lenpen", 1.0)], "lenpen", float, -100, 100)[0],
        max_len_a=numbers([evaluate.get("max-len-a", MAX_LEN_A)], "max-len-a", float, 0, 1000)[0],
        max_len_b=numbers([evaluate.get("max-len-b", MAX_LEN_B)], "max-len-b", int, 1, 10**6)[0],
        compare=compare,
        trained=model.path if model else None,
        pretrained=pretrained,
        local=dict(_part(content, "local")),
        slurm=dict(_part(content, "slurm")),
    )
    check_lengths(study)
    return study


def _entries(content: Mapping[str, Any]) -> list[Any]:
    entries = content["methods"]
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"methods is {entries!r}, but a list of methods is expected, such as [joint, pipelined]")
    return entries


def _part(content: Mapping[str, Any], key: str, where: str | None = None) -> Mapping[str, Any]:
    """Return a part of a study file or of a method, empty where there is none or nothing in it.

    :param where: what the message calls it, if not by its key.
    """
    value = content.get(key)
    return mapping({} if value is None else value, where or key)


def _evaluate(content: Mapping[str, Any]) -> dict[str, Any]:
    given = _part(content, "evaluate")
    evaluate = {str(key).replace("_", "-"): value for key, value in given.items()}
    if len(evaluate) != len(given):
        raise ValueError("evaluate has a key twice, with - and with _: leave one out")
    check_keys(evaluate, {"split", "beam", "lenpen", "max-len-a", "max-len-b"}, "evaluate")
    if not isinstance(split := evaluate.get("split", "test"), str):
        raise ValueError(f"split of evaluate is {split!r}, but a name is expected, such as test")
    return evaluate


def _method(
    entry: Any, heads: tuple[int, ...], shares: tuple[tuple[str, float], ...], seeds: tuple[int, ...], total: int
) -> Method:
    content = {"method": entry} if isinstance(entry, str) else mapping(entry, "a method")
    check_keys(content, _METHOD_KEYS, "a method", required=("method",))
    kind = content["method"]
    if not isinstance(kind, str) or kind not in METHODS:
        advice = closest(kind, METHODS) if isinstance(kind, str) else ""
        raise ValueError(f"there is no method {kind!r}{advice}: give one of {', '.join(METHODS)}")
    name = content.get("name", kind)
    if not is_name(name):
        raise ValueError(f"the name of a method is {name!r}, but {NAME}")
    own = [key for key, whose in _KEYS_OF.items() if key in content and kind != whose]
    if own:
        raise ValueError(f"{name} has the key {own[0]}, which is for {_KEYS_OF[own[0]]}: leave it out")
    heads = numbers(content["heads"], f"heads of {name}", int, 0, total) if "heads" in content else heads
    shares = shares_of(content, kind, name, shares)
    heads = () if shares else heads
    penalties: tuple[float, ...] = ()
    if kind == "voita":
        penalties = numbers(content.get("penalties") or [], f"penalties of {name}", float, 0, 1e9)
        if bool(penalties) == ("heads" in content):
            raise ValueError(
                f"{name} needs either penalties, a list of numbers such as [0.0003, 0.001], or heads of its own"
            )
        heads = () if penalties else heads
    if kind == "unpruned":
        if "heads" in content:
            raise ValueError(f"{name} has the key heads, but it keeps all its heads: its options say how many it has")
    elif not heads and not shares and not penalties:
        raise ValueError(f"{name} has no head counts: give heads, or a share of the cost, to it or to the study")
    recovery = content.get("recovery")
    if recovery is not None:
        recovery = read_options(recovery, f"recovery of {name}")
        if "max-update" not in recovery:
            raise ValueError(f"recovery of {name} lacks max-update, the number of its updates")
    low, high = content.get("low", min(heads, default=0)), content.get("high", total)
    (low,) = numbers([low], f"low of {name}", int, 0, total)
    (high,) = numbers([high], f"high of {name}", int, 0, total)
    if low > high:
        raise ValueError(f"low of {name} is {low}, above its high of {high}: swap them")
    start = content.get("start", "base" if kind in FROM_BASE or kind == "random" else "scratch")
    if kind in ("structure", "unpruned") and start != "scratch":
        instead = "" if kind == "structure" else " (joint with all heads and start: base is the model trained on)"
        raise ValueError(f"start of {name} is {start!r}, but {kind} is trained from scratch: leave it out{instead}")
    if kind == "unpruned" and recovery is not None:
        raise ValueError(f"{name} has the key recovery, but it prunes nothing: leave it out")
    if kind == "michel" and content.get("distill") and recovery is None:
        raise ValueError(f"{name} has the key distill, but it trains nothing: give it a recovery, or leave distill out")
    if start not in ("base", "scratch") or (start == "scratch" and kind in FROM_BASE):
        raise ValueError(
            f"start of {name} is {start!r}, but base or, for joint, ste, random and range, scratch is expected"
        )
    where = f"options of {name}"
    options = read_options(_part(content, "options", where), where)
    if "head-selection" in options and kind not in ("joint", "pipelined", "range"):
        raise ValueError(f"{name} has the option head-selection, but {kind} has its own: give it to joint or pipelined")
    return Method(
        method=kind,
        name=name,
        heads=heads,
        seeds=numbers(content.get("seeds", list(seeds)), f"seeds of {name}", int, 1, 2**31 - 1, least=1),
        options=options,
        shares=shares,
        recovery=recovery,
        penalties=penalties,
        low=low if kind == "range" else 0,
        high=high if kind == "range" else 0,
        from_base=start == "base",
        distill=boolean(content.get("distill", False), f"distill of {name}"),
        compensate=boolean(content.get("compensate", False), f"compensate of {name}"),
        of=str(content["of"]) if "of" in content else None,
        title=read_title(content, name),
    )
