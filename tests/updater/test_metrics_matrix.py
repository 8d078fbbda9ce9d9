"""Score-matrix metrics and flips, worked by hand."""

import pytest

from updater import metrics
from updater.metrics import Answer, Chain

# v1 learns jan and feb; v2 learns mar; v3 learns apr. Percentages made fractions by hand.
CHAIN = Chain(
    versions=("1", "2", "3"),
    periods=("jan", "feb", "mar", "apr", "may"),
    accuracy=(
        (0.90, 0.80, 0.10, 0.00, 0.00),
        (0.92, 0.70, 0.85, 0.05, 0.00),
        (0.88, 0.75, 0.80, 0.90, 0.01),
    ),
    learnt_at=(0, 0, 1, 2, None),
)


def without(version: int, period: int) -> Chain:
    rows = [list(row) for row in CHAIN.accuracy]
    rows[version][period] = None
    return Chain(CHAIN.versions, CHAIN.periods, tuple(tuple(row) for row in rows), CHAIN.learnt_at)


def test_average_and_worst_are_over_the_learnt_periods():
    assert metrics.average(CHAIN) == pytest.approx((0.88 + 0.75 + 0.80 + 0.90) / 4)
    assert metrics.worst(CHAIN) == ("feb", 0.75)
    assert metrics.worst(Chain(("1",), ("jan",), ((None,),), (0,))) is None


def test_forgetting_is_best_so_far_minus_present():
    assert metrics.forgetting(CHAIN) == pytest.approx(
        {"jan": 0.92 - 0.88, "feb": 0.80 - 0.75, "mar": 0.85 - 0.80}
    )
    assert metrics.average_forgetting(CHAIN) == pytest.approx((0.04 + 0.05 + 0.05) / 3)


def test_backward_transfer_compares_with_the_version_that_learnt_the_period():
    expected = ((0.88 - 0.90) + (0.75 - 0.80) + (0.80 - 0.85)) / 3
    assert metrics.backward_transfer(CHAIN) == pytest.approx(expected)


def test_forward_transfer_looks_at_the_version_before():
    assert metrics.forward_transfer(CHAIN) == pytest.approx((0.10 + 0.05) / 2)


def test_the_matrix_of_lopez_paz_and_ranzato():
    """Three tasks, one a row, equations 2 to 4 computed by hand: ACC = (0.7 + 0.8 + 0.9) / 3,
    BWT = ((0.7 - 0.9) + (0.8 - 0.9)) / 2, FWT = (0.3 + 0.2) / 2, where a model
    that has learnt nothing scores 0."""
    chain = Chain(
        ("1", "2", "3"),
        ("a", "b", "c"),
        ((0.9, 0.3, 0.1), (0.8, 0.9, 0.2), (0.7, 0.8, 0.9)),
        (0, 1, 2),
    )
    assert metrics.average(chain) == pytest.approx(0.8)
    assert metrics.backward_transfer(chain) == pytest.approx(-0.15)
    assert metrics.forward_transfer(chain) == pytest.approx(0.25)


def test_a_missing_score_makes_what_needs_it_none_and_nothing_else():
    gone = without(2, 0)
    assert metrics.average(gone) is None
    assert metrics.backward_transfer(gone) is None
    assert metrics.average_forgetting(gone) is None
    assert metrics.forgetting(gone)["jan"] is None
    assert metrics.forgetting(gone)["feb"] == pytest.approx(0.05)
    assert metrics.worst(gone) == ("feb", 0.75)
    earlier = without(1, 0)
    assert metrics.forgetting(earlier)["jan"] == pytest.approx(0.02)
    assert metrics.average(earlier) == metrics.average(CHAIN)


def test_a_first_model_has_nothing_to_forget():
    first = Chain(("1",), ("jan",), ((0.9,),), (0,))
    assert metrics.average(first) == 0.9
    assert metrics.forgetting(first) == {}
    assert metrics.average_forgetting(first) is None
    assert metrics.backward_transfer(first) is None
    assert metrics.forward_transfer(first) is None


def test_shapes_are_checked():
    for bad in (
        lambda: Chain((), (), (), ()),
        lambda: Chain(("1",), ("a",), ((0.1, 0.2),), (0,)),
        lambda: Chain(("1",), ("a",), ((0.1,),), ()),
        lambda: Chain(("1",), ("a",), ((0.1,),), (1,)),
    ):
        with pytest.raises(ValueError, match="must"):
            bad()


EXAMPLES = {name: (f"{name}?", f" {name}!") for name in "abcd"}
BEFORE = [Answer("a", True, "A"), Answer("b", True, "B"), Answer("c", False, "x")]
AFTER = [Answer("c", True, "C"), Answer("b", False, "y"), Answer("a", True, "A")]


def test_flips_list_both_directions_with_what_was_said():
    found = metrics.flips(BEFORE, AFTER, EXAMPLES, period="jan")
    (negative,) = found.negative
    assert negative == metrics.Flip("jan", "b", "b?", " b!", "B", "y")
    (positive,) = found.positive
    assert (positive.id, positive.reference_predicted, positive.candidate_predicted) == (
        "c",
        "x",
        "C",
    )


def test_flips_refuse_what_cannot_be_joined():
    with pytest.raises(ValueError, match="same examples"):
        metrics.flips(BEFORE, AFTER[:2], EXAMPLES, period="jan")
    with pytest.raises(ValueError, match="twice"):
        metrics.flips([*BEFORE, BEFORE[0]], AFTER, EXAMPLES, period="jan")
    with pytest.raises(ValueError, match="'b' is not in it"):
        metrics.flips(BEFORE, AFTER, {"a": ("", "")}, period="jan")
