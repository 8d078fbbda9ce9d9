"""What holds of every policy: budgets, no example twice, the same again, and JSON."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehearsal import window
from rehearsal.choose import POLICIES, choose
from rehearsal.manifest import CURSOR_UNITS, Manifest, plan
from rehearsal.policies import Past
from rehearsal.request import STRATA, Request
from updater import settings as updater_settings


def test_settings_name_exactly_these():
    assert set(updater_settings.POLICIES) == set(POLICIES)
    ours = updater_settings.RehearsalSettings(policy="hard", budget=8)
    assert ours.request(5, cursors={"a": 1}, seed=3) == Request("hard", 5, {"a": 1}, seed=3)


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None, max_examples=25)
@given(
    sizes=st.lists(st.integers(0, 40), max_size=4),
    budget=st.integers(0, 60),
    strata=st.sampled_from(STRATA),
    seed=st.integers(0, 9),
)
def test_budgets_add_up_without_an_example_twice_update_after_update(
    lay_past, scorer, policy, sizes, budget, strata, seed
):
    past, locate = lay_past(sizes)
    cursors = {}
    for _ in range(2):
        request = Request(policy, budget, cursors, strata=strata, seed=seed)
        manifest = choose(past, request, locate=locate, score=scorer)
        assert manifest == choose(past[::-1], request, locate=locate, score=scorer)
        assert Manifest.from_json(manifest.to_json()) == manifest
        table = window.load(manifest, locate)
        assert len(set(table["id"].to_pylist())) == table.num_rows == manifest.num_examples
        expected = 0 if policy == "none" else min(budget, sum(sizes))
        if policy in ("hard", "surprise"):  # some can't be asked
            assert manifest.num_examples <= expected
            assert not [one for one in table["id"].to_pylist() if one.endswith("7")]
        else:
            assert manifest.num_examples == expected
        cursors = manifest.cursors


@pytest.mark.parametrize("policy", ["hard", "surprise"])
def test_what_can_be_asked_fills_the_budget_from_a_pool_that_is_large_enough(
    lay_past, scorer, policy
):
    past, locate = lay_past([60, 60])
    manifest = choose(past, Request(policy, 20), locate=locate, score=scorer)
    assert manifest.num_examples == 20


def test_policies_of_windows_open_no_file_and_ask_no_model():
    past = [Past("a", "v", 100, 0)]
    for policy in ("none", "uniform", "balanced", "recent", "forgetting"):
        chosen = choose(past, Request(policy, 10), locate=lambda version: pytest.fail("opened"))
        assert chosen == plan(past, policy=policy, budget=10)


def test_cursors_go_from_policy_to_policy(lay_past, scorer):
    past, locate = lay_past([40, 40])
    cursors = plan(past, policy="uniform", budget=20).cursors
    for policy in POLICIES:
        manifest = choose(past, Request(policy, 10, cursors), locate=locate, score=scorer)
        assert all(manifest.cursors[name] >= cursors[name] for name in cursors)
        cursors = manifest.cursors
    # A window of 20, one of 10 each by the four policies of windows but none, and two pools of 40.
    rows = (cursors["p0"] + cursors["p1"]) * 40 / CURSOR_UNITS
    assert round(rows) == 20 + 4 * 10 + 2 * 40


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"policy": "newest"}, "must be one of none, uniform"),
        ({"budget": -1}, "budget is -1"),
        ({"pool_factor": 1}, "pool_factor is 1: must be at least 2"),
        ({"seed": -1}, "seed is -1"),
        ({"strata": "colour"}, "must be one of completion, period, subject, stratum"),
        ({"cursors": {"a": -1}}, "cursor of 'a'"),
    ],
)
@pytest.mark.parametrize("policy", ["uniform", "reservoir", "class_balanced", "surprise"])
def test_refuses(policy, change, message):
    with pytest.raises(ValueError, match=message):
        choose([], Request(**({"policy": policy, "budget": 1} | change)), locate=pytest.fail)


@pytest.mark.parametrize("policy", POLICIES)
def test_refuses_a_period_given_twice(policy):
    twice = [Past("a", "v", 10, 0)] * 2
    with pytest.raises(ValueError, match="twice"):
        choose(twice, Request(policy, 1), locate=pytest.fail)
