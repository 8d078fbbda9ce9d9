"""Picked rows: as given, in one canonical form, and refused where they are none."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rehearsal import window
from rehearsal.choice import Choice, Picked, choice_of
from rehearsal.manifest import Manifest
from rehearsal.policies import Past

PAST = Past("p", "v", 10, 0)


@given(st.sets(st.integers(0, 9), min_size=1).flatmap(lambda rows: st.permutations(sorted(rows))))
def test_any_rows_come_back_sorted_and_equal_sets_are_equal(rows):
    picked = Picked.of(PAST, rows)
    assert picked.rows.tolist() == sorted(rows)
    assert picked.count == len(rows)
    assert picked == Picked.of(PAST, rows[::-1])
    assert len(picked.runs) == 1 + (np.diff(picked.rows) > 1).sum()
    manifest = Manifest("hard", 10, (picked,))
    assert Manifest.from_json(manifest.to_json()) == manifest


def test_the_text_of_windows_is_as_it_always_was():
    text = (
        '{"budget":3,"choices":[{"count":3,"dataset_version":"v0","num_train":20,"period":"a",'
        '"start":18}],"cursors":{"a":1},"policy":"balanced"}'
    )
    manifest = Manifest("balanced", 3, (Choice("a", "v0", 20, 18, 3),), {"a": 1})
    assert manifest.to_json() == text
    assert Manifest.from_json(text) == manifest
    assert manifest.choices[0].rows.tolist() == [18, 19, 0]


def test_runs_are_the_text_of_picked_rows():
    text = Manifest("hard", 4, (Picked.of(PAST, [7, 1, 2, 9]),)).to_json()
    assert json.loads(text)["choices"][0]["runs"] == [[1, 2], [7, 1], [9, 1]]


@pytest.mark.parametrize("rows", [[], [1, 1], [10], [-1]])
def test_refuses_no_rows_a_row_twice_and_rows_that_are_not_there(rows):
    with pytest.raises(ValueError, match="choice of period 'p'"):
        Picked.of(PAST, rows)


@pytest.mark.parametrize(
    "runs",
    [[], [[3, 1], [2, 1]], [[3, 1], [4, 1]], [[3, 0]], [[3, 8]], [[3, True]], [["3", 1]]],
)
def test_refuses_runs_that_are_not_canonical(runs):
    plain = {"period": "p", "dataset_version": "v", "num_train": 10, "runs": runs}
    with pytest.raises((ValueError, TypeError)):
        choice_of(plain)
    text = json.dumps({"policy": "hard", "budget": 1, "choices": [plain], "cursors": {}})
    with pytest.raises(ValueError, match=r"manifest|choice"):
        Manifest.from_json(text)


def test_load_reads_picked_rows_of_any_row_groups_beside_windows(lay_past):
    past, locate = lay_past([100, 40])
    picked = Picked.of(past[0], [99, 0, 15, 16, 50])
    both = Manifest("hard", 7, (picked, Choice("p1", "v1", 40, 39, 2)))
    table = window.load(both, locate)
    wholes = [window.read(locate(one.dataset_version), 0, one.num_train)["id"] for one in past]
    expected = wholes[0].take([0, 15, 16, 50, 99]).to_pylist() + wholes[1].take([39, 0]).to_pylist()
    assert table["id"].to_pylist() == expected
    assert table["period"].to_pylist() == ["p0"] * 5 + ["p1"] * 2


def test_load_of_picked_rows_refuses_another_dataset_version(lay_past):
    past, locate = lay_past([20])
    other = Manifest("hard", 1, (Picked("p0", "v0", 21, ((0, 1),)),))
    with pytest.raises(ValueError, match="has 20 rows, the manifest says 21 for period 'p0'"):
        window.load(other, locate)
    with pytest.raises(ValueError, match="has no column colour"):
        window.columns(past[0], locate, ["key", "colour"])
