"""Manifests: what is planned, that it comes round, and that it survives JSON."""

import dataclasses
import hashlib
import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehearsal.choice import Choice, Picked
from rehearsal.manifest import CURSOR_UNITS, Manifest, plan
from rehearsal.policies import POLICIES, Past


def past(*sizes, **extra):
    return [Past(f"p{i}", f"v{i}", size, i, **extra) for i, size in enumerate(sizes)]


def rows(choice):
    return [(choice.start + i) % choice.num_train for i in range(choice.count)]


def test_by_hand_over_three_updates():
    first = plan(past(10, 30), policy="uniform", budget=20)
    assert first.choices == (Choice("p0", "v0", 10, 0, 5), Choice("p1", "v1", 30, 0, 15))
    second = plan(past(10, 30, 20), policy="balanced", budget=21, cursors=first.cursors)
    assert [(c.period, c.start, c.count) for c in second.choices] == [
        ("p0", 5, 7),
        ("p1", 15, 7),
        ("p2", 0, 7),
    ]
    third = plan(past(10, 30, 20), policy="balanced", budget=3, cursors=second.cursors)
    assert [(c.period, c.start) for c in third.choices] == [("p0", 2), ("p1", 22), ("p2", 7)]
    assert third.num_examples == 3


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.sampled_from([name for name in POLICIES if name != "none"]),
    st.integers(1, 60),
)
def test_successive_windows_use_every_past_example_before_any_twice_over(sizes, policy, budget):
    periods = past(*sizes)
    seen = {one.period: [0] * one.num_train for one in periods}
    cursors = {}
    wanted = [one for one in periods if one.num_train]
    enough = budget >= len(wanted)
    for _ in range(max(sizes) if enough else max(sizes) * len(sizes) * 2):
        manifest = plan(periods, policy=policy, budget=budget, cursors=cursors)
        assert manifest.num_examples == min(budget, sum(sizes))
        for choice in manifest.choices:
            for row in rows(choice):
                seen[choice.period][row] += 1
        for counts in seen.values():
            assert not counts or max(counts) - min(counts) <= 1
        cursors = manifest.cursors
    if enough or policy == "balanced":
        assert all(min(counts) >= 1 for counts in seen.values() if counts)


@settings(deadline=None)
@given(st.integers(1, CURSOR_UNITS), st.data())
def test_a_cursor_names_its_row_exactly(num_train, data):
    start = data.draw(st.integers(0, num_train - 1))
    count = data.draw(st.integers(1, min(num_train, 1000)))
    rounds = data.draw(st.integers(0, 1000))
    cursors = {"p0": rounds * CURSOR_UNITS + -(-start * CURSOR_UNITS // num_train)}
    manifest = plan(past(num_train), policy="uniform", budget=count, cursors=cursors)
    assert manifest.choices[0].start == start
    later = plan(past(num_train), policy="uniform", budget=1, cursors=manifest.cursors)
    assert later.choices[0].start == (start + count) % num_train


def test_a_cursor_keeps_its_place_when_the_dataset_version_grows_or_shrinks():
    first = plan(past(1000), policy="uniform", budget=250)
    grown = plan(past(2000), policy="uniform", budget=10, cursors=first.cursors)
    shrunk = plan(past(999), policy="uniform", budget=10, cursors=first.cursors)
    assert grown.choices[0].start == 500
    assert shrunk.choices[0].start == math.floor(0.25 * 999)
    one = plan(past(1), policy="uniform", budget=10, cursors=first.cursors)
    assert one.choices == (Choice("p0", "v0", 1, 0, 1),)


def test_cursors_of_periods_not_sampled_now_are_carried_along():
    first = plan(past(10, 10), policy="uniform", budget=6)
    none = plan(past(10, 10), policy="none", budget=6, cursors=first.cursors)
    assert none.choices == ()
    assert none.cursors == first.cursors
    only = plan(past(10), policy="uniform", budget=2, cursors=first.cursors)
    assert only.cursors["p1"] == first.cursors["p1"]


def test_a_small_period_is_not_left_out_while_there_is_one_example_for_each():
    counts = [c.count for c in plan(past(1, 10_000, 10_000), policy="uniform", budget=10).choices]
    assert counts == [1, 4, 5] or counts == [1, 5, 4]
    assert sum(counts) == 10


def test_with_less_than_one_each_the_periods_take_turns():
    cursors, seen = {}, set()
    for _ in range(5):
        manifest = plan(past(*[50] * 10), policy="balanced", budget=2, cursors=cursors)
        cursors = manifest.cursors
        seen |= {choice.period for choice in manifest.choices}
    assert len(seen) == 10


def test_a_new_period_does_not_have_to_catch_up_with_rounds_it_was_not_there_for():
    cursors = {}
    for _ in range(10):
        cursors = plan(past(4, 4), policy="balanced", budget=8, cursors=cursors).cursors
    seen = set()
    for _ in range(3):
        manifest = plan(past(4, 4, 4), policy="balanced", budget=1, cursors=cursors)
        cursors = manifest.cursors
        seen |= {choice.period for choice in manifest.choices}
    assert seen == {"p0", "p1", "p2"}


def test_the_order_of_the_past_does_not_matter():
    periods = past(7, 8, 9)
    assert plan(periods, policy="recent", budget=5) == plan(
        periods[::-1], policy="recent", budget=5
    )


def test_forgetting_shows_more_of_what_fell():
    periods = [
        Past("fell", "v", 100, 0, accuracy=0.5, best_accuracy=0.9),
        Past("held", "v", 100, 1, accuracy=0.9, best_accuracy=0.9),
    ]
    # Weights 0.45 and 0.05.
    manifest = plan(periods, policy="forgetting", budget=50)
    assert [choice.count for choice in manifest.choices] == [45, 5]


def test_json_and_digest():
    manifest = plan(past(10, 30), policy="uniform", budget=20)
    text = manifest.to_json()
    assert Manifest.from_json(text) == manifest
    assert json.loads(text)["policy"] == "uniform"
    assert manifest.digest == hashlib.sha256(text.encode()).hexdigest()
    respaced = json.dumps(json.loads(text), indent=2)
    assert Manifest.from_json(respaced).digest == manifest.digest
    assert dataclasses.replace(manifest, budget=21).digest != manifest.digest


@pytest.mark.parametrize(
    "change",
    [
        lambda plain: plain.pop("budget"),
        lambda plain: plain.update(extra=1),
        lambda plain: plain.update(budget="20"),
        lambda plain: plain.update(choices=3),
        lambda plain: plain.update(cursors=[]),
        lambda plain: plain["choices"][0].pop("start"),
        lambda plain: plain["choices"][0].update(count=True),
        lambda plain: plain["choices"][0].update(count=11),
        lambda plain: plain["choices"][0].update(start=10),
        lambda plain: plain.update(cursors={"p0": "x"}),
    ],
)
def test_from_json_refuses_what_is_not_a_manifest(change):
    plain = json.loads(plan(past(10, 30), policy="uniform", budget=20).to_json())
    change(plain)
    with pytest.raises(ValueError, match=r"manifest|choice|invalid literal"):
        Manifest.from_json(json.dumps(plain))


def test_from_json_refuses_what_is_not_json():
    for text in ("", "[1]", "{"):
        with pytest.raises(ValueError, match=r"."):
            Manifest.from_json(text)


@pytest.mark.parametrize(
    ("periods", "policy", "budget", "cursors", "message"),
    [
        (past(10), "newest", 1, {}, "must be one of none, uniform"),
        (past(10), "uniform", -1, {}, "total is -1"),
        (past(-1), "balanced", 1, {}, "capacity of 'p0'"),
        ([*past(10), *past(10)], "uniform", 1, {}, "twice"),
        (past(10), "uniform", 1, {"p0": -1}, "cursor of 'p0'"),
    ],
)
def test_plan_refuses(periods, policy, budget, cursors, message):
    with pytest.raises(ValueError, match=message):
        plan(periods, policy=policy, budget=budget, cursors=cursors)


def test_the_first_part_by_hand():
    whole = plan(past(10, 30), policy="uniform", budget=20, cursors={"p1": 2 * CURSOR_UNITS})
    part = whole.first(8)
    assert part.choices == (Choice("p0", "v0", 10, 0, 2), Choice("p1", "v1", 30, 0, 6))
    assert (part.budget, part.policy) == (8, "uniform")
    again = plan(past(10, 30), policy="uniform", budget=4, cursors=part.cursors)
    assert [(c.start, c.count) for c in again.choices] == [(2, 1), (6, 3)]
    assert whole.first(20) is whole
    assert whole.first(0).choices == ()
    assert (
        whole.first(0).cursors
        == plan(past(10, 30), policy="uniform", budget=0, cursors={"p1": 2 * CURSOR_UNITS}).cursors
    )


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=6),
    st.sampled_from([name for name in POLICIES if name != "none"]),
    st.lists(st.integers(0, 60), min_size=1, max_size=4),
    st.integers(0, 60),
)
def test_a_first_part_goes_on_where_the_windows_before_it_ended(sizes, policy, before, budget):
    periods, cursors = past(*sizes), {}
    for earlier in before:
        cursors = plan(periods, policy=policy, budget=earlier, cursors=cursors).cursors
    whole = plan(periods, policy=policy, budget=60, cursors=cursors)
    part = whole.first(budget)
    assert part.num_examples == min(budget, whole.num_examples)
    windows = {choice.period: choice for choice in whole.choices}
    for choice in part.choices:
        assert rows(choice) == rows(windows[choice.period])[: choice.count]
    after = plan(periods, policy=policy, budget=60, cursors=part.cursors)
    starts = {choice.period: choice.start for choice in after.choices}
    for period, choice in windows.items():
        kept = next((c.count for c in part.choices if c.period == period), 0)
        assert starts[period] == (choice.start + kept) % choice.num_train
    assert part.first(60) is part
    assert Manifest.from_json(part.to_json()) == part


def test_the_first_part_of_picked_rows_is_in_hash_order_and_moves_no_cursor():
    some = Picked.of(past(10)[0], [1, 2, 3, 7, 9])
    whole = Manifest("hard", 6, (some, Choice("p1", "v1", 30, 4, 5)), {"p0": 3, "*dealt": 7})
    part = whole.first(4)
    assert [choice.rows.tolist() for choice in part.choices] == [[1, 2], [4, 5]]
    assert some.first(4).runs == ((1, 3), (7, 1))
    assert part.cursors == whole.cursors
