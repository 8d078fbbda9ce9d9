"""What is tried next, how a trial is scored, and who wins."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from updater import trials
from updater.errors import InputError
from updater.trials import Trial, next_values, score, winner

RANGES = {"strength": (1e2, 1e6), "learning_rate": (1e-4, 1e-2), "rehearsal_fraction": (0.0, 0.5)}
CONFIGURED = {"strength": 1e4, "learning_rate": 1e-3, "rehearsal_fraction": 0.1}


def hill(values: Mapping[str, float]) -> float:
    """Best, at 1, for a learning rate of 10^-3.5 and a strength of 10^5."""
    wrong = abs(math.log10(values["learning_rate"]) + 3.5) / 2
    return 1 - wrong - abs(math.log10(values["strength"]) - 5) / 8


def searched(num: int, *, earlier=(), seed: int = 0, level: float = 0.0) -> list[Trial]:
    tried: list[Trial] = []
    for _ in range(num):
        values = next_values(RANGES, tried, configured=CONFIGURED, earlier=earlier, seed=seed)
        tried.append(Trial(values, score=hill(values) + level))
    return tried


def test_the_score_by_hand() -> None:
    assert score(0.8, 0.6, base_past=0.6, margin=0.02) == pytest.approx(0.7)
    assert score(0.8, 0.59, base_past=0.6, margin=0.02) == pytest.approx(0.695)  # within the margin
    assert score(0.8, 0.5, base_past=0.6, margin=0.02) == pytest.approx(0.65 - 0.08)
    assert score(0.8, None, base_past=None, margin=0.02) == 0.8


@given(st.floats(0, 1), st.floats(0.2, 0.9), st.floats(0, 0.1))
def test_beyond_the_margin_a_point_of_the_past_is_worth_three(new, base_past, lost) -> None:
    edge = score(new, base_past - 0.02, base_past=base_past, margin=0.02)
    below = score(new, base_past - 0.02 - lost, base_past=base_past, margin=0.02)
    paid = score(new + 3 * lost, base_past - 0.02 - lost, base_past=base_past, margin=0.02)
    assert below <= edge + 1e-12
    assert paid == pytest.approx(edge)


def test_the_winner_is_the_first_of_the_best_and_never_one_that_diverged() -> None:
    tried = [Trial({}, score=-0.2), Trial({}, error="diverged"), Trial({}, score=-0.1, new=0.5)]
    assert winner([*tried, Trial({}, score=-0.1, new=0.6)]) is tried[2]
    assert winner(tried[1:2]) is None


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**31 - 2), st.lists(st.sampled_from([0.1, 0.5, None]), max_size=6))
def test_whatever_came_before_the_next_values_are_in_the_ranges_and_certain(seed, scores) -> None:
    tried: list[Trial] = []
    for found in [*scores, 0.0]:
        values = next_values(RANGES, tried, configured=CONFIGURED, earlier=(), seed=seed)
        assert values == next_values(RANGES, tried, configured=CONFIGURED, earlier=(), seed=seed)
        assert all(low <= values[n] <= high for n, (low, high) in RANGES.items())
        tried.append(Trial(values, score=found))
    assert tried[0].values == CONFIGURED


def test_the_order_of_the_ranges_is_nothing() -> None:
    tried = [Trial(CONFIGURED, score=0.5)]
    turned = dict(reversed(RANGES.items()))
    one = next_values(RANGES, tried, configured=CONFIGURED, earlier=(), seed=0)
    other = next_values(turned, tried, configured=CONFIGURED, earlier=(), seed=0)
    assert list(one.items()) == list(other.items())


def test_only_what_has_a_range_is_searched() -> None:
    ranges = {"learning_rate": (1e-4, 1e-2)}
    tried = [Trial({"learning_rate": 1e-3}, score=0.5)]
    assert set(next_values(ranges, tried, configured=CONFIGURED, earlier=(), seed=0)) == set(ranges)


def test_earlier_trials_are_used() -> None:
    """20 seeds, 4 trials each: the mean best without and with 12 earlier trials, whose level is
    another. Seeds are fixed, so nothing here is left to chance."""
    cold, warm = [], []
    for seed in range(20):
        before = searched(12, seed=1000 + seed, level=-0.4)
        best = winner(before)
        assert best is not None
        tried = searched(4, earlier=[before], seed=seed)
        assert tried[0].values == CONFIGURED
        assert tried[1].values == best.values
        warm.append(max(hill(trial.values) for trial in tried[2:]))
        cold.append(max(hill(trial.values) for trial in searched(4, seed=seed)[2:]))
    assert sum(warm) / 20 > sum(cold) / 20 + 0.1


def test_what_an_earlier_update_took_is_not_tried_outside_the_ranges() -> None:
    outside = Trial({**CONFIGURED, "strength": 1e7}, score=0.9)
    other = Trial({"strength": 1e3}, score=0.9)
    same = Trial(CONFIGURED, score=0.9)
    first = [Trial(CONFIGURED, score=0.5)]
    plain = next_values(RANGES, first, configured=CONFIGURED, earlier=(), seed=3)
    for earlier in (outside, other):
        found = next_values(RANGES, first, configured=CONFIGURED, earlier=[[earlier]], seed=3)
        assert found == plain
    assert next_values(RANGES, first, configured=CONFIGURED, earlier=[[same]], seed=3) != CONFIGURED


def test_without_optuna_a_search_is_refused_and_none_is_not(monkeypatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    trials.check(0)
    with pytest.raises(InputError, match="needs Optuna"):
        trials.check(1)
