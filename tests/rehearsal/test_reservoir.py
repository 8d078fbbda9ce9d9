"""The reservoir is what Algorithm R makes: a uniform sample of all the past, kept over updates."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rehearsal import window
from rehearsal.choose import choose
from rehearsal.request import Request


def buffer(past, budget, locate):
    manifest = choose(past, Request("reservoir", budget), locate=locate)
    return window.load(manifest, locate)["id"].to_pylist()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=4), st.integers(0, 50))
def test_the_buffer_has_the_least_keys_and_only_loses_to_newer_periods(lay_past, sizes, budget):
    past, locate = lay_past(sizes)
    whole = [window.columns(one, locate, ["key", "id"]).to_pylist() for one in past]
    everything = sorted((row["key"], row["id"]) for rows in whole for row in rows)
    assert sorted(buffer(past, budget, locate)) == sorted(i for _, i in everything[:budget])
    before = set(buffer(past[:-1], budget, locate))
    came = set(buffer(past, budget, locate)) - before
    assert all(one.startswith(past[-1].period) for one in came)


def algorithm_r(num_examples, size, random):
    """Vitter 1985: which of 0 .. num_examples - 1 are in the reservoir at the end."""
    held = list(range(size))
    for place in range(size, num_examples):
        slot = random.integers(place + 1)
        if slot < size:
            held[slot] = place
    return held


SIZES, BUDGET, TRIALS, ALARM = (10, 25, 5), 10, 400, 1e-6


@pytest.fixture(scope="module")
def counts(lay_past):
    """How often each of the 40 examples was held, ours over salts, Algorithm R's over seeds."""
    total, ours, theirs = sum(SIZES), np.zeros(sum(SIZES)), np.zeros(sum(SIZES))
    firsts = np.cumsum((0, *SIZES))
    random = np.random.default_rng(0)
    for salt in range(TRIALS):
        past, locate = lay_past(SIZES, salt=str(salt))
        for one in buffer(past, BUDGET, locate):
            period, number = one[1:].split(":")
            ours[firsts[int(period)] + int(number)] += 1
        theirs[algorithm_r(total, BUDGET, random)] += 1
    return ours, theirs


def chi_square(counted, expected, inclusion):
    """Of inclusions of a sample of fixed size, n - 1 degrees of freedom (as in test_window)."""
    num = len(counted)
    spread = TRIALS * inclusion * (1 - inclusion)
    return ((counted - expected) ** 2).sum() / spread * (num - 1) / num


def test_every_position_of_the_stream_is_as_likely_as_under_algorithm_r(counts):
    """40 examples, 10 held, 400 salts (and 400 seeds), each held with p = 1/4.

    Each test has a false alarm, over the choice of salts, in 1 of 10^6: ours against 1/4, Algorithm
    R's against 1/4, and ours against Algorithm R's (a difference of independent counts has twice
    the variance). The salts are fixed, so the test is repeatable. Last, that it would see the
    published off-by-one that keeps the first half of the stream with 0.209 in place of 0.25.
    """
    ours, theirs = counts
    inclusion = BUDGET / sum(SIZES)
    critical = stats.chi2.isf(ALARM, sum(SIZES) - 1)
    mean = np.full(sum(SIZES), TRIALS * inclusion)
    assert chi_square(ours, mean, inclusion) < critical
    assert chi_square(theirs, mean, inclusion) < critical
    assert chi_square(ours, theirs, inclusion) / 2 < critical
    biased = mean.copy()
    biased[:20] *= 0.209 / 0.25
    biased[20:] += (mean - biased)[:20].sum() / 20
    assert chi_square(biased, mean, inclusion) > critical
