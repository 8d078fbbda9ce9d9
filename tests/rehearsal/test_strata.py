"""Class balance: within one, in hash order, and everything comes round."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rehearsal import window
from rehearsal.choose import choose
from rehearsal.request import Request
from rehearsal.strata import DEALT, deal, num_deals


def by_hand(dealt, budget, sizes):
    """One deal after the other, as one would with cards."""
    given, deals = [0] * len(sizes), 0
    while sum(given) < min(budget, sum(sizes)):
        stratum = (dealt + deals) % len(sizes)
        given[stratum] += given[stratum] < sizes[stratum]
        deals += 1
    return given, deals


@given(st.lists(st.integers(1, 30), min_size=1, max_size=8), st.integers(0, 100), st.integers(0))
def test_dealing_is_as_by_hand(sizes, budget, dealt):
    dealt %= 10**6
    starts, counts = deal(dealt, budget, np.array(sizes))
    assert (counts.tolist(), num_deals(dealt, budget, np.array(sizes))) == by_hand(
        dealt, budget, sizes
    )
    assert all(0 <= start < size for start, size in zip(starts, sizes, strict=True))
    left = [count for count, size in zip(counts, sizes, strict=True) if count < size]
    assert not left or counts.max() - min(left) <= 1


@settings(deadline=None, max_examples=20)
@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=3),
    st.integers(1, 80),
    st.sampled_from(["completion", "period", "subject"]),
)
def test_strata_give_the_same_within_one_unless_they_have_no_more(lay_past, sizes, budget, strata):
    past, locate = lay_past(sizes)
    manifest = choose(past, Request("class_balanced", budget, strata=strata), locate=locate)
    chosen = Counter(window.load(manifest, locate)[strata].to_pylist())
    if strata == "period":
        whole = {one.period: one.num_train for one in past}
    else:
        tables = [window.columns(one, locate, [strata]) for one in past]
        whole = Counter(pa.concat_tables(tables)[strata].to_pylist())
    left = [chosen[name] for name, size in whole.items() if chosen[name] < size]
    assert not left or max(chosen.values()) - min(left) <= 1


def test_a_class_of_several_periods_is_one_stratum_and_by_hand(lay_past):
    past, locate = lay_past([4, 3], classes=[["x", "x", "x", "y"], ["x", "x", "z"]])
    manifest = choose(past, Request("class_balanced", 5), locate=locate)
    table = window.load(manifest, locate)
    assert Counter(table["completion"].to_pylist()) == {"x": 3, "y": 1, "z": 1}
    whole = pa.concat_tables(
        [window.columns(one, locate, ["key", "completion"]) for one in past]
    ).to_pylist()
    least = sorted(row["key"] for row in whole if row["completion"] == "x")[:3]
    kept = [row["key"] for row in table.to_pylist() if row["completion"] == "x"]
    assert sorted(kept) == least
    # y and z were passed over once each: x, y, z, x, (y, z,) x.
    assert manifest.cursors[DEALT] == 7


def test_with_fewer_than_one_each_the_strata_take_turns_and_all_of_them_comes_round(lay_past):
    past, locate = lay_past([30, 30], classes=[["a", "b", "c"] * 10, ["a", "b", "c"] * 10])
    seen, cursors = Counter(), {}
    for update in range(30):
        manifest = choose(past, Request("class_balanced", 2, cursors), locate=locate)
        seen.update(window.load(manifest, locate)["id"].to_pylist())
        cursors = manifest.cursors
        if update == 2:
            assert sorted(one.count for one in manifest.choices) in ([2], [1, 1])
    assert set(seen.values()) == {1}
    assert len(seen) == 60


def test_null_is_a_stratum_and_values_need_not_be_in_every_period(lay_past):
    past, locate = lay_past([9, 9], subjects=(None, "ann", None))
    manifest = choose(past, Request("class_balanced", 6, strata="subject"), locate=locate)
    subjects = window.load(manifest, locate)["subject"].to_pylist()
    assert Counter(subjects) == {None: 3, "ann": 3}


def test_the_source_s_own_strata_and_a_version_of_before_there_were_any(lay_past):
    past, locate = lay_past([9, 9])
    path = locate("v1")
    table = pq.read_table(path)
    pq.write_table(table.append_column("stratum", pa.array(["x", "y", "y"] * 3)), path)
    manifest = choose(past, Request("class_balanced", 9, strata="stratum"), locate=locate)
    chosen = window.load(manifest, locate)
    assert Counter(chosen["stratum"].to_pylist()) == {None: 3, "x": 3, "y": 3}
    assert chosen.column_names == [*window.SCHEMA.names, "period", "stratum"]


def test_refuses_a_file_of_another_version(lay_past):
    past, locate = lay_past([9, 8])
    with pytest.raises(ValueError, match="the manifest says 9"):
        choose(past, Request("class_balanced", 6), locate=lambda version: locate("v1"))
