"""What a run was made from, and going on with a changed study or another version; nothing is trained here."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import studies
import torch
import yaml

from fairseq_dsp.errors import UserError
from fairseq_dsp.files import read_json, write_json
from fairseq_dsp.report import pages
from fairseq_dsp.study.checks import check_runs
from fairseq_dsp.study.records import begin, check_records, with_records
from fairseq_dsp.study.results import read_results, summary_table
from fairseq_dsp.study.runner import execute, is_done, missing_steps
from fairseq_dsp.study.runs import Run, expand
from fairseq_dsp.study.study_file import read_study
from fairseq_dsp.study.sweep import checked_runs
from fairseq_dsp.version import __version__

Sweep = Callable[..., tuple[str, str]]


@pytest.fixture
def results(finished: tuple[Path, Any], tmp_path: Path) -> Path:
    """The results of a finished sweep of three methods."""
    shutil.copytree(finished[0] / "results", tmp_path / "results")
    shutil.rmtree(tmp_path / "results/runs/broken-k6-s1")
    return tmp_path / "results"


@pytest.fixture
def plan(
    results: Path, write_study: Callable[..., Path], methods: list[Any], tiny_recipe: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> Sweep:  # fmt: skip
    """``plan({"lr": 1}, heads=[3])``: what the sweep of a changed study would do; printed, said."""

    def plan(options: dict[str, Any] | None = None, **changes: Any) -> tuple[str, str]:
        study = write_study(recipe={**tiny_recipe, **(options or {})}, **{"methods": methods[:3], **changes})
        capsys.readouterr()
        studies.plan(study, results)
        return tuple(capsys.readouterr())

    return plan


def records(results: Path) -> dict[str, Path]:
    """The records by the names of runs."""
    return {path.parent.name: path for path in results.glob("runs/*/run.json")}


def change(path: Path, **values: Any) -> None:
    """Change values of a JSON file; ``...`` removes one."""
    content = json.loads(path.read_text()) | values
    write_json(path, {key: value for key, value in content.items() if value is not ...})


def all_done(planned: tuple[str, str]) -> bool:
    """Whether nothing is left to be done."""
    return planned[0].count(": done\n") == 4 and "fairseq" not in planned[0]


def test_a_record_holds_what_the_run_was_made_from(results: Path) -> None:
    record = json.loads(records(results)["pipelined-k6-s1"].read_text())
    assert record["version"] == __version__
    train, recover = (record["resolved"][step] for step in ("train", "recover"))
    assert (train["max_update"], train["freeze_weights"], train["dropout"]) == (6, True, 0.1)
    assert (recover["head_selection"], recover["freeze_weights"]) == ("fixed", False)
    assert (train["attention_dropout"], train["pruning_lr"], train["seed"]) == (0.0, 0.2, 1)  # defaults
    michel = json.loads(records(results)["michel-k6-s1"].read_text())["resolved"]
    assert michel == {
        "score-heads": {"split": "valid", "sentences": None, "seed": 1, "heads_to_keep": 6, "steps": 2,
                        "min_heads_per_module": 0}
    }  # fmt: skip
    for run in read_results(results).runs:
        assert run["version"] == __version__
        assert run.get("processes") == (None if run["method"] == "michel" else 1)


def test_records_of_a_version_that_did_not_resolve_options(results: Path, plan: Sweep) -> None:
    assert all_done(plan())
    for run in expand(read_study(results.parent / "study.yaml"), results):
        write_json(run.folder / "run.json", run.identity)  # as it was
        change(run.folder / "result.json", version=..., processes=...)
    printed, said = plan()
    assert all_done((printed, said))
    assert f"4 of the finished runs were made by version unknown, and this is {__version__}: their results" in said
    assert all_done(plan({"num-workers": 1}))
    with pytest.raises(UserError, match=r"base-s1 holds results of another study.*\(dropout 0.1, now 0.2\)"):
        plan({"dropout": 0.2})
    assert "Not all runs" not in summary_table(read_results(results))
    change(results / "runs/joint-k6-s1/result.json", version=__version__)
    told = (
        f"Not all runs were made alike: by version unknown base-s1, pipelined-k6-s1, michel-k6-s1; by version {__ver()}"
    )
    assert told in summary_table(read_results(results))


def __ver() -> str:
    return f"{__version__} joint-k6-s1."


def test_changes_without_effect_train_nothing_anew(results: Path, plan: Sweep) -> None:
    assert all_done(plan({"log-interval": 3, "num-workers": 2, "no-epoch-checkpoints": True, "keep-last-epochs": 2}))
    assert all_done(plan({"attention-dropout": 0.0, "eval-bleu": True}))  # the default; validated for show
    with pytest.raises(UserError, match=r"\(validate-interval 1, now 2\)"):  # which checkpoint is the best
        plan({"validate-interval": 2})


def test_how_a_scoring_fits_into_memory_has_no_effect(results: Path, plan: Sweep, methods: list[Any]) -> None:
    def scoring(**options: Any) -> list[Any]:
        return [*methods[:2], {"method": "michel", "options": {"steps": 2, **options}}]

    assert all_done(plan(methods=scoring(cpu=True, **{"max-tokens": 1000})))
    with pytest.raises(UserError, match="steps 2, now 3"):
        plan(methods=scoring(steps=3))


def test_an_option_that_is_no_more_stays_in_what_is_finished(results: Path, plan: Sweep, methods: list[Any]) -> None:
    assert all_done(plan())
    with_it = [{"method": "joint", "options": {"module-penalty": 0.02}}, *methods[1:3]]
    with pytest.raises(UserError, match=r"joint-k6-s1 holds results of another study.*module-penalty 0.0, now 0.02"):
        plan(methods=with_it)
    study = read_study(results.parent / "study.yaml")
    for run in check_runs(study, expand(study, results)):
        write_json(run.folder / "run.json", run.record)  # as it was when there was the option
    assert all_done(plan(methods=with_it))
    with pytest.raises(UserError, match=r"joint, train: --module-penalty is 0\.02, but is an option no more: it"):
        plan(methods=with_it, heads=[6, 3])


@pytest.mark.parametrize("name", ["base-s1", "joint-k6-s1"])
def test_other_defaults_are_not_mixed(results: Path, plan: Sweep, name: str, methods: list[Any]) -> None:
    path = records(results)[name]
    record = json.loads(path.read_text())
    record["resolved"]["train"]["pruning_lr"] = 0.1
    change(path, resolved=record["resolved"], version="0.0.1")
    printed, said = plan()
    assert all_done((printed, said))  # the results stay
    assert f"{name} was made with other defaults than today's (pruning-lr 0.1, now 0.2), by version 0.0.1" in said
    with pytest.raises(UserError) as error:
        plan(heads=[6, 3])
    assert f"{name} was made with other defaults than today's (pruning-lr 0.1, now 0.2), by version 0.0.1" in str(
        error.value
    )
    assert "write them into the study" in str(error.value)
    pinned = {"pruning-lr": 0.1}
    if name == "base-s1":  # nothing else was changed, so that the others are those of another base model
        with pytest.raises(UserError, match=r"pipelined-k6-s1 was made with other defaults .*other base-s1"):
            plan(base=pinned, heads=[6, 3])
    else:
        changed = [{"method": "joint", "options": pinned}, *methods[1:3]]
        printed, _ = plan(methods=changed, heads=[6, 3])
        assert "# joint-k6-s1: done\n" in printed
        assert "--pruning-lr 0.1" in printed


def test_other_runs_that_are_needed_are_another_study(results: Path, plan: Sweep, methods: list[Any]) -> None:
    path = records(results)["joint-k6-s1"]
    needs = json.loads(path.read_text())["needs"]
    change(path, needs={**needs, "translations-s1": "0123"})  # made with distill, which the study has no more
    refused = r"joint-k6-s1 holds results of another study, .* \(translations-s1 needed, now not\)"
    with pytest.raises(UserError, match=refused):
        plan()
    change(path, needs=needs)
    assert all_done(plan())
    with pytest.raises(UserError, match=r"another study, .*base-s1 not needed, now needed"):
        plan(methods=[{"method": "joint", "start": "base"}, *methods[1:3]])
    change(path, resolved=..., needs=..., version=...)  # as of a version that recorded the study alone
    change(path, start=None, teacher={"name": "base-s1"})
    with pytest.raises(UserError, match=r"joint-k6-s1 holds results of another study"):
        plan()


def test_recoveries_of_a_range_that_began_with_its_own_model(write_study: Callable[..., Path], tmp_path: Path) -> None:
    """They are not the study's change: a finished one stays usable, and a larger number that is new is named."""

    def runs_with(heads: list[int]) -> list[Run]:
        entry = {"method": "range", "low": 3, "recovery": {"max-update": 5}}
        return checked_runs(read_study(write_study(methods=[entry], heads=heads)), tmp_path / "results")

    runs = runs_with([9, 6])
    for run in runs:
        write_json(run.folder / "run.json", run.record)
        write_json(run.folder / "result.json", {"version": __version__})
    assert check_records(runs, finished=True) == []
    record = records(tmp_path / "results")["range-k6-s1"]
    change(record, needs={k: v for k, v in json.loads(record.read_text())["needs"].items() if "k9" not in k})
    (said,) = check_records(runs, finished=True)
    assert "range-k6-s1 was made with other defaults than today's" in said
    assert "the recovery starts from that of range-k9-s1 now" in said
    with pytest.raises(UserError, match="the recovery starts from that of range-k9-s1 now"):
        check_records(runs, finished=False)
    with pytest.raises(UserError, match=r"of another study, .*the recovery starts from that of range-k12-s1 now"):
        runs_with([12, 9])


def test_another_version_is_told(results: Path, plan: Sweep) -> None:
    for path in results.glob("runs/*/result.json"):
        change(path, version="0.0.1" if "base" in str(path) else __version__)
    printed, said = plan(heads=[6, 3])
    assert printed.count(": done\n") == 4
    assert f"1 of the finished runs was made by version 0.0.1, and this is {__version__}: their results stay" in said
    found = read_results(results)
    assert "by version 0.0.1 base-s1" in summary_table(found)
    change(results / "runs/michel-k6-s1/result.json", processes=2)
    found = read_results(results)
    assert "trained by 2 process(es) michel-k6-s1" in found.mixture
    assert found.mixture in pages._markdown(found, [], {})


@pytest.mark.usefixtures("quick_steps")
def test_a_base_with_other_weights_is_told(results: Path, write_study: Callable[..., Path], methods: list[Any]) -> None:
    """As when it is trained again on a GPU, where the same options need not give the same weights."""
    assert read_results(results).mixture == ""
    checkpoint = results / "runs/base-s1/checkpoints/checkpoint_best.pt"
    state = torch.load(checkpoint, weights_only=True)
    torch.save(state | {"extra_state": {"previous_training_time": 7}}, checkpoint)
    shutil.rmtree(results / "runs/michel-k6-s1")
    study = read_study(write_study(methods=methods[:3]))
    michel = next(run for run in checked_runs(study, results) if run.method == "michel")
    execute(michel)
    assert read_results(results).mixture == ""  # the time that it took is no weight
    state["model"]["decoder.embed_tokens.weight"][0, 0] += 1
    torch.save(state, checkpoint)
    shutil.rmtree(michel.folder)
    execute(michel)
    read = read_results(results)
    one, two = (
        read_json(records(results)[name].with_name("result.json"))["files"] for name in ("base-s1", michel.name)
    )
    file = "base-s1/checkpoints/checkpoint_best.pt"
    assert read.mixture == (
        f"Not all runs were made alike: from {file} (checksum {one[file][:8]}) base-s1, pipelined-k6-s1; "
        f"from {file} (checksum {two[file][:8]}) michel-k6-s1."
    )
    assert read.mixture in summary_table(read)
    change(records(results)[michel.name].with_name("result.json"), files={file: f"{one[file]} and {two[file]}"})
    assert f"(checksum {one[file][:8]} and {two[file][:8]}) michel-k6-s1." in read_results(results).mixture


def test_a_study_is_mended_before_it_has_scores(results: Path, plan: Sweep) -> None:
    with pytest.raises(UserError, match=r"base-s1 holds scores of this study before it was changed \(beam 1, now 2\)"):
        plan(evaluate={"beam": 2})
    for path in results.glob("runs/*/result.json"):
        path.unlink()
    printed, _ = plan(evaluate={"beam": 2})
    assert "fairseq_cli.train" not in printed
    assert printed.count("fairseq_dsp.cli evaluate") == 4
    assert printed.count("fairseq_dsp.cli compact") == 3  # of the same checkpoints, but nobody compares that
    for name in ("pipelined-k6-s1", "michel-k6-s1"):  # which start from the best checkpoint of the base model
        shutil.rmtree(results / "runs" / name)
    printed, _ = plan(checkpoint="last")
    assert printed.count("fairseq_cli.train") == 2  # pipelined and its recovery
    assert "base-s1/checkpoints/checkpoint_last.pt --data" in printed
    printed, _ = plan(
        {"valid-subset": "test", "validate-interval": 3}, checkpoint="last"
    )  # which the last does not see
    assert printed.count("fairseq_cli.train") == 2


def test_without_its_record_a_run_is_nobodys(results: Path, plan: Sweep, methods: list[Any]) -> None:
    (results / "runs/joint-k6-s1/run.json").unlink()
    with pytest.raises(
        UserError, match=r"joint-k6-s1 has no run.json, which says what made the results in it: give an"
    ):
        plan(methods=methods[:3])


def test_a_result_that_is_removed_is_scored_again(results: Path, write_study: Callable[..., Path], methods: list[Any]):
    """Whatever lies beside it; nothing is trained."""
    (results / "runs/joint-k6-s1/result.json").unlink()
    run = next(
        run for run in expand(read_study(write_study(methods=methods[:3])), results) if run.name == "joint-k6-s1"
    )
    assert (run.folder / "scores.json").exists()
    assert (run.folder / ".evaluate.done").exists()
    assert [step.name for step in missing_steps(run)] == ["evaluate"]


def test_what_is_stale_is_removed(results: Path, write_study: Callable[..., Path], methods: list[Any]) -> None:
    (results / "runs/joint-k6-s1/result.json").unlink()
    study = read_study(write_study(methods=methods[:3], evaluate={"beam": 2}))
    run = next(run for run in expand(study, results) if run.name == "joint-k6-s1")
    change(run.folder / "run.json", **(run.identity | {"beam": 1, "resolved": ...}))
    begin(run)
    left = {path.name for path in run.folder.rglob("*")}
    assert {"checkpoint_best.pt", ".train.done"} <= left
    assert not {"compact.pt", "scores.json", "translations.txt", ".compact.done", ".evaluate.done"} & left
    assert json.loads((run.folder / "run.json").read_text())["version"] == f"{__version__}"


def test_a_run_without_checkpoints_takes_a_mended_recipe(
    results: Path, plan: Sweep, methods: list[Any], write_study: Callable[..., Path]
) -> None:
    broken = {"method": "joint", "name": "broken", "options": {"max-tokens": 1}}
    study = read_study(write_study(methods=[*methods[:3], broken]))
    run = next(run for run in expand(study, results) if run.name == "broken-k6-s1")
    begin(run)
    broken["options"] = {"max-tokens": 300}
    printed, _ = plan(methods=[*methods[:3], broken])
    assert "--max-tokens 300" in printed
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints/checkpoint_last.pt").touch()  # half trained
    with pytest.raises(UserError, match=r"broken-k6-s1 holds results of another study.*\(max-tokens 1, now 300\)"):
        plan(methods=[*methods[:3], broken])


def test_versions_of_a_training_that_was_interrupted(tmp_path: Path, write_study: Callable[..., Path]) -> None:
    run: Run = expand(read_study(write_study()), tmp_path / "results")[0]
    begin(run)
    change(run.folder / "run.json", version="0.0.1")
    begin(run)  # nothing was made by the other version
    record = json.loads((run.folder / "run.json").read_text())
    assert record.get("version", __version__) == __version__
    change(run.folder / "run.json", version="0.0.1")
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints/checkpoint_last.pt").touch()
    begin(run)
    begin(run)
    assert json.loads((run.folder / "run.json").read_text())["version"] == f"0.0.1, {__version__}"
    assert check_records([run], finished=False) == []
    assert not is_done(run)
    assert yaml.safe_load((run.folder / "run.json").read_text())["name"] == "base-s1"


@pytest.mark.parametrize(
    ("recorded", "told"),
    [
        ({"max_len_b": 10}, r"scores of this study before .*\(max_len_b 10, now as usual\).*remove result.json"),
        ({"pretrained": "abc"}, r"results of another study.*\(pretrained abc, now as usual\)"),
    ],
)
def test_what_is_no_longer_given_is_a_change(results: Path, plan: Sweep, recorded: dict[str, Any], told: str) -> None:
    change(records(results)["joint-k6-s1"], **recorded)
    with pytest.raises(UserError, match=told):
        plan()


def test_other_lengths_of_translations_are_no_other_training(tmp_path: Path, write_study: Callable[..., Path]) -> None:
    results = tmp_path / "results"
    run = expand(read_study(write_study()), results)[0]
    begin(run)
    (run.folder / "checkpoints").mkdir()
    (run.folder / "checkpoints/checkpoint_best.pt").touch()
    longer = expand(read_study(write_study(evaluate={"max-len-b": 300})), results)[0]
    assert check_records([longer], finished=False) == []  # nothing is scored yet
    begin(longer)
    (run.folder / "result.json").write_text("{}")
    with pytest.raises(UserError, match=r"scores of .*\(.*max_len_b 300, now as usual\).*remove result.json"):
        check_records([run], finished=False)


def test_what_is_said_of_a_data_bin_is_part_of_its_scores(
    tiny_data: Path, tmp_path: Path, write_study: Callable[..., Path]
) -> None:
    given = {"folder": str(tiny_data), "references": str(tiny_data.parent / "test.yy")}

    def first(**text: Any) -> Run:
        return expand(read_study(write_study(data={**given, **text})), tmp_path / "results")[0]

    run = first()
    begin(run)
    (run.folder / "result.json").write_text("{}")
    with pytest.raises(UserError, match=r"scores of .*\(text {}, now {'bpe': 'subword-nmt'}\).*remove result.json"):
        check_records([first(bpe="subword-nmt")], finished=False)
    change(run.folder / "run.json", text=...)  # as early versions left it
    check_records([first(bpe="subword-nmt")], finished=True)
    options = [{run.name: {"train": {"cooldown_updates": updates}}} for updates in (5, 7)]
    one, other = (with_records([first(bpe="subword-nmt")], each)[0] for each in options)
    assert one.record
    write_json(run.folder / "run.json", {key: value for key, value in one.record.items() if key != "text"})
    told = check_records([other], finished=True)[0]  # by the package, not by the study
    assert "was made with other defaults than today's (cooldown-updates 5, now 7)" in told


def test_other_random_heads_are_another_training(tmp_path: Path, write_study: Callable[..., Path]) -> None:
    def random_run(units: int) -> Run:
        study = write_study(methods=[{"method": "random", "options": {"ffn-units-to-keep": units}}])
        runs = check_runs(read_study(study), expand(read_study(study), tmp_path / "results"))
        return next(run for run in runs if run.method == "random")

    run = random_run(40)
    begin(run)
    (run.folder / "result.json").write_text("{}")
    check_records([random_run(40)], finished=False)
    with pytest.raises(UserError, match=r"results of another study.*kept-heads .*40.*, now .*20"):
        check_records([random_run(20)], finished=False)
