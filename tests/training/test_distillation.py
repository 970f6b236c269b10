"""A pruned model that learns from an unpruned one: what the loss is, and what is told to the user."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import inprocess
import numpy as np
import pytest
import support
import torch
from fairseq import checkpoint_utils

from fairseq_dsp.errors import UserError
from fairseq_dsp.training.distillation import Teacher

FLAGS = ["--cpu", "--criterion", "label_smoothed_cross_entropy_dsp", "--heads-to-keep", 3]


def build(tiny_data: Path, tmp_path: Path, *flags: object) -> tuple[Any, Any, dict[str, Any]]:
    """A model without dropout, its criterion, and a batch with padding."""
    config = inprocess.argparse_config(tiny_data, tmp_path, *FLAGS, "--dropout", 0, *flags)
    model, criterion, (sample,) = inprocess.with_criterion(config, 8)
    return model, criterion, sample


def distribution(model: Any, sample: dict[str, Any]) -> torch.Tensor:
    """Log-probabilities in float64. *Shape:* (B, T, V)"""
    return model(**sample["net_input"])[0].double().log_softmax(-1)


def test_the_loss_is_the_mixture(stock: Path, tiny_data: Path, tmp_path: Path) -> None:
    model, criterion, sample = build(tiny_data, tmp_path, "--distill-from", stock, "--distill-weight", 0.3)
    _, plain, _ = build(tiny_data, tmp_path)
    (teacher,), _ = checkpoint_utils.load_model_ensemble([str(stock)], task=criterion.task)
    model.train()
    loss, _, log = criterion(model, sample)
    alone, _, _ = plain(model, sample)
    tokens = sample["target"] != criterion.padding_idx
    assert not tokens.all(), "the batch has padding"
    with torch.no_grad():
        theirs, ours = distribution(teacher.eval(), sample), distribution(model, sample)
    distilled = -(theirs.exp() * ours).sum(-1)[tokens].sum()
    assert loss.item() == pytest.approx(0.7 * alone.item() + 0.3 * distilled.item(), rel=1e-5)
    assert log["nll_loss"] == pytest.approx(plain(model, sample)[2]["nll_loss"].item())
    each, _, _ = criterion(model, sample, reduce=False)
    assert each.sum().item() == pytest.approx(loss.item(), rel=1e-5)
    model.eval()
    assert criterion(model, sample)[0] == plain(model, sample)[0], "validation measures what it always measures"
    assert not list(criterion.parameters())
    assert not criterion.state_dict()


def test_a_training_learns_from_a_teacher_and_resumes(stock: Path, tiny_data: Path, tmp_path: Path) -> None:
    def train(name: str, updates: int, *more: object) -> dict[str, Any]:
        flags = [*FLAGS, "--distill-from", stock, "--max-update", updates, "--cooldown-updates", 8, *more]
        return inprocess.train(tiny_data, tmp_path / name, *flags)["model"]

    distilled, alone = train("distilled", 10), train("alone", 10, "--distill-weight", 0)
    assert any((distilled[key] != alone[key]).any() for key in distilled)
    train("resumed", 5)
    resumed = train("resumed", 10)
    assert all(torch.equal(distilled[key], resumed[key]) for key in distilled)
    # what validates or translates later needs no teacher
    path = tmp_path / "distilled/checkpoint_last.pt"
    state = torch.load(path, weights_only=True)
    state["cfg"]["criterion"]["distill_from"] = str(tmp_path / "gone.pt")
    torch.save(state, path)
    args = [tiny_data, "--user-dir", support.PLUGIN, "--task", "translation", "--path", path, "--cpu"]
    assert "valid on 'valid'" in support.run_fairseq("validate", *args, "--max-tokens", 400).stdout


def test_a_teacher_of_fewer_positions(tiny_data: Path, tmp_path: Path) -> None:
    """Learnt ones end; the others are functions of the place, and go on."""
    for learned in ((), ("--encoder-learned-pos", "--decoder-learned-pos")):
        short = ("--max-source-positions", 30, "--max-target-positions", 40)
        folder = tmp_path / f"teacher{len(learned)}"
        inprocess.train(tiny_data, folder, "--cpu", "--max-update", 1, *learned, *short)

        def begin(*more: object, folder: Path = folder) -> None:
            _, criterion, _ = build(tiny_data, tmp_path, "--distill-from", folder / "checkpoint_last.pt", *more)
            criterion.before_training()

        if not learned:
            begin()
            continue
        with pytest.raises(UserError, match=r"has 30 source positions, .* up to 1024: give --max-source-positions 30"):
            begin()
        with pytest.raises(UserError, match=r"has 40 target positions, .* up to 1024: give --max-target-positions 40"):
            begin(*short[:2])
        begin(*short)


@pytest.mark.parametrize("weight", [-0.1, 1.5, float("nan")])
def test_a_weight_out_of_range(weight: float, stock: Path, tiny_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"--distill-weight is .*0 to 1"):
        build(tiny_data, tmp_path, "--distill-from", stock, f"--distill-weight={weight}")


def altered(teacher: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A teacher whose state is changed."""
    state = torch.load(teacher, weights_only=True)
    change(state)
    torch.save(state, path)
    return path


def other_words(state: dict[str, Any]) -> None:
    for name in ("decoder.embed_tokens.weight", "decoder.output_projection.weight"):
        if name in state["model"]:
            state["model"][name] = torch.cat([state["model"][name]] * 2)


def words_in_another_order(folder: Path, data: Path) -> Callable[[dict[str, Any]], None]:
    """Let a teacher be trained on a folder with other dictionaries of the same size."""
    folder.mkdir()
    first, second, *words = (data / "dict.yy.txt").read_text().splitlines()
    (folder / "dict.yy.txt").write_text("".join(f"{word}\n" for word in (second, first, *words)))
    return lambda state: state["cfg"]["task"].update(data=str(folder))


def not_a_number(state: dict[str, Any]) -> None:
    state["model"]["decoder.layers.0.fc1.weight"][0, 0] = float("nan")


def test_teachers_that_cannot_be_used(stock: Path, tiny_data: Path, tmp_path: Path) -> None:
    for path, message in (
        (
            tmp_path / "none.pt",
            r"The checkpoint .*none.pt cannot be read: No such file or directory; give a checkpoint",
        ),
        (tmp_path, "Is a directory"),
        (
            altered(stock, tmp_path / "other.pt", other_words),
            r"other.pt and .* do not belong together: the checkpoint was trained with another target dictionary",
        ),
        (
            altered(stock, tmp_path / "order.pt", words_in_another_order(tmp_path / "theirs", tiny_data)),
            r"dict\.yy\.txt has other words than .*theirs/dict\.yy\.txt, the dictionary of .*order\.pt",
        ),
        (altered(stock, tmp_path / "nan.pt", not_a_number), "holds a NaN or an infinity, with which nothing can"),
    ):
        _, criterion, _ = build(tiny_data, tmp_path, "--distill-from", path)
        with pytest.raises(UserError, match=message) as error:
            criterion.before_training()
        assert "\n" not in str(error.value)


def test_a_missing_teacher_is_told_at_once(tiny_data: Path, tmp_path: Path) -> None:
    flags = [*FLAGS, "--task", "translation_dsp", "--distill-from", tmp_path / "none.pt"]
    args = support.tiny_train_args(tiny_data, tmp_path / "run", *flags, arch="transformer_dsp")
    done = support.run_fairseq("train", *args, check=False)
    assert done.returncode == 1
    *before, last = done.stdout.splitlines()
    assert last == (
        f"error: The checkpoint {tmp_path}/none.pt cannot be read: No such file or directory; give a checkpoint_….pt "
        "that fairseq-train wrote."
    )
    assert not [line for line in before if "Traceback" in line or "loaded 200 examples" in line]
    assert not list((tmp_path / "run").iterdir())


def test_reading_the_teacher_leaves_the_training_as_it_is(stock: Path, tiny_data: Path, tmp_path: Path) -> None:
    flags = ["--distill-from", stock, "--eval-bleu", "--eval-bleu-args", '{"beam": 1}']
    model, criterion, _ = build(tiny_data, tmp_path, "--task", "translation_dsp", *flags)
    task = criterion.task
    generator, before = task.sequence_generator, {**vars(task)}
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    criterion.before_training()
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), np.random.get_state()[1].tolist()) == states[1:]
    assert vars(task) == before
    assert task.sequence_generator is generator
    assert generator.model.single_model is model
    assert criterion.teacher is criterion.teacher


@pytest.mark.slow
def test_the_bleu_of_validation_is_the_students(tiny_data: Path, tmp_path: Path) -> None:
    """A student that learns nothing has the BLEU that it has without a teacher."""
    teacher = ["--cpu", "--max-update", 60, "--lr", 0.02, "--train-subset", "valid", "--dropout", 0]
    inprocess.train(tiny_data, tmp_path / "teacher", *teacher, arch="transformer")
    path = tmp_path / "teacher/checkpoint_last.pt"
    common = [*FLAGS, "--task", "translation_dsp", "--eval-bleu", "--eval-bleu-args", '{"beam": 1}', "--max-update", 1]
    common += ["--lr", 1e-30, "--pruning-lr", 0]

    def bleu(name: str, *more: object) -> float:
        state = inprocess.train(tiny_data, tmp_path / name, *common, *more)
        meters = {key: meter for _, key, _, meter in state["extra_state"]["metrics"]["valid"]}
        return float(meters["_bleu_counts"]["sum"][0])  # the matching words

    student = bleu("alone")
    assert bleu("distilled", "--distill-from", path) == student
    assert bleu("teacher-again", "--finetune-from-model", path, "--heads-to-keep", 12) != student


@pytest.mark.slow
@pytest.mark.parametrize("more", [["--update-freq", 2], ["--update-freq", 2, "--memory-efficient-fp16"]])
def test_resumed_equals_straight_through(more: list[Any], stock: Path, tiny_data: Path, tmp_path: Path) -> None:
    def train(name: str, updates: int) -> dict[str, Any]:
        flags = [*FLAGS, "--distill-from", stock, "--max-update", updates, "--cooldown-updates", 8, *more]
        return inprocess.train(tiny_data, tmp_path / name, *flags)["model"]

    straight = train("straight", 8)
    train("resumed", 3)
    resumed = train("resumed", 8)
    assert all(torch.equal(straight[key], resumed[key]) for key in straight)


@pytest.mark.parametrize(("precision", "expected"), [([], torch.float32), (["--memory-efficient-fp16"], torch.float16)])
def test_the_teacher_computes_with_the_students_precision(
    precision: list[str], expected: torch.dtype, stock: Path, tiny_data: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    seen = set()
    compute = Teacher.log_probabilities

    def watched(self: Teacher, sample: dict[str, Any], like: torch.Tensor) -> torch.Tensor:
        result = compute(self, sample, like)
        seen.update({parameter.dtype for parameter in self._model.parameters()})
        assert result.dtype == torch.float32
        assert not self._model.training
        return result

    monkeypatch.setattr(Teacher, "log_probabilities", watched)
    inprocess.train(tiny_data, tmp_path, *FLAGS, "--distill-from", stock, "--max-update", 2, *precision)
    assert seen == {expected}
