"""Reading studies, and what they expand to; nothing is trained here."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from studies import plan

from fairseq_dsp.errors import UserError
from fairseq_dsp.evaluation.prepared import PreparedData
from fairseq_dsp.study import checks
from fairseq_dsp.study.options import parse_training
from fairseq_dsp.study.runs import Run, expand
from fairseq_dsp.study.study_file import read_study

WriteStudy = Callable[..., Path]


def runs_of(path: Path) -> dict[str, Run]:
    """The runs of a study by name, in order."""
    return {run.name: run for run in expand(read_study(path), path.parent / "results")}


def words(run: Run, step: str) -> list[str]:
    """The command of a step."""
    return list(next(one for one in run.steps if one.name == step).command)


def value(command: list[str], option: str) -> str:
    """The value of an option."""
    return command[command.index(option) + 1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"metods": ["joint"]}, "unknown key metods, did you mean methods?"),
        ({"methods": ["jiont"]}, "no method 'jiont', did you mean joint?"),
        ({"methods": [{"method": "joint", "penalties": [1]}]}, "key penalties, which is for voita"),
        ({"methods": [{"method": "voita"}]}, "voita needs either penalties"),
        ({"methods": [{"method": "voita", "penalties": [0.1], "heads": [3]}]}, "voita needs either"),
        ({"methods": [{"method": "joint", "start": "bsae"}]}, "start of joint is 'bsae'"),
        (
            {"methods": [{"method": "michel", "start": "scratch"}]},
            "but base or, for joint, ste, random and range, scratch is expected",
        ),
        ({"methods": [{"method": "ste", "options": {"head-selection": "simple"}}]}, "ste has its own"),
        ({"methods": [{"method": "unpruned", "heads": [3]}]}, "it keeps all its heads"),
        ({"methods": [{"method": "joint", "heads": [13]}]}, "13, but whole numbers from 0 to 12"),
        ({"methods": ["joint", "joint"]}, "two methods are called joint"),
        ({"methods": [{"method": "ste", "name": "unpruned"}]}, "a method is called unpruned, as the unpruned model is"),
        ({"methods": [{"method": "ste", "name": "base"}]}, "a method is called base"),
        (
            {"methods": [{"method": "unpruned"}]},
            "a method is called unpruned, as the unpruned model is: give it",
        ),
        (
            {"methods": [{"method": "ste", "title": "unpruned"}]},
            "the title of ste is unpruned, as tables call the",
        ),
        ({"methods": ["joint", {"method": "voita", "heads": []}]}, "voita has no head counts"),
        (
            {"methods": [{"method": "joint", "start": "base", "options": {"decoder-layers": 1}}]},
            "decoder-layers of joint is 1, but the unpruned model, from which it starts, has",
        ),
        (
            {"base": {"encoder-ffn-embed-dim": 8}, "methods": [{"method": "michel", "recovery": {"max-update": 4}}]},
            "encoder-ffn-embed-dim of recovery of michel is 32, but the unpruned model, from which it starts, has 8",
        ),
        (
            {"methods": [{"method": "joint", "recovery": {"max-update": 4, "encoder-layers": 1}}]},
            "encoder-layers of recovery of joint is 1, but the model of its pruning, from which it starts, has",
        ),
        ({"methods": [{"method": "range", "low": 9, "high": 3}]}, "low of range is 9, above its high of 3"),
        (
            {"methods": [{"method": "range", "low": 4, "heads": [3]}]},
            "range trains for 4 to 12 heads, but heads holds 3: leave it out",
        ),
        ({"methods": [{"method": "joint", "recovery": {}}]}, "lacks max-update"),
        ({"base": {"lr": float("nan")}}, "base: lr is not a number (NaN)"),
        (
            {"methods": [{"method": "joint", "options": {"dropout": "NaN"}}]},
            "options of joint: dropout is not a number",
        ),
        ({"heads": [6, 6]}, "holds a number twice"),
        ({"heads": [-1]}, "-1, but whole numbers from 0 to 12"),
        ({"heads": None}, "joint has no head counts"),
        ({"seeds": ["one"]}, "'one', but whole numbers"),
        ({"heads": [6.0]}, "6.0, but whole numbers"),
        ({"data": "/nowhere"}, "there is no folder /nowhere: give the one that scripts/preprocess.sh wrote"),
        ({"name": "a/b"}, "letters, digits"),
        ({"name": 2024}, "a text of letters, digits, - and _ is expected, in quotes where YAML"),
        ({"base": {"lr": "0,001"}}, "argument --lr: '0,001' is given, but a value as Python writes it is expected"),
        ({"checkpoint": "first"}, "best or last"),
        ({"compare": "jiont"}, "compare is 'jiont', but the name of a method is expected: one of joint"),
        ({"evaluate": {"split": "test7"}}, "no text called 'test7'"),
        ({"evaluate": {"beams": 5}}, "unknown key beams, did you mean beam?"),
        ({"recipe": {"arch": "transformer_dsp", "seed": 4}}, "option seed, but a sweep sets it itself"),
        ({"recipe": {"arch": "transformer_dsp"}}, "max-update"),
        ({"recipe": {"arch": "transformer_dsp", "max-update": 9, "lrate": 1}}, "does not take the options of recipe"),
        ({"recipe": {"arch": "lstm", "max-update": 9}}, "only transformer_dsp"),
        ({"recipe": {"max-update": [9]}}, "a number, a text, true or false"),
        ({"recipe": {"max-update": 9, "max_update": 8}}, "recipe has the option max-update twice"),
        ({"recipe": {"arch": "transformer_dsp", "max-update": 0}}, "max-update of base is 0, but a number from 1"),
        ({"recipe": {"arch": "transformer_dps", "max-update": 9}}, "'transformer_dps', did you mean transformer_dsp?"),
        (
            {"methods": [{"method": "joint", "recovery": {"max-update": "x"}}]},
            "recovery of joint: argument --max-update",
        ),
        (
            {"methods": [{"method": "joint", "recovery": {"max-update": 9, "lrr": 1}}]},
            "unrecognized arguments: --lrr 1",
        ),
        ({"methods": [{"method": ["joint"]}]}, "no method ['joint']"),
        ({"methods": [["joint"]]}, "a method is ['joint'], but keys"),
        ({"seeds": []}, "seeds is an empty list"),
        ({"evaluate": {"split": None}}, "split of evaluate is None, but a name is expected"),
        ({"evaluate": {"split": ["test"]}}, "split of evaluate is ['test'], but a name is expected"),
        ({"evaluate": {"max_len_a": 1, "max-len-a": 2}}, "evaluate has a key twice, with - and with _"),
        ({"evaluate": False}, "evaluate is False, but keys with values"),
        ({"base": 0}, "base is 0, but keys with values"),
        ({"methods": [{"method": "joint", "options": False}]}, "options of joint is False, but keys with values"),
        ({"base": {"": 3}}, "base has the option '', but the name of an option"),
        ({"base": {"help": True}}, "base has the option 'help', but the name of an option"),
        ({"base": {"lr": date(2020, 1, 1)}}, "lr is datetime.date(2020, 1, 1), but a number, a text"),
        ({"base": {"lr": "2 of 3"}}, "does not take the options of"),
        ({"base": {"encoder-attention-heads": 0}}, "--encoder-attention-heads is 0, but a number that divides"),
        ({"base": {"encoder-attention-heads": 3}}, "--encoder-attention-heads is 3, but a number that divides"),
        ({"base": {"weight-decay": False}}, "weight-decay of base is false, but a value is expected"),
        ({"methods": [{"method": "joint", "options": {"clip-norm": False}}]}, "clip-norm of joint is false, but a v"),
        ({"methods": [{"method": "unpruned", "start": "base"}]}, "unpruned is trained from scratch: leave it out"),
        ({"methods": [{"method": "unpruned", "recovery": {"max-update": 4}}]}, "unpruned has the key recovery"),
        ({"methods": [{"method": "michel", "distill": True}]}, "michel has the key distill, but it trains nothing"),
    ],
)
def test_bad_studies(write_study: WriteStudy, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as error:
        read_study(write_study(**changes))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_unreadable_studies(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_study(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [b", encoding="utf-8")
    with pytest.raises(UserError, match="not YAML"):
        read_study(tmp_path / "bad.yaml")
    (tmp_path / "twice.yaml").write_text("recipe:\n  lr: 1\n  arch: a\n  lr: 2\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"twice.yaml has the key lr twice, again in line 4"):
        read_study(tmp_path / "twice.yaml")
    (tmp_path / "key.yaml").write_text("? [a, b]\n: 3\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"key.yaml is not YAML: .*unhashable key"):
        read_study(tmp_path / "key.yaml")
    (tmp_path / "date.yaml").write_text("description: 2024-02-30", encoding="utf-8")
    with pytest.raises(UserError, match=r"date.yaml is not YAML: day is out of range"):
        read_study(tmp_path / "date.yaml")
    (tmp_path / "list.yaml").write_text("- joint", encoding="utf-8")
    with pytest.raises(UserError, match=r"the file is \['joint'\], but keys with values are expected"):
        read_study(tmp_path / "list.yaml")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("joint", {"method": "unpruned", "name": "joint-k6", "options": {"encoder-layers": 1}}),
        ("range", {"method": "unpruned", "name": "range-training", "options": {"encoder-layers": 1}}),
    ],
)
def test_two_runs_of_one_name_are_refused(write_study: WriteStudy, one: str, other: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"a run of {one} and one of .* would both be called {other['name']}-s1"):
        runs_of(write_study(heads=[6], methods=[one, other]))


def test_false_takes_back_an_option_of_the_recipe(write_study: WriteStudy, tiny_recipe: dict[str, Any]) -> None:
    recipe = {**tiny_recipe, "max-update": 100, "cooldown-updates": 7, "dropout": 0.2}
    joint = {"method": "joint", "options": {"cooldown-updates": False, "dropout": False}}
    command = words(runs_of(write_study(recipe=recipe, heads=[6], methods=[joint]))["joint-k6-s1"], "train")
    assert value(command, "--cooldown-updates") == "30", "the default instead of the recipe's"
    assert "--dropout" not in command


def test_a_study_extends_another(write_study: WriteStudy, tmp_path: Path) -> None:
    first = read_study(write_study(heads=[6, 3], seeds=[1, 2], description="the first"))
    (tmp_path / "below").mkdir()
    path = tmp_path / "below/more.yaml"
    content = {"extends": "../study.yaml", "name": "more", "methods": ["ste"], "recipe": {"lr": 0.25}, "seeds": [3]}
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    more = read_study(path)
    assert (more.name, more.description, more.seeds) == ("more", "the first", (3,))
    assert [(m.name, m.heads, m.seeds) for m in more.methods] == [("ste", (6, 3), (3,))]
    assert more.recipe == {**first.recipe, "lr": 0.25}
    (tmp_path / "third.yaml").write_text("extends: below/more.yaml\nheads: [9]\nname: third\n", encoding="utf-8")
    assert [m.heads for m in read_study(tmp_path / "third.yaml").methods] == [(9,)]
    for wrong, message in (
        ({"extends": "more.yaml"}, "more.yaml extends more.yaml, which extends it in turn"),
        ({"extends": "../third.yaml"}, "third.yaml extends below/more.yaml, which extends it in turn"),
        ({"extends": "none.yaml"}, "none.yaml cannot be read"),
        ({"extends": ["../study.yaml"]}, "but the path of a study is expected"),
        ({"name": None}, "lacks the key name: give it a name of its own beside extends"),
    ):
        changed = {key: value for key, value in {**content, **wrong}.items() if value is not None}
        path.write_text(yaml.safe_dump(changed), encoding="utf-8")
        with pytest.raises(UserError) as error:
            read_study(path)
        assert message in str(error.value)


def test_merged_keys_are_not_given_twice(write_study: WriteStudy, tmp_path: Path) -> None:
    text = write_study(methods=None).read_text() + (
        "methods:\n"
        "  - {method: joint, name: a, options: &one {dropout: 0.1, lr: 1}}\n"
        "  - {method: joint, name: b, options: &two {<<: *one, lr: 2}}\n"
        "base: {<<: *two, lr: 3}\n"
    )
    (tmp_path / "merged.yaml").write_text(text, encoding="utf-8")
    study = read_study(tmp_path / "merged.yaml")
    assert [m.options for m in study.methods] == [{"dropout": 0.1, "lr": 1}, {"dropout": 0.1, "lr": 2}]
    assert study.base == {"dropout": 0.1, "lr": 3}


def test_a_recovery_takes_no_part_in_the_choice(write_study: WriteStudy) -> None:
    recipe = {"arch": "transformer_dsp_tiny", "max-update": 9, "dropout": 0, "module-penalty": 0.1}
    recipe["pruning-warmup-updates"] = 3
    runs = runs_of(write_study(recipe=recipe, methods=[{"method": "joint", "recovery": {"max-update": 2}}]))
    train, recover = (words(runs["joint-k6-s1"], step) for step in ("train", "recover"))
    assert value(train, "--module-penalty") == "0.1"
    assert not {"--module-penalty", "--pruning-warmup-updates", "--freeze-weights", "--l0-penalty"} & set(recover)
    assert value(recover, "--dropout") == "0"


def test_methods_share_one_base_model_a_seed(write_study: WriteStudy) -> None:
    methods = ["joint", "ste", "pipelined", "michel", {"method": "voita", "penalties": [0.01]}, "range"]
    runs = runs_of(write_study(methods=methods, heads=[6, 3], seeds=[1, 2]))
    names = [f"{method}-k{k}" for method in ("joint", "ste", "pipelined", "michel", "range") for k in (6, 3)]
    assert sorted(runs) == sorted(
        f"{name}-s{seed}" for seed in (1, 2) for name in [*names, "base", "voita-l0.01", "range-training"]
    )
    for name, run in runs.items():
        kind, _, seed = name.partition("-")[0], None, name[-1]
        expected = {"pipelined": f"base-s{seed}", "michel": f"base-s{seed}", "voita": f"base-s{seed}"}
        if kind == "range" and "training" not in name:
            expected["range"] = f"range-training-s{seed}"
        assert run.needs == ((expected[kind],) if kind in expected else ())
    order = list(runs)
    assert all(order.index(need) < order.index(name) for name, run in runs.items() for need in run.needs)


def test_commands_of_the_methods(write_study: WriteStudy) -> None:
    methods = ["joint", "ste", {"method": "pipelined", "options": {"max-update": 8}, "recovery": {"max-update": 5}}]
    methods += ["michel", {"method": "voita", "penalties": [0.01]}, "range"]
    runs = runs_of(write_study(methods=methods, heads=[3]))
    joint = words(runs["joint-k3-s1"], "train")
    assert (value(joint, "--heads-to-keep"), value(joint, "--cooldown-updates")) == ("3", "6")
    assert "--pruning-warmup-updates" not in joint
    assert value(words(runs["ste-k3-s1"], "train"), "--head-selection") == "ste"
    pipelined = words(runs["pipelined-k3-s1"], "train")
    assert "--freeze-weights" in pipelined
    assert value(pipelined, "--finetune-from-model") == str(runs["base-s1"].folder / "checkpoints/checkpoint_best.pt")
    assert (value(pipelined, "--max-update"), value(pipelined, "--cooldown-updates")) == ("8", "7")
    recover = words(runs["pipelined-k3-s1"], "recover")
    assert value(recover, "--kept-heads") == str(runs["pipelined-k3-s1"].folder / "kept.json")
    assert (value(recover, "--head-selection"), value(recover, "--max-update")) == ("fixed", "5")
    assert [step.name for step in runs["michel-k3-s1"].steps] == ["score-heads", "compact", "evaluate"]
    assert value(words(runs["voita-l0.01-s1"], "train"), "--l0-penalty") == "0.01"
    shared = words(runs["range-training-s1"], "train")
    assert (value(shared, "--heads-to-keep-low"), value(shared, "--heads-to-keep-high")) == ("3", "12")
    assert value(shared, "--heads-to-keep") == "3", "the best checkpoint is the one that is best with the least"
    assert value(words(runs["range-k3-s1"], "compact"), "--heads-to-keep") == "3"
    base = words(runs["base-s1"], "train")
    assert not [word for word in base if "heads-to-keep" in word or "finetune" in word]


def test_a_range_from_the_base_model(write_study: WriteStudy) -> None:
    runs = runs_of(write_study(methods=[{"method": "range", "start": "base", "distill": True}], heads=[6, 3]))
    shared = words(runs["range-training-s1"], "train")
    base = str(runs["base-s1"].folder / "checkpoints/checkpoint_best.pt")
    assert value(shared, "--finetune-from-model") == base
    assert shared[3] == str(runs["translations-s1"].folder / "corpus/data-bin")
    assert (value(shared, "--max-update"), value(shared, "--cooldown-updates")) == ("1000", "300")
    assert (value(shared, "--lr-scheduler"), value(shared, "--pruning-lr")) == ("polynomial_decay", "0.02")
    assert "--heads-to-keep-updates" not in shared


def test_a_recovery_of_a_range_starts_from_that_of_the_next_larger_number(write_study: WriteStudy) -> None:
    """The heads of each are those of the range's model."""
    runs = runs_of(write_study(methods=[{"method": "range", "recovery": {"max-update": 5}}], heads=[3, 9, 6]))
    shared = runs["range-training-s1"]
    order = str(shared.folder / "checkpoints/checkpoint_best.pt")
    starts = {9: order} | {k: str(runs[f"range-k{more}-s1"].folder / "recovered/checkpoint_best.pt") for k, more in
                           ((6, 9), (3, 6))}  # fmt: skip
    for k, start in starts.items():
        run = runs[f"range-k{k}-s1"]
        assert value(words(run, "recover"), "--finetune-from-model") == start
        assert order in words(run, "heads")
        assert run.needs == (shared.name, *((f"range-k{k + 3}-s1",) if k < 9 else ()))
    later = runs_of(write_study(methods=[{"method": "range", "recovery": {"max-update": 5}}], heads=[3, 6]))
    same = {name for name, run in later.items() if run.identity == runs[name].identity}
    assert same == {"base-s1", shared.name}


def test_a_recovery_goes_on_as_its_training_does(write_study: WriteStudy) -> None:
    """The recipe's own schedule is that of a training from scratch: the rate would not have fallen to 0 at the end."""
    recipe: dict[str, Any] = {"arch": "transformer_dsp_tiny", "max-update": 50, "lr-scheduler": "polynomial_decay"}
    recipe |= {"warmup-updates": 10, "total-num-update": 50}
    shorter: dict[str, Any] = {"recovery": {"max-update": 20}}
    own: dict[str, Any] = {"recovery": {"max-update": 20, "warmup-updates": 3}}
    methods: list[dict[str, Any]] = [
        {"method": "range", "start": "base", **shorter}, {"method": "joint", "start": "base", **shorter},
        {"method": "random", **shorter}, {"method": "range", "name": "own", "start": "base", **own},
        {"method": "range", "name": "scratch", **shorter}, {"method": "pipelined", **shorter},
    ]  # fmt: skip
    runs = runs_of(write_study(recipe=recipe, methods=methods, heads=[6], seeds=[1]))
    rates = {
        name.removesuffix("-k6-s1"): tuple(value(words(run, "recover"), f"--{option}") for option in
                                           ("warmup-updates", "total-num-update"))
        for name, run in runs.items() if any(step.name == "recover" for step in run.steps)
    }  # fmt: skip
    goes_on = dict.fromkeys(["range", "joint", "random"], ("1", "20"))
    assert rates == goes_on | {"own": ("3", "20"), "scratch": ("10", "50"), "pipelined": ("10", "50")}


def test_a_method_in_two_entries(write_study: WriteStudy) -> None:
    entries: list[dict[str, Any]] = [{"method": "ste", "heads": [6, 3]}, {"method": "ste", "heads": [3], "seeds": [2]}]
    runs = runs_of(write_study(methods=entries, seeds=[1]))
    assert sorted(runs) == ["base-s1", "ste-k3-s1", "ste-k3-s2", "ste-k6-s1"]
    entries[1]["options"] = {"pruning-lr": 0.1}
    with pytest.raises(UserError, match="two methods are called ste"):
        read_study(write_study(methods=entries, seeds=[1]))


def test_trainings_from_the_base_model_and_distilled_from_it(write_study: WriteStudy) -> None:
    methods: list[dict[str, Any]] = [
        {"method": "joint", "name": "distilled", "distill": True, "options": {"head-selection": "simple"}},
        {"method": "joint", "name": "from-base", "start": "base", "distill": True, "recovery": {"max-update": 5}},
        {"method": "voita", "heads": [3]},
        {"method": "unpruned", "name": "shallow", "options": {"decoder-layers": 1}},
    ]
    runs = runs_of(write_study(methods=methods, heads=[3]))
    base = str(runs["base-s1"].folder / "checkpoints/checkpoint_best.pt")
    distilled = words(runs["distilled-k3-s1"], "train")
    assert value(distilled, "--head-selection") == "simple"
    assert "--finetune-from-model" not in distilled
    from_base, recover = (words(runs["from-base-k3-s1"], step) for step in ("train", "recover"))
    assert value(from_base, "--finetune-from-model") == base
    corpus = runs["translations-s1"].folder / "corpus"
    for training in (distilled, from_base, recover):
        assert training[3] == str(corpus / "data-bin")
    given = str(runs["voita-k3-s1"].steps[0].command[3])
    assert words(runs["translations-s1"], "translate")[3:] == [
        "prepare", "distilled", base, str(Path(given).parent), str(corpus), "--force",
    ]  # fmt: skip
    assert runs["distilled-k3-s1"].needs == ("translations-s1",)
    assert runs["from-base-k3-s1"].needs == ("base-s1", "translations-s1")
    assert not runs["translations-s1"].scored
    with pytest.raises(UserError, match="has a colon in its path"):
        expand(read_study(write_study(methods=methods, heads=[3])), Path("/re:sults"))
    adapted = words(runs["voita-k3-s1"], "train")
    assert (value(adapted, "--heads-to-keep"), value(adapted, "--head-selection")) == ("3", "hard_concrete")
    assert "--l0-penalty" not in adapted
    shallow = runs["shallow-s1"]
    assert (shallow.heads, [step.name for step in shallow.steps]) == (8, ["train", "evaluate"])
    assert value(words(shallow, "train"), "--decoder-layers") == "1"


def test_a_training_from_the_base_model_has_the_recipe_of_pruning_a_trained_one(
    write_study: WriteStudy, tiny_recipe: dict[str, Any]
) -> None:
    def joint(name: str, *heads: int, **options: Any) -> dict[str, Any]:
        return {"method": "joint", "name": name, "heads": list(heads), "start": "base", "options": options}

    methods = [
        joint("silent", 4, 3),
        joint("short", 4, **{"max-update": 100, "cooldown-updates": 10, "pruning-lr": 0.1}),
        joint("same", 4, **{"lr-scheduler": "inverse_sqrt"}),
        joint("init", 4, **{"warmup-init-lr": 0.1}),
        joint("paper", 4, **{"head-selection": "gumbel"}),
    ]
    runs = runs_of(write_study(recipe={**tiny_recipe, "max-update": 6000}, methods=methods))
    for name, expected in (
        # a third of the base's updates, with fewer than a third of the heads all; and of these 25% and 30%
        ("silent-k4", [2000, "polynomial_decay", 100, 2000, 500, 600, 0.02]),
        ("silent-k3", [6000, "polynomial_decay", 300, 6000, 1500, 1800, 0.02]),
        ("short-k4", [100, "polynomial_decay", 5, 100, 10, 10, 0.1]),
        ("same-k4", [2000, "inverse_sqrt", 4, None, 500, 600, 0.02]),
        ("init-k4", [2000, "inverse_sqrt", 4, None, 500, 600, 0.02]),
        ("paper-k4", [2000, "polynomial_decay", 100, 2000, None, 1800, None]),
    ):
        command = words(runs[f"{name}-s1"], "train")
        flags = ("max-update", "lr-scheduler", "warmup-updates", "total-num-update")
        flags += ("heads-to-keep-updates", "cooldown-updates", "pruning-lr")
        found = [value(command, f"--{flag}") if f"--{flag}" in command else None for flag in flags]
        assert found == [None if one is None else str(one) for one in expected], name
        parse_training(command[3:], name)  # fairseq takes what is left of the recipe
    assert value(words(runs["base-s1"], "train"), "--max-update") == "6000"


def test_200_runs_start_in_time(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_study(heads=list(range(2, 12)), seeds=list(range(1, 20)))
    parsed = []
    monkeypatch.setattr(checks, "parse_training", lambda *args: parsed.append(args) or parse_training(*args))
    plan(path, tmp_path / "results")
    printed = capsys.readouterr().out
    assert printed.startswith("# base-s1\n")  # nothing is said by the way
    assert printed.count("\n# ") == 18 + 190
    assert len(parsed) == 1 + 10  # not each run's: seeds differ in nothing that is checked
    assert not (tmp_path / "results").exists()


def test_a_plan_says_what_a_cluster_would_be_asked_for(
    write_study: WriteStudy, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan(write_study(), tmp_path / "results")
    assert "--slurm" not in capsys.readouterr().out
    plan(write_study(heads=[3, 4], seeds=[1, 2], slurm={"partition": "gpu", "minutes": 30}), tmp_path / "results")
    said = capsys.readouterr().out.splitlines()[0]
    assert said == "# with --slurm: 6 jobs, one a run; of each: partition gpu; minutes 30; cpus 1"


def test_prepared_data_is_found_from_its_data_bin(prepared: Path, tmp_path: Path) -> None:
    assert PreparedData.read(prepared / "data-bin").languages == ("xx", "yy")
    (tmp_path / "prepare.json").write_text(yaml.safe_dump({"a": 1}), encoding="utf-8")
    with pytest.raises(UserError, match="not JSON"):
        PreparedData.read(tmp_path)
    (tmp_path / "prepare.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="lacks bpe"):
        PreparedData.read(tmp_path)
