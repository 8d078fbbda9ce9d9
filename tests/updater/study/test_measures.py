"""A run's numbers against hand-worked ones, and what holds of any run."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from updater.study.measures import chain, measures, over_stream
from updater.study.results import Run, Stage

PERIODS = ("a", "b", "c")


def run_of(rows: list[list[int]], **changes: object) -> Run:
    """The first model knows a; then b and c are learnt. Right answers of 10."""
    stages = tuple(
        Stage(
            period, {p: (n, 10) for p, n in zip(PERIODS, row, strict=True)}, 10 * i, 0, 100 * i, i
        )
        for i, (period, row) in enumerate(zip(PERIODS, rows, strict=False))
    )
    return dataclasses.replace(Run("arm", 0, ("a",), stages), **changes)  # type: ignore[arg-type]


HAND = [[8, 1, 0], [9, 7, 2], [6, 5, 9]]


def test_the_numbers_of_a_run_are_as_worked_by_hand() -> None:
    found = measures(run_of(HAND, peak_memory_bytes=7))
    assert found is not None
    assert found.final_average_accuracy == pytest.approx((0.6 + 0.5 + 0.9) / 3)
    assert found.new_accuracy == pytest.approx((0.7 + 0.9) / 2)
    assert found.backward_transfer == pytest.approx(((0.6 - 0.8) + (0.5 - 0.7)) / 2)
    assert found.forward_transfer == pytest.approx((0.1 + 0.2) / 2)
    assert found.worst_forgetting == pytest.approx(0.9 - 0.6)  # the best of a was after learning b
    assert (found.seconds, found.steps, found.tokens) == (3, 30, 300)
    assert found.peak_memory_bytes == 7
    assert found.importance_bytes is None


def test_a_failed_run_has_no_numbers() -> None:
    assert measures(run_of(HAND[:2], failure="diverged")) is None


def test_a_stream_without_an_update_has_an_average_and_no_transfer() -> None:
    found = measures(run_of(HAND[:1]))
    assert found is not None
    assert found.final_average_accuracy == pytest.approx(0.8)
    assert found.new_accuracy is None
    assert found.backward_transfer is None
    assert found.forward_transfer is None
    assert found.worst_forgetting is None
    assert (found.seconds, found.steps) == (0, 0)


def test_several_periods_of_the_first_model_are_learnt_by_its_stage() -> None:
    scores = dict.fromkeys(PERIODS, (5, 10))
    run = Run("arm", 0, ("a", "b"), (Stage("b", scores), Stage("c", scores)))
    assert chain(run).learnt_at == (0, 0, 1)


def test_a_missing_score_is_no_number_and_never_zero() -> None:
    run = run_of(HAND)
    last = dataclasses.replace(run.stages[-1], scores={"b": (5, 10), "c": (0, 0)})
    found = measures(dataclasses.replace(run, stages=(*run.stages[:-1], last)))
    assert found is not None
    assert found.final_average_accuracy is None
    assert found.new_accuracy is None
    assert found.worst_forgetting is None


def test_over_the_stream_the_mean_is_over_what_was_learnt_by_then() -> None:
    assert over_stream(run_of(HAND)) == pytest.approx([0.8, 0.8, 2 / 3])


@given(st.lists(st.lists(st.integers(0, 10), min_size=3, max_size=3), min_size=3, max_size=3))
def test_of_any_run_the_worst_forgetting_is_at_least_the_mean_loss(rows: list[list[int]]) -> None:
    found = measures(run_of(rows))
    assert found is not None
    assert found.backward_transfer is not None
    assert found.worst_forgetting is not None
    assert found.worst_forgetting >= -found.backward_transfer - 1e-12
    assert 0 <= found.final_average_accuracy <= 1  # type: ignore[operator]
