"""Quotas: exact integers that add up, checked as properties and by hand."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehearsal.quota import split

NAMES = st.lists(st.text("abcdefgh", min_size=1, max_size=3), unique=True, max_size=12)
WEIGHTS = st.one_of(
    st.just(0.0),
    st.floats(min_value=1e-300, max_value=1e300),
    st.integers(0, 5).map(float),
)


@st.composite
def problems(draw: st.DrawFn) -> tuple[int, dict[str, float], dict[str, int]]:
    names = draw(NAMES)
    weights = {name: draw(WEIGHTS) for name in names}
    capacities = {name: draw(st.integers(0, 200)) for name in names}
    return draw(st.integers(0, 1500)), weights, capacities


@settings(deadline=None)
@given(problems())
def test_adds_up_and_stays_within_capacity(problem):
    total, weights, capacities = problem
    counts = split(total, weights, capacities)
    assert list(counts) == list(weights)
    assert all(type(count) is int and 0 <= count <= capacities[n] for n, count in counts.items())
    assert all(counts[name] == 0 for name, weight in weights.items() if weight == 0)
    open_capacity = sum(capacities[name] for name, weight in weights.items() if weight > 0)
    assert sum(counts.values()) == min(total, open_capacity)


@settings(deadline=None)
@given(problems())
def test_names_below_capacity_are_within_one_of_one_common_rate(problem):
    """Water-filling: there is a rate r with count within 1 of min(r * weight, capacity)."""
    total, weights, capacities = problem
    counts = split(total, weights, capacities)
    exact = {name: Fraction(weight) for name, weight in weights.items() if weight > 0}
    below = [name for name in exact if counts[name] < capacities[name]]
    # Each pair's count brackets the rate: no name may lag while another is a whole unit ahead.
    for lagging in below:
        for ahead in exact:
            if counts[ahead]:
                least_rate = Fraction(counts[ahead] - 1) / exact[ahead]
                assert least_rate <= Fraction(counts[lagging] + 1) / exact[lagging]


@settings(deadline=None)
@given(st.integers(0, 500), st.lists(st.integers(1, 100), min_size=1, max_size=8))
def test_no_further_than_one_from_the_exact_share_when_nothing_is_full(total, sizes):
    weights = {str(i): float(size) for i, size in enumerate(sizes)}
    counts = split(total, weights, dict.fromkeys(weights, total + 1))
    for name, count in counts.items():
        assert abs(count - Fraction(total) * int(weights[name]) / sum(sizes)) < 1


def test_by_hand():
    # Shares 4.5, 3.0, 1.5: the floors leave one; of the equal remainders the first wins.
    assert split(9, {"a": 3, "b": 2, "c": 1}, {"a": 9, "b": 9, "c": 9}) == {"a": 5, "b": 3, "c": 1}
    assert split(9, {"c": 1, "b": 2, "a": 3}, {"a": 9, "b": 9, "c": 9}) == {"c": 2, "b": 3, "a": 4}
    # b can give 2 of its 5; its other 3 go to a and c, 1 : 1.
    assert split(10, {"a": 1, "b": 2, "c": 1}, {"a": 9, "b": 2, "c": 9}) == {"a": 4, "b": 2, "c": 4}
    # Filling b lifts a's share from 5 to 6, over its capacity too: c takes what is left.
    assert split(12, {"a": 5, "b": 6, "c": 1}, {"a": 5, "b": 3, "c": 9}) == {"a": 5, "b": 3, "c": 4}
    assert split(5, {}, {}) == {}


@pytest.mark.parametrize(
    ("total", "weights", "capacities", "message"),
    [
        (-1, {}, {}, "total is -1"),
        (1, {"a": 1.0}, {}, "same names"),
        (1, {"a": -1.0}, {"a": 1}, "weight of 'a'"),
        (1, {"a": float("nan")}, {"a": 1}, "weight of 'a'"),
        (1, {"a": float("inf")}, {"a": 1}, "weight of 'a'"),
        (1, {"a": 1.0}, {"a": -1}, "capacity of 'a'"),
    ],
)
def test_refuses(total, weights, capacities, message):
    with pytest.raises(ValueError, match=message):
        split(total, weights, capacities)
