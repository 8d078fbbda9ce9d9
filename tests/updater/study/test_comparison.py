"""Intervals and tests over seeds against hand-worked cases and SciPy's own."""

import math

import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from updater.study.comparison import Difference, Estimate, differences, estimate

VALUES = st.lists(st.floats(-1, 1).map(lambda x: round(x, 3)), min_size=2, max_size=8)


def test_the_interval_of_five_seeds_is_as_worked_by_hand() -> None:
    found = estimate([1, 2, 3, 4, 5])  # s = sqrt(2.5), t(4, 0.975) = 2.776445
    assert found.mean == 3
    assert found.half_width == pytest.approx(2.776445 * math.sqrt(2.5 / 5), rel=1e-6)


def test_one_seed_has_no_interval() -> None:
    assert estimate([0.5]) == Estimate(0.5, 1, None)
    assert estimate([0.5]).half_width is None


def test_no_seed_has_no_estimate() -> None:
    with pytest.raises(ValueError, match="at least one seed"):
        estimate([])


def test_equal_values_have_no_interval_whatever_rounding_does() -> None:
    found = estimate([0.1 + 0.2, 0.3, 0.3])
    assert found.mean == pytest.approx(0.3)
    assert found.interval is None


def test_differences_pair_by_seed_and_leave_out_what_only_one_arm_has() -> None:
    arms = {"a": {0: 0.5, 1: 0.7, 2: 0.6, 9: 0.0}, "b": {0: 0.6, 1: 0.8, 2: 0.7, 3: 1.0}}
    (found,) = differences(arms, "a")
    assert (found.arm, found.reference) == ("b", "a")
    assert found.estimate.num_seeds == 3
    assert found.estimate.mean == pytest.approx(0.1)


def test_an_arm_without_a_common_seed_is_left_out() -> None:
    assert differences({"a": {0: 1.0}, "b": {}, "c": {1: 1.0}}, "a") == []


def test_a_single_common_seed_claims_nothing() -> None:
    (found,) = differences({"a": {0: 0.1}, "b": {0: 0.9}}, "a")
    assert found.p_value is None
    assert found.claim(more_is_better=True) == "undecided"


def test_the_family_is_corrected_for_all_that_was_to_be_compared() -> None:
    base = {0: 0.0, 1: 0.0, 2: 0.0, 3: 0.0}
    near, far = {0: 0.3, 1: 0.1, 2: 0.2, 3: 0.15}, {0: 0.3, 1: 0.28, 2: 0.31, 3: 0.3}
    found = differences({"a": base, "near": near, "one": {0: 0.9}, "none": {}, "far": far}, "a")
    by_arm = {d.arm: d for d in found}
    assert by_arm.keys() == {"near", "one", "far"}
    assert by_arm["one"].adjusted_p is None
    assert by_arm["far"].adjusted_p == pytest.approx(4 * by_arm["far"].p_value)  # type: ignore[operator]
    assert by_arm["near"].adjusted_p == pytest.approx(3 * by_arm["near"].p_value)  # type: ignore[operator]


@pytest.mark.parametrize("change", [0.0, 1e-4, 0.25])
def test_the_same_difference_with_every_seed_is_no_evidence(change: float) -> None:
    """1e-4 is so small beside the accuracies that their rounding alone would be a spread."""
    base = {0: 0.9, 1: 0.7, 2: 0.6, 3: 0.1}
    (found,) = differences({"a": base, "b": {s: v + change for s, v in base.items()}}, "a")
    assert found.estimate.mean == pytest.approx(change)
    assert (found.p_value, found.adjusted_p, found.estimate.interval) == (None, None, None)
    assert found.claim(more_is_better=True) == "undecided"


def test_the_same_difference_of_counts_is_a_fact() -> None:
    arms = {"a": {0: 90.0, 1: 80.0}, "b": {0: 100.0, 1: 90.0}, "c": {0: 90.0, 1: 80.0}}
    more, same = differences(arms, "a", counted=True)
    assert more.claim(more_is_better=False) == "worse"
    assert same.claim(more_is_better=False) == "undecided"


def test_a_fact_has_no_p_value_and_no_interval() -> None:
    arms = {"a": {0: 90.0, 1: 80.0}, "b": {0: 100.0, 1: 90.0}, "c": {0: 90.0, 1: 80.0}}
    for found in differences(arms, "a", counted=True):
        assert (found.p_value, found.adjusted_p, found.estimate.interval) == (None, None, None)


def test_one_seed_is_no_fact() -> None:
    (found,) = differences({"a": {0: 90.0}, "b": {0: 100.0}}, "a", counted=True)
    assert found.claim(more_is_better=False) == "undecided"


def test_what_is_better_depends_on_the_measure() -> None:
    lower = Difference("b", "a", estimate([-0.3, -0.31, -0.32]), 0.001, 0.002)
    assert lower.claim(more_is_better=True) == "worse"
    assert lower.claim(more_is_better=False) == "better"


@given(VALUES, st.data())
def test_p_values_and_intervals_are_those_of_scipy(one: list[float], data: st.DataObject) -> None:
    other = data.draw(st.lists(st.floats(-1, 1), min_size=len(one), max_size=len(one)))
    pairs = [x - y for x, y in zip(one, other, strict=True)]
    if max(pairs) - min(pairs) < 1e-6:
        return  # SciPy warns of lost digits there
    arms = {"a": dict(enumerate(other)), "b": dict(enumerate(one))}
    (found,) = differences(arms, "a")
    tested = scipy.stats.ttest_rel(one, other)
    bounds = tested.confidence_interval(0.95)
    assert found.p_value == pytest.approx(tested.pvalue, rel=1e-6)
    assert found.estimate.interval is not None
    assert found.estimate.interval.low == pytest.approx(bounds.low, abs=1e-9)
    assert found.estimate.interval.high == pytest.approx(bounds.high, abs=1e-9)


@given(VALUES)
def test_a_test_and_its_interval_tell_the_same_story(pairs: list[float]) -> None:
    (found,) = differences(
        {"a": dict.fromkeys(range(len(pairs)), 0.0), "b": dict(enumerate(pairs))}, "a"
    )
    if found.p_value is None:
        assert len(set(pairs)) == 1
    elif abs(found.p_value - 0.05) > 1e-6:
        assert found.estimate.interval is not None
        excludes = found.estimate.interval.low > 0 or found.estimate.interval.high < 0
        assert excludes is (found.p_value < 0.05)
