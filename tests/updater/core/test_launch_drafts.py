"""A head aligned by many processes: what one process alone comes to."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pytest
import torch
from heads import with_head
from safetensors.torch import load_file, save_file

from updater.launch import answer, processes, together
from updater.launch.draft import aligned, ready
from updater.launch.task import Drafting
from updater.nemotron import files
from updater.nemotron import tokenizer as tokenizers
from updater.nemotron.weights import stays_float32
from updater.settings import TrainingSettings
from updater.train.drafting import NUM_DRAFTS
from updater.train.encode import Encoded, encode
from updater.train.lesson import Lesson
from updater.train.record import Watch

QUIET = Watch(progress=False)
TRAINING = TrainingSettings(
    epochs=1,
    batch_size=2,
    accumulate=2,
    learning_rate=1e-3,
    devices=2,
    checkpoint_every_steps=2,
)
GATE = "mtp.layers.1.mixer.gate.e_score_correction_bias"
IDLE = ".mixer.experts.5."


class Asked(NamedTuple):
    """What is aligned, on what, and what is asked of it."""

    folder: Path
    lesson: Lesson
    asked: Encoded

    def task(self, **changes: Any) -> Drafting:
        return Drafting(self.folder, dataclasses.replace(TRAINING, **changes), batch_size=1)

    def alone(self, folder: Path, **changes: Any) -> dict[str, Any]:
        """The same in this process."""
        task = self.task(**changes, devices=1)
        return aligned(ready(task), task, self.lesson, self.asked, folder=folder, watch=QUIET)

    def together(self, folder: Path, *, watch: Watch = QUIET, **changes: Any) -> dict[str, Any]:
        return together.align(
            self.task(**changes), self.lesson, self.asked, folder=folder, watch=watch
        )


@pytest.fixture(scope="module")
def given(trained: Path, language: Any, tmp_path_factory: pytest.TempPathFactory) -> Asked:
    """A head whose router sends no token to its last expert. Of the lesson and of what is asked
    three texts, an odd number, are too short for a draft: with batches of like length one process
    has such a text where the other has a long one. The last batch is of one text."""
    folder = with_head(trained, tmp_path_factory.mktemp("headed") / "checkpoint")
    tensors = load_file(folder / files.SINGLE)
    tensors[GATE][5] = -10.0
    save_file(tensors, folder / files.SINGLE, {"format": "pt"})
    tokenizer = tokenizers.read(folder)
    short = pa.table({"id": list("xyz"), "prompt": ["a"] * 3, "completion": ["b"] * 3})
    tables = (pa.concat_tables([language(first, 42), short]) for first in (0, 500))
    lesson, asked = (encode(tokenizer, table, max_length_tokens=64) for table in tables)
    assert lesson.lengths[-1] < NUM_DRAFTS + 2
    return Asked(folder, Lesson(lesson, len(lesson)), asked)


def head_of(folder: Path) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / files.SINGLE)
    return {name: tensor for name, tensor in tensors.items() if name.startswith("mtp.")}


def same_heads(one: Path, many: Path, atol: float = 1e-5) -> None:
    expected = head_of(one / answer.LEARNT)
    for name, tensor in head_of(many / answer.LEARNT).items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=atol, msg=name)


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    "changes",
    [
        {"adapt": "lora"},
        {"strategy": "fsdp"},
        {"activation_checkpointing": True, "train_routers": True, "router_bias_rate": 1e-3},
        pytest.param({"strategy": "fsdp", "gather_gib": 1e-9}, marks=pytest.mark.torchrun),
    ],
    ids=["ddp", "fsdp", "fsdp checkpointed", "fsdp in pieces"],
)
def test_the_head_is_that_of_one_process(
    given: Asked, tmp_path: Path, changes: dict[str, Any]
) -> None:
    one = given.alone(tmp_path / "one", **changes)
    many = given.together(tmp_path / "many", **changes)
    same_heads(tmp_path / "one", tmp_path / "many")
    for counted in ("num_examples", "num_steps"):
        assert many[counted] == one[counted]
    for when in ("before", "after"):
        assert many[f"acceptance_{when}"] == list(one[f"acceptance_{when}"])
    assert one["acceptance_after"][0] > one["acceptance_before"][0]
    was, now = (load_file(f / files.SINGLE) for f in (given.folder, tmp_path / "many/learnt"))
    moved = {name for name in now if not torch.equal(now[name], was[name])}
    kept = {name for name in now if not name.startswith("mtp.") or IDLE in name or name == GATE}
    if "train_routers" not in changes:
        kept.add("mtp.layers.1.mixer.gate.weight")
    assert moved == now.keys() - kept


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("more", [{}, {"gather_gib": 1e-9}], ids=["whole", "in pieces"])
def test_over_a_backbone_in_bfloat16(given: Asked, tmp_path: Path, more: dict[str, Any]) -> None:
    """As released, in mixed precision: of what is not trained there is no float32."""
    folder = with_head(given.folder, tmp_path / "released")
    tensors = load_file(given.folder / files.SINGLE)
    small = {n: t if stays_float32(n) else t.bfloat16() for n, t in tensors.items()}
    save_file(small, folder / files.SINGLE, {"format": "pt"})
    given, changes = given._replace(folder=folder), {"precision": "bf16-mixed"}
    one = given.alone(tmp_path / "one", **changes)
    many = given.together(tmp_path / "many", **changes, **more)
    assert ready(given.task(**changes, devices=1)).dtype == torch.bfloat16
    same_heads(tmp_path / "one", tmp_path / "many", atol=2e-2)
    assert many["acceptance_after"] == pytest.approx(one["acceptance_after"], abs=0.1)
    assert many["acceptance_after"][0] > many["acceptance_before"][0]


@pytest.mark.usefixtures("forked")
def test_logits_that_are_made_in_pieces(
    given: Asked, tmp_path: Path, driven_by: Callable[[str], None]
) -> None:
    """The process with fewer drafts asks for the output head as often as the other."""
    one = given.alone(tmp_path / "one", batch_size=10)
    driven_by("pieces_driver.py")
    many = given.together(tmp_path / "many", batch_size=10)
    same_heads(tmp_path / "one", tmp_path / "many")
    assert many["acceptance_after"] == list(one["acceptance_after"])


class Stopped(Exception):
    """The launching process is told to stop."""


def test_stopped_it_goes_on_with_one_process(
    given: Asked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_POLL_SECONDS", 0.02)
    one = given.alone(tmp_path / "one", epochs=4)

    def stop(step: int, _metrics: dict[str, float]) -> None:
        if step >= 10:
            raise Stopped

    with pytest.raises(Stopped):
        given.together(tmp_path / "many", watch=Watch(stop, progress=False), epochs=4)
    assert list((tmp_path / "many").glob("step-*"))
    steps: list[int] = []
    task = given.task(epochs=4, devices=1)
    watch = Watch(lambda step, _: steps.append(step), progress=False)
    many = aligned(
        ready(task), task, given.lesson, given.asked, folder=tmp_path / "many", watch=watch
    )
    assert min(steps) > 10, steps
    same_heads(tmp_path / "one", tmp_path / "many")
    for when in ("before", "after"):
        assert many[f"acceptance_{when}"] == one[f"acceptance_{when}"]


def test_a_task_is_read_as_it_was_written(given: Asked, tmp_path: Path) -> None:
    task = given.task(adapt="lora")
    task.write(tmp_path, given.lesson, given.asked)
    read, lesson, asked = Drafting.read(tmp_path)
    assert read == task
    assert lesson.num_new == given.lesson.num_new
    assert (lesson.examples.tokens == given.lesson.examples.tokens).all()
    assert (asked.tokens == given.asked.tokens).all()
