"""Importance and outcomes by many processes: what one process alone comes to."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch

from regularizers import importance as weights
from regularizers.formats import parts
from updater.errors import CrashError, InputError
from updater.evaluate import outcomes
from updater.launch import processes, together
from updater.launch.task import Asking, Weighing
from updater.launch.weigh import ready, weighed
from updater.nemotron import checkpoint
from updater.settings import TrainingSettings
from updater.train.adapt import freeze
from updater.train.encode import Encoded, encode
from updater.train.importance import estimate

FULL = TrainingSettings(devices=2)
LORA = TrainingSettings(devices=2, adapt="lora", lora_experts=True)
ALONE = TrainingSettings(adapt="lora", precision="bf16-mixed")
SHARDED_LORA = TrainingSettings(devices=2, adapt="lora", strategy="fsdp")


def encoded(folder: Path, table: pa.Table) -> Encoded:
    _, tokenizer = checkpoint.load(folder)
    return encode(tokenizer, table, max_length_tokens=64)


def weighing(folder: Path, training: TrainingSettings, **changes: str) -> Weighing:
    told = {"estimator": "empirical", "form": "float32"} | changes
    return Weighing(folder, training, checkpoint_digest="c", data_digest="d", **told)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("training", "changes"),
    [
        (FULL, {}),
        (dataclasses.replace(FULL, devices=4), {}),
        (FULL, {"estimator": "sampled", "form": "factored"}),
        (FULL, {"estimator": "mas"}),
        (dataclasses.replace(FULL, precision="bf16-mixed"), {}),
        (dataclasses.replace(FULL, activation_checkpointing=True), {}),
        (dataclasses.replace(FULL, gather_gib=1e-9), {}),
        (dataclasses.replace(FULL, strategy="ddp", train_routers=True), {"form": "bfloat16"}),
        (LORA, {}),
        (SHARDED_LORA, {"form": "factored"}),
        (dataclasses.replace(SHARDED_LORA, precision="bf16-mixed"), {}),
        pytest.param(
            *(dataclasses.replace(SHARDED_LORA, lora_experts=True, gather_gib=1e-9), {}),
            marks=pytest.mark.torchrun,
        ),
    ],
    ids=[
        "fsdp",
        "fsdp of 4",
        "fsdp sampled",
        "fsdp mas",
        "fsdp bf16",
        "fsdp checkpointed",
        "fsdp in pieces",
        "ddp",
        "lora",
        "fsdp lora",
        "fsdp lora bf16",
        "fsdp lora experts in pieces",
    ],
)
def test_an_importance_is_that_of_one_process(
    trained: Path, language: Any, tmp_path: Path, training: TrainingSettings, changes: dict
) -> None:
    examples = encoded(trained, language(0, 21))
    task = weighing(trained, training, **changes)
    model, _ = checkpoint.load(trained)
    freeze(model, training)
    one = estimate(
        model,
        examples,
        estimator=task.estimator,
        checkpoint_digest="c",
        data_digest="d",
        form=task.form,
        precision=training.precision,
        progress=False,
    )
    file = together.estimate(task, examples, folder=tmp_path / "many", progress=False)
    many = weights.load(file)
    assert dataclasses.replace(many, tensors={}) == dataclasses.replace(one, tensors={})
    same_importance(one, many, rounding=2**-7 if task.form == "bfloat16" else 1e-4)


def same_importance(
    one: weights.Importance, many: weights.Importance, *, rounding: float = 1e-4
) -> None:
    assert many.tensors.keys() == one.tensors.keys()
    for name, weight in one.tensors.items():
        for mine, theirs in zip(parts(weight), parts(many.tensors[name]), strict=True):
            largest = float(mine.abs().max())
            assert largest > 0, name
            torch.testing.assert_close(
                theirs, mine, rtol=rounding, atol=1e-5 * largest, msg=lambda m, n=name: f"{n}: {m}"
            )


@pytest.mark.usefixtures("forked")
def test_an_importance_of_a_release_in_bfloat16_in_shards(
    release: Path, language: Any, tmp_path: Path
) -> None:
    """What has factors is bfloat16 beside routers in float32, in the same groups of weights."""
    training = dataclasses.replace(SHARDED_LORA, precision="bf16-mixed")
    examples = encoded(release, language(0, 9))
    task = weighing(release, training)
    one = weighed(ready(dataclasses.replace(task, training=ALONE)), task, examples)
    file = together.estimate(task, examples, folder=tmp_path / "many", progress=False)
    many = weights.load(file)
    assert many.tensors.keys() == one.tensors.keys()
    for name, expected in one.tensors.items():
        assert isinstance(expected, torch.Tensor)
        apart = (many.tensors[name] - expected).norm() / expected.norm()
        assert apart < 0.05, (name, apart)


@pytest.mark.usefixtures("forked")
def test_an_importance_of_logits_that_are_made_in_pieces(
    trained: Path, language: Any, tmp_path: Path, driven_by: Callable[[str], None]
) -> None:
    """In shards the output head is asked for again for each piece, and on the way back."""
    driven_by("pieces_driver.py")
    table = language(0, 9)
    long = pa.array([" bright yellow" * (n % 3 + 3) for n in range(9)])
    examples = encoded(trained, table.set_column(2, "completion", long))
    assert examples.completion_lengths.min() > 5, "the driver makes five tokens' logits at a time"
    model, _ = checkpoint.load(trained)
    assert model.lm_head.out_features == 400, "the driver counts on it"
    freeze(model, FULL)
    task = weighing(trained, FULL)
    about = {"checkpoint_digest": "c", "data_digest": "d", "progress": False}
    one = estimate(model, examples, estimator=task.estimator, form=task.form, **about)
    file = together.estimate(task, examples, folder=tmp_path, progress=False)
    same_importance(one, weights.load(file))


@pytest.mark.usefixtures("forked")
def test_processes_draw_labels_of_their_own(trained: Path, language: Any, tmp_path: Path) -> None:
    """So that their mean is an estimate of twice as many draws, and not the same twice."""
    examples = encoded(trained, language(0, 40))
    ddp = dataclasses.replace(FULL, strategy="ddp", train_routers=True)
    model, _ = checkpoint.load(trained)
    about = {"checkpoint_digest": "c", "data_digest": "d", "progress": False}
    one = estimate(model, examples, estimator="sampled", **about)
    task = weighing(trained, ddp, estimator="sampled")
    many = weights.load(together.estimate(task, examples, folder=tmp_path, progress=False))
    sums = [sum(float(t.sum()) for t in found.tensors.values()) for found in (one, many)]
    assert sums[0] != sums[1]
    assert sums[1] == pytest.approx(sums[0], rel=0.5)


@pytest.mark.usefixtures("forked")
def test_fewer_examples_than_processes(trained: Path, language: Any, tmp_path: Path) -> None:
    examples = encoded(trained, language(0, 1))
    model, _ = checkpoint.load(trained)
    one = estimate(
        model,
        examples,
        estimator="empirical",
        checkpoint_digest="c",
        data_digest="d",
        progress=False,
    )
    ddp = dataclasses.replace(FULL, strategy="ddp", train_routers=True)
    task = weighing(trained, ddp)
    many = weights.load(together.estimate(task, examples, folder=tmp_path, progress=False))
    for name, tensor in one.tensors.items():
        torch.testing.assert_close(many.tensors[name], tensor, rtol=1e-4, atol=1e-10)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("sharded", [True, False])
def test_answers_are_those_of_one_process(
    trained: Path, language: Any, tmp_path: Path, sharded: bool
) -> None:
    tables = {"many": language(500, 37), "one": language(3, 1), "none": language(0, 0)}
    long = tables["many"].slice(0, 1).set_column(1, "prompt", pa.array(["very " * 80]))
    tables["many"] = pa.concat_tables([tables["many"], long])
    model, tokenizer = checkpoint.load(trained)
    task = Asking(
        trained, tuple(tables), sharded, batch_size=5, max_length_tokens=64, gather_bytes=1
    )
    found = together.outcomes(task, tables, FULL, folder=tmp_path, progress=False)
    assert found.seconds > 0
    for name, table in tables.items():
        one = outcomes(model, tokenizer, table, batch_size=5, max_length_tokens=64)
        many = found.outcomes[name]
        for column in ("id", "correct", "predicted"):
            assert many[column].to_pylist() == one[column].to_pylist()
        assert many["loss"].to_pylist() == pytest.approx(one["loss"].to_pylist(), abs=1e-4)
    assert 0 < sum(found.outcomes["many"]["correct"].to_pylist()) < 38


@pytest.mark.usefixtures("forked")
def test_a_release_in_bfloat16_is_asked_in_shards_as_on_a_gpu(
    trained: Path, language: Any, tmp_path: Path, driven_by: Callable[[str], None]
) -> None:
    """Its routers stay float32 beside it."""
    driven_by("bfloat16_driver.py")
    table = language(500, 23)
    model, tokenizer = checkpoint.load(trained, dtype=torch.bfloat16)
    one = outcomes(model, tokenizer, table, batch_size=5, max_length_tokens=64)
    task = Asking(trained, ("t",), True, batch_size=5, max_length_tokens=64, gather_bytes=2**32)
    found = together.outcomes(task, {"t": table}, FULL, folder=tmp_path, progress=False)
    many = found.outcomes["t"]
    assert many["loss"].to_pylist() == pytest.approx(one["loss"].to_pylist(), abs=0.1)
    exact = outcomes(*checkpoint.load(trained), table, batch_size=5, max_length_tokens=64)
    assert many["loss"].to_pylist() != pytest.approx(exact["loss"].to_pylist(), abs=1e-4)


def test_a_process_that_fails_alone_is_told(
    trained: Path,
    language: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    driven_by: Callable[[str], None],
) -> None:
    driven_by("failing_driver.py")
    monkeypatch.setattr(processes, "MAX_RESTARTS", 0)
    task = Asking(trained, ("t",), True, batch_size=5, max_length_tokens=64, gather_bytes=2**32)
    with pytest.raises(CrashError, match="process 1 ended by MemoryError: of this one alone"):
        together.outcomes(task, {"t": language(0, 9)}, FULL, folder=tmp_path, progress=False)


@pytest.mark.usefixtures("forked")
def test_logits_that_are_made_in_pieces(
    trained: Path, language: Any, tmp_path: Path, driven_by: Callable[[str], None]
) -> None:
    """The process with fewer tokens asks for the output head as often as the other."""
    driven_by("pieces_driver.py")
    table = language(500, 23)
    model, tokenizer = checkpoint.load(trained)
    one = outcomes(model, tokenizer, table, batch_size=5, max_length_tokens=64)
    task = Asking(trained, ("t",), True, batch_size=5, max_length_tokens=64, gather_bytes=2**32)
    many = together.outcomes(task, {"t": table}, FULL, folder=tmp_path, progress=False)
    assert many.outcomes["t"]["correct"].to_pylist() == one["correct"].to_pylist()


def test_what_is_no_checkpoint_is_told_as_it_is(language: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    task = Asking(
        tmp_path / "empty", ("t",), True, batch_size=5, max_length_tokens=64, gather_bytes=2**32
    )
    with pytest.raises(InputError, match="empty"):
        together.outcomes(
            task, {"t": language(0, 4)}, FULL, folder=tmp_path / "many", progress=False
        )


def test_tasks_are_read_as_they_were_written(trained: Path, language: Any, tmp_path: Path) -> None:
    examples = encoded(trained, language(0, 3))
    weigh = weighing(trained, LORA, estimator="mas")
    weigh.write(tmp_path, examples)
    read, seen = Weighing.read(tmp_path)
    assert read == weigh
    assert (seen.tokens == examples.tokens).all()
    ask = Asking(trained, ("a", "b"), False, batch_size=5, max_length_tokens=64, gather_bytes=2**32)
    ask.write(tmp_path, {"a": language(0, 2), "b": language(2, 2)})
    assert Asking.read(tmp_path) == ask
