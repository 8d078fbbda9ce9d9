"""Two models' clocks: they take turns, and the middle turn is told."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from updater.nemotron import checkpoint
from updater.study import speed
from updater.study.job import Job
from updater.study.speed import NUM_TURNS, side_by_side
from updater.train.encode import Encoded, encode


@pytest.fixture
def models(job: Callable[..., Job]) -> tuple[Any, Any, Encoded]:
    one = job("clocked")
    folder = one.first.place / "checkpoint"
    (small, tokenizer), (first, _) = checkpoint.load(folder), checkpoint.load(folder)
    table = one.stream.holdout(one.stream.span.first[0])
    return small, first, encode(tokenizer, table, max_length_tokens=512)


def test_both_go_forward_and_so_many_examples_a_second_are_told(
    models: tuple[Any, Any, Encoded],
) -> None:
    small, first, examples = models
    small.train()
    mine, others = side_by_side(small, first, examples, batch_size=4)
    assert mine > 0
    assert others > 0
    assert not small.training


def test_they_take_turns_and_that_with_the_middle_ratio_counts_the_first_one_not(
    models: tuple[Any, Any, Encoded], monkeypatch: pytest.MonkeyPatch
) -> None:
    small, first, examples = models
    asked: list[Any] = []
    ratios = iter([99.0, *np.random.default_rng(0).permutation(NUM_TURNS) + 1.0])

    def seconds(model: Any, _: Any) -> float:
        asked.append(model)
        return 1.0 if model is first else float(next(ratios))

    monkeypatch.setattr(speed, "_seconds", seconds)
    mine, others = side_by_side(small, first, examples, batch_size=4)
    assert asked == [small, first] * (NUM_TURNS + 1)
    assert others / mine == (NUM_TURNS + 1) / 2
    assert others == len(examples)
