"""Intervals and tests against published numbers, scipy, and simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from updater import statistics
from updater.statistics import PairedCounts

# candidate only, reference only, examples, confidence, low, high
PUBLISHED_PAIRED = [
    (9, 3, 32, 0.95, -0.027, 0.390),  # as in the tests of the R package ratesci
    (0, 1, 44, 0.90, -0.096, 0.037),  # Tango (1998), the contact-lens crossover trial
    (6, 16, 161, 0.95, -0.124, -0.0054),  # Fagerland et al. (2017), chapter 8, Cavo data
    (1, 7, 21, 0.95, -0.517, -0.026),  # the same, airway data of Bentur
    (3, 0, 3, 0.95, -0.123, 1.0),  # R package contingencytables, all pairs on one side
    (0, 3, 3, 0.95, -1.0, 0.123),
]


@pytest.mark.parametrize(("b", "c", "n", "confidence", "low", "high"), PUBLISHED_PAIRED)
def test_tango_interval_matches_published_values(b, c, n, confidence, low, high):
    found = statistics.interval(PairedCounts(b, c, n), confidence)
    assert found.low == pytest.approx(low, abs=5.1e-4)
    assert found.high == pytest.approx(high, abs=5.1e-4)


def test_wilson_matches_published_values_and_scipy():
    found = statistics.wilson(13, 16)  # Fagerland et al. (2017), chapter 2
    assert (found.low, found.high) == pytest.approx((0.5699, 0.9341), abs=5e-5)
    for right, n in [(0, 1), (0, 20), (1, 29), (15, 148), (81, 263), (20, 20), (749, 750)]:
        expected = stats.binomtest(right, n).proportion_ci(0.9, method="wilson")
        found = statistics.wilson(right, n, 0.9)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert statistics.wilson(0, 9).low == 0.0
    assert statistics.wilson(9, 9).high == 1.0


def paired_z_by_maximum_likelihood(b: int, c: int, n: int, delta: float) -> float:
    """Tango's z from its definition: the trinomial likelihood under b_p - c_p = delta maximised
    numerically, then (d - delta) over the standard error at that maximum."""
    least, most = max(0.0, -delta), (1 - delta) / 2

    def loss(reference_only: float) -> float:
        cells = (reference_only + delta, reference_only, 1 - delta - 2 * reference_only)
        return -float(
            np.sum([stats_xlogy(k, p) for k, p in zip((b, c, n - b - c), cells, strict=True)])
        )

    found = optimize.minimize_scalar(
        loss, bounds=(least, most), method="bounded", options={"xatol": 1e-13}
    ).x
    variance = (2 * found + delta - delta * delta) / n
    return ((b - c) / n - delta) / math.sqrt(variance)


def stats_xlogy(k: int, p: float) -> float:
    return 0.0 if k == 0 else k * math.log(max(p, 1e-300))


@pytest.mark.parametrize("delta", [-0.4, -0.1, -0.02, 0.03, 0.25])
@pytest.mark.parametrize(("b", "c", "n"), [(9, 3, 32), (1, 7, 21), (40, 20, 160), (5, 5, 11)])
def test_tango_statistic_is_that_of_a_numerical_constrained_fit(b, c, n, delta):
    expected = paired_z_by_maximum_likelihood(b, c, n, delta)
    assert PairedCounts(b, c, n).z(delta) == pytest.approx(expected, abs=1e-5)


def test_at_zero_it_is_mcnemars_test():
    assert PairedCounts(25, 10, 100).z(0) == pytest.approx(15 / math.sqrt(35))


@given(st.integers(1, 60), st.data())
def test_bounds_and_p_values_tell_the_same_story(n, data):
    b = data.draw(st.integers(0, n))
    c = data.draw(st.integers(0, n - b))
    counts = PairedCounts(b, c, n)
    for error in (0.3, 0.05, 0.001):
        low = statistics.lower_bound(counts, error)
        high = statistics.upper_bound(counts, error)
        assert -1 <= low <= counts.difference + 1e-9
        assert counts.difference - 1e-9 <= high <= 1
        if low > -1:
            assert statistics.p_above(counts, low) == pytest.approx(error, abs=1e-6)
        if high < 1:
            assert statistics.p_below(counts, high) == pytest.approx(error, abs=1e-6)
        mirrored = PairedCounts(c, b, n)
        assert statistics.upper_bound(mirrored, error) == pytest.approx(-low, abs=1e-9)


def test_extreme_cells_give_finite_bounds_that_shrink_with_the_number_of_examples():
    # No discordant pair: z^2 = n delta / (1 - delta), so the bound is z^2 / (n + z^2).
    z = stats.norm.isf(0.05)
    for n in (1, 10, 1000):
        same = PairedCounts(0, 0, n)
        assert statistics.upper_bound(same, 0.05) == pytest.approx(z * z / (n + z * z), abs=1e-9)
        assert statistics.p_above(same, 0) == 0.5
        assert statistics.interval(PairedCounts(n, 0, n)).high == 1.0
        assert statistics.interval(PairedCounts(0, n, n)).low == -1.0


def test_every_small_table_has_a_statistic_that_falls_with_the_hypothesis():
    hypotheses = [k / 20 for k in range(-20, 21)]
    for n in range(1, 11):
        for b in range(n + 1):
            for c in range(n - b + 1):
                zs = [PairedCounts(b, c, n).z(delta) for delta in hypotheses]
                assert all(x >= y - 1e-9 for x, y in itertools.pairwise(zs))


@pytest.mark.parametrize(
    ("candidate_only", "reference_only"), [(0.02, 0.05), (0.10, 0.12), (0.004, 0.024)]
)
def test_coverage_of_the_paired_bounds(candidate_only, reference_only):
    """The lower bound exceeds the truth in about 5 % of samples of 400.

    Exact here, not simulated: every table's multinomial probability is summed, so there is no
    false alarm. Score bounds are approximate: 0.025..0.075 is our demand, chosen by measurement.
    """
    n, truth = 400, candidate_only - reference_only
    missed_low = missed_high = 0.0
    for b in range(90):
        for c in range(100):
            weight = stats.multinomial.pmf(
                [b, c, n - b - c],
                n,
                [candidate_only, reference_only, 1 - candidate_only - reference_only],
            )
            if weight > 1e-9:
                counts = PairedCounts(b, c, n)
                missed_low += weight * (statistics.p_above(counts, truth) < 0.05)
                missed_high += weight * (statistics.p_below(counts, truth) < 0.05)
    assert 0.025 < missed_low < 0.075
    assert 0.025 < missed_high < 0.075


def test_examples_factor_says_how_many_would_just_decide():
    counts = PairedCounts(15, 20, 750)
    factor = statistics.examples_factor(counts, -0.02, 0.05)
    assert factor is not None
    assert factor > 1
    many = math.ceil(factor * 750)
    for k, decides in ((many + 200, True), (many - 200, False)):
        scaled = PairedCounts(round(15 * k / 750), round(20 * k / 750), k)
        assert (statistics.p_above(scaled, -0.02) < 0.05) is decides
    assert statistics.examples_factor(PairedCounts(0, 0, 10), 0.0, 0.05) is None


def test_holm_matches_cases_worked_by_hand():
    # 5 x .01, 4 x .02, 3 x .03, then 2 x .04 and 1 x .05, raised to the largest before them.
    assert statistics.holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx(
        [0.05, 0.08, 0.09, 0.09, 0.09]
    )
    assert statistics.holm([0.04, 0.001, 0.9]) == pytest.approx([0.08, 0.003, 0.9])
    assert statistics.holm([0.7, 0.6]) == [1.0, 1.0]
    assert statistics.holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_levels_refuse_what_adjusted_p_values_refuse(p_values):
    adjusted = statistics.holm(p_values)
    levels = statistics.holm_levels(p_values, 0.05)
    for p, a, level in zip(p_values, adjusted, levels, strict=True):
        if abs(a - 0.05) > 1e-12:
            assert (p <= level) is (a <= 0.05)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: statistics.wilson(1, 0),
        lambda: statistics.wilson(3, 2),
        lambda: statistics.wilson(-1, 2),
        lambda: statistics.wilson(1, 2, 1.0),
        lambda: PairedCounts(2, 2, 3),
        lambda: PairedCounts(-1, 2, 3),
        lambda: statistics.lower_bound(PairedCounts(0, 0, 1), 0.0),
        lambda: statistics.interval(PairedCounts(0, 0, 1), 0.0),
    ],
)
def test_impossible_numbers_are_refused(bad):
    with pytest.raises(ValueError, match="must"):
        bad()
