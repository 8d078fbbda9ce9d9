"""Batches for a GPU are made and pinned by another thread, one ahead; for a CPU as they ever were.

No GPU is needed: which device a thread is for, and pinning, are all that is made up. That a copy
from pinned memory is right is for tests/updater/core/test_on_gpu.py.
"""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from updater.nemotron import tokenizer
from updater.settings import TrainingSettings
from updater.train.lesson import Lesson
from updater.train.loop import Stream, ahead
from updater.train.ranks import Ranks
from updater.train.schedule import MicroBatch, Plan

GPU, CPU = torch.device("cuda:1"), torch.device("cpu")


def nothing() -> None:
    pass


def threads() -> int:
    return sum(thread.name.startswith("ahead") for thread in threading.enumerate())


class Made:
    """Numbers, of which it is known how many were made and where."""

    def __init__(self, most: int, *, fails_at: int = -1) -> None:
        self.most, self.fails_at = most, fails_at
        self.count, self.where = 0, set[str]()

    def __iter__(self) -> Iterator[int]:
        for number in range(1, self.most + 1):
            if number == self.fails_at:
                raise OSError("the disk is gone")
            self.count, self.where = number, self.where | {threading.current_thread().name}
            yield number


def settle(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 5
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def test_the_same_items_in_the_same_order_one_ahead_and_no_more() -> None:
    made, begun = Made(20), list[str]()
    seen = []
    for item in ahead(iter(made), lambda: begun.append(threading.current_thread().name)):
        seen.append(item)
        wanted = min(item + 1, 20)
        assert settle(lambda wanted=wanted: made.count == wanted)
        assert made.count == wanted
    assert seen == list(range(1, 21))
    assert made.where == set(begun)
    assert begun != [threading.current_thread().name]
    assert threads() == 0


def test_what_fails_there_is_raised_here_at_its_place() -> None:
    seen: list[int] = []
    items = ahead(iter(Made(9, fails_at=4)), nothing)
    with pytest.raises(OSError, match="the disk is gone"):
        seen.extend(items)
    assert seen == [1, 2, 3]
    assert threads() == 0


def test_a_reader_that_stops_early_leaves_no_thread() -> None:
    items = ahead(iter(Made(9)), nothing)
    assert next(items) == 1
    assert threads() == 1
    items.close()  # type: ignore[attr-defined]
    assert threads() == 0


@pytest.fixture
def plan(base: Path, language: Any) -> Plan:
    training = TrainingSettings(epochs=2, batch_size=7, accumulate=2)
    read = tokenizer.read(base)
    lesson = Lesson.of(read, language(0, 40), language(100, 20), max_length_tokens=64)
    return Plan(lesson, training)


def same(one: MicroBatch, other: MicroBatch) -> bool:
    tensors = ("tokens_bl", "targets_bl")
    return one.examples == other.examples and all(
        torch.equal(getattr(one.batch, name), getattr(other.batch, name)) for name in tensors
    )


@pytest.mark.parametrize("first_step", [0, 5])
def test_a_gpu_gets_the_batches_that_a_cpu_gets_pinned_by_a_thread_of_its_own(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, first_step: int
) -> None:
    """From any step on: a run that was killed goes on with the batches that it had not seen."""
    devices, pinned = [], []

    def pin(tensor: torch.Tensor) -> torch.Tensor:
        pinned.append(threading.current_thread().name)
        return tensor.clone()

    monkeypatch.setattr(torch.cuda, "set_device", devices.append)
    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    ranks = Ranks(1, 2)
    here = list(Stream(plan, first_step, ranks, CPU))
    assert not pinned
    there = list(Stream(plan, first_step, ranks, GPU))
    assert len(here) == len(there) == plan.num_batches(first_step)
    assert all(same(one, other) for one, other in zip(here, there, strict=True))
    assert devices == [GPU], "it would pin by the first GPU, and take memory there"
    assert len(pinned) == 2 * len(there)
    assert {name.partition("_")[0] for name in pinned} == {"ahead"}


def test_a_cpu_has_no_other_thread(plan: Plan) -> None:
    items = iter(Stream(plan, 0, Ranks(), CPU))
    first = next(items)
    assert threads() == 0
    assert first.batch.to("cpu").tokens_bl is first.batch.tokens_bl
