"""Windows: the right rows, few row groups, and a uniform sample whatever the position."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from rehearsal import window
from rehearsal.manifest import Choice, Manifest
from rehearsal.window import SCHEMA, load, read


def write(path, num_rows, row_group_rows=16):
    ids = [f"e{i}" for i in range(num_rows)]
    table = pa.table(
        [
            pa.array(range(num_rows), pa.uint64()),
            ids,
            [f"prompt {i}" for i in ids],
            [f" completion {i}" for i in ids],
            pa.nulls(num_rows, pa.string()),
        ],
        schema=SCHEMA,
    )
    pq.write_table(table, path, row_group_size=row_group_rows)
    return path


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    return write(tmp_path_factory.mktemp("window") / "train.parquet", 100)


@given(st.integers(0, 99), st.integers(0, 100))
@settings(max_examples=60, deadline=None)
def test_any_window_has_its_rows_in_order_and_wraps(hundred, start, count):
    table = read(hundred, start, count)
    assert table["key"].to_pylist() == [(start + i) % 100 for i in range(count)]
    assert table.schema == SCHEMA
    # Nothing but its own rows is kept alive (Arrow pads a buffer to at most 64 bytes).
    assert table.get_total_buffer_size() <= table.nbytes + 64 * 3 * table.num_columns


def test_reads_only_the_row_groups_touched(hundred, monkeypatch):
    asked = []
    plain = pq.ParquetFile.read_row_groups

    def noting(self, groups, **options):
        asked.append(list(groups))
        return plain(self, groups, **options)

    monkeypatch.setattr(window.pq.ParquetFile, "read_row_groups", noting)
    read(hundred, 15, 18)
    assert asked == [[0, 1, 2], []]
    asked.clear()
    read(hundred, 97, 5)
    assert asked == [[6], [0]]


def test_an_empty_file_has_an_empty_window(tmp_path):
    assert read(write(tmp_path / "empty.parquet", 0), 0, 0).num_rows == 0


@pytest.mark.parametrize(("start", "count"), [(0, 101), (-1, 1), (100, 1), (0, -1)])
def test_refuses_a_window_that_does_not_fit(hundred, start, count):
    with pytest.raises(ValueError, match=r"train\.parquet: a window of .* does not fit"):
        read(hundred, start, count)


@pytest.mark.parametrize("damage", ["empty", "cut", "scribbled"])
def test_a_damaged_file_is_named(tmp_path, damage):
    path = write(tmp_path / "train.parquet", 2000, 2000)
    whole = path.read_bytes()
    middle = len(whole) // 4
    path.write_bytes(
        {
            "empty": b"",
            "cut": whole[:middle],
            "scribbled": whole[:middle] + bytes(500) + whole[middle + 500 :],
        }[damage]
    )
    with pytest.raises(ValueError, match=r"train\.parquet is damaged"):
        read(path, 0, 2000)


def test_a_file_that_can_not_be_opened_stays_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "train.parquet", 0, 1)
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        read(tmp_path / "file" / "train.parquet", 0, 1)


def manifest(*choices):
    return Manifest("balanced", sum(choice.count for choice in choices), choices)


def test_load_puts_the_windows_together_with_their_period(tmp_path):
    for version, num_rows in (("v0", 20), ("v1", 50)):
        (tmp_path / version).mkdir()
        write(tmp_path / version / "train.parquet", num_rows)
    chosen = manifest(Choice("a", "v0", 20, 18, 3), Choice("b", "v1", 50, 0, 2))
    table = load(chosen, lambda version: tmp_path / version / "train.parquet")
    assert table["id"].to_pylist() == ["e18", "e19", "e0", "e0", "e1"]
    assert table["period"].to_pylist() == ["a", "a", "a", "b", "b"]
    assert table.column_names == [*SCHEMA.names, "period"]


def test_load_of_nothing_has_the_same_columns():
    table = load(manifest(), lambda version: pytest.fail("nothing to locate"))
    assert table.num_rows == 0
    assert table.column_names == [*SCHEMA.names, "period"]


def test_load_refuses_another_dataset_version_than_was_planned_on(tmp_path):
    path = write(tmp_path / "train.parquet", 21)
    with pytest.raises(ValueError, match="has 21 rows, the manifest says 20 for period 'a'"):
        load(manifest(Choice("a", "v0", 20, 18, 3)), lambda version: path)


def test_time_does_not_grow_with_the_file(tmp_path):
    """Not a benchmark (see bench/sampling.py): the bytes read are those of the window."""
    small, large = (write(tmp_path / f"{n}.parquet", n, 1000) for n in (5_000, 200_000))

    def bytes_of(path):
        metadata = pq.read_metadata(path)
        groups = [group for group, _ in window._touched(metadata, 2_500, 1_000)]
        return sum(metadata.row_group(group).total_byte_size for group in groups)

    assert large.stat().st_size > 30 * small.stat().st_size
    assert bytes_of(large) <= 1.1 * bytes_of(small)


def test_every_position_is_as_likely_as_any_other(tmp_path):
    """A window of files sorted by MD5(salt:id), over 600 salts, for 48 ids and windows of 12.

    Each id is in with p = 1/4, so its count is binomial(600, 1/4). Two tests, each with a false
    alarm (over the choice of salts) in 1 of 10^6: the most extreme id by the exact binomial tail,
    Bonferroni over 48 ids and two sides; all ids by chi-square, sum (count - np)^2 / (np(1-p)) *
    (n-1)/n of 47 degrees of freedom (hypergeometric covariance). The salts are fixed, so the test
    is repeatable. The second half asserts that the chi-square finds an early fifth of the ids
    drawn at 0.209 for 0.25 (a published reservoir's off-by-one) or the same for late ones.
    """
    num_ids, count, num_salts, alarm = 48, 12, 600, 1e-6
    ids = [f"e{i}" for i in range(num_ids)]
    drawn = np.zeros(num_ids)
    for salt in range(num_salts):
        keys = [
            int.from_bytes(hashlib.md5(f"{salt}:{one}".encode()).digest()[8:], "big") for one in ids
        ]
        order = np.argsort(np.array(keys, np.uint64))
        table = pa.table({"key": np.array(keys, np.uint64)[order], "position": order})
        path = tmp_path / "train.parquet"
        pq.write_table(table, path, row_group_size=10)
        drawn[read(path, (7 * salt) % num_ids, count)["position"].to_numpy()] += 1

    p = count / num_ids
    tails = np.minimum(
        stats.binom.cdf(drawn, num_salts, p), stats.binom.sf(drawn - 1, num_salts, p)
    )
    assert tails.min() > alarm / (2 * num_ids)

    def chi_square(counts):
        spread = num_salts * p * (1 - p)
        return ((counts - num_salts * p) ** 2).sum() / spread * (num_ids - 1) / num_ids

    critical = stats.chi2.isf(alarm, num_ids - 1)
    assert drawn.sum() == num_salts * count
    assert chi_square(drawn) < critical
    biased = np.full(num_ids, num_salts * p)
    biased[: num_ids // 2] *= 0.209 / 0.25
    assert chi_square(biased) > critical
