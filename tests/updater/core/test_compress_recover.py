"""After weights were taken away the rest learns again, and what went does not come back."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from updater.compress.matrices import is_prunable
from updater.compress.recover import recover
from updater.evaluate import outcomes
from updater.nemotron import checkpoint
from updater.nemotron.weights import released
from updater.settings import CompressionSettings, TrainingSettings
from updater.train.fit import Fit
from updater.train.lesson import Lesson
from updater.train.record import Watch


@pytest.fixture(scope="module")
def halved(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained checkpoint without the smaller 60 % of each matrix's weights."""
    model, _ = checkpoint.load(trained)
    for name, weight in released(model):
        if is_prunable(name):
            least = weight.abs().flatten().kthvalue(round(0.6 * weight.numel())).values
            weight.masked_fill_(weight.abs() <= least, 0)
    return checkpoint.export(model, trained, tmp_path_factory.mktemp("halved") / "checkpoint")


def tensors(folder: Path) -> dict[str, Tensor]:
    model, _ = checkpoint.load(folder)
    return {name: tensor.clone() for name, tensor in released(model)}


def loss(folder: Path, table: Any) -> float:
    said = outcomes(*checkpoint.load(folder), table, batch_size=16, max_length_tokens=64)
    return float(torch.tensor(said["loss"].to_pylist()).mean())


def run(folder: Path, teacher: Path, table: Any, at: Path, **changes: Any) -> tuple[Path, Fit]:
    _, tokenizer = checkpoint.load(folder)
    lesson = Lesson.of(tokenizer, table, changes.pop("rehearsed", None), max_length_tokens=64)
    settings = CompressionSettings(method="magnitude", **changes)
    training = TrainingSettings(batch_size=16, learning_rate=5e-3, weight_decay=0.1)
    done = recover(
        folder,
        teacher,
        lesson,
        settings=settings,
        training=training,
        state=at / "state",
        target=at / "recovered",
        watch=Watch(progress=False),
    )
    return at / "recovered", done


@pytest.mark.parametrize("recovery", ["finetune", "distill"])
def test_it_learns_again_and_zeros_stay_zero(
    halved: Path, trained: Path, language: Any, tmp_path: Path, recovery: str
) -> None:
    table, held_out = language(0, 120), language(500, 40)
    found, done = run(halved, trained, table, tmp_path, recovery=recovery, recovery_epochs=3)
    assert done.num_steps == 3 * 8
    before, after = tensors(halved), tensors(found)
    moved = 0
    for name, tensor in after.items():
        if is_prunable(name):
            assert not tensor[before[name] == 0].any(), name
            moved += int((tensor != before[name]).sum())
    assert moved > 1000
    assert loss(found, held_out) < 0.5 * loss(halved, held_out)


@pytest.mark.parametrize("rehearses", [False, True])
def test_the_student_nears_what_its_teacher_says(
    halved: Path, trained: Path, language: Any, tmp_path: Path, rehearses: bool
) -> None:
    """Completions that are wrong are taught: only who is held to the teacher unlearns them, also
    where they stand among the rehearsed ones."""
    table = language(0, 120)
    wrong = table.set_column(2, "completion", [table["completion"].to_pylist()[::-1]])
    changes = {
        "finetune": {"recovery": "finetune"},
        "distill": {"recovery": "distill", "distill_strength": 30.0},
    }
    new, more = (wrong[:8], {"rehearsed": wrong[8:]}) if rehearses else (wrong, {})
    lost = {
        name: loss(run(halved, trained, new, tmp_path / name, **one, **more)[0], language(500, 40))
        for name, one in changes.items()
    }
    assert lost["distill"] < 0.5 * lost["finetune"]
