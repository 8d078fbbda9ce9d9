"""Ingest of a whole period: what is written, counted and dropped, from real files."""

import gzip
import hashlib
import random
import shutil
import sqlite3
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingesting import (
    PERIODS,
    ROWS,
    data,
    hashed,
    made,
    newest,
    read,
    refused,
    row,
    run,
    table,
    write,
)

from updater.ingest import Known, Reading, Summary, ingest, is_holdout, key_of
from updater.ingest import spool as spool_module
from updater.ingest.write import EXAMPLES, ROW_GROUP_ROWS, write_parquet
from updater.settings import (
    FieldTemplates,
    PeriodSettings,
)


def test_a_period_is_written_as_the_parts_agreed(tmp_path: Path) -> None:
    rows = [*ROWS, row(99, domain="work"), row(98, domain="garden"), "{not json"]
    reading, summary = read(tmp_path, rows)
    train = pq.ParquetFile(newest(tmp_path) / "train.parquet")
    expected = pa.schema([(f.name, f.type) for f in EXAMPLES])
    assert pa.schema([(f.name, f.type) for f in train.schema_arrow]) == expected
    assert train.metadata.row_group(0).column(0).compression == "ZSTD"
    made_of = table(tmp_path, "train") + table(tmp_path, "holdout")
    assert {r["id"] for r in table(tmp_path, "holdout")} == {"r0", "r5", "r10", "r15"}
    assert all(r["key"] == key_of("updater", r["id"]) for r in made_of)
    assert {r["prompt"] for r in made_of} == {f"text {n}\nIntent:" for n in range(20)}
    assert {r["subject"] for r in made_of} == {None}
    assert reading == Reading(
        num_rows_read=23,
        num_skipped=2,
        num_unplaced=1,
        num_unknown_periods=1,
        unknown_periods=("garden",),
    )
    assert summary == Summary(
        period="home",
        num_train=16,
        num_holdout=4,
        num_quarantined=1,
        num_unplaced=1,
        num_duplicates=0,
        num_leaked=0,
        rows_digest=summary.rows_digest,
        schema=dict.fromkeys(("domain", "id", "intent", "split", "text"), "string"),
    )
    assert Summary.read(newest(tmp_path) / "summary.json") == summary


OTHERS: list = [
    *[row(n, domain="work", text=n, id=n) for n in range(100, 160)],
    row(98, domain="garden"),
    row(97, domain=7),
    row(96, domain=None),
    "{not json",
]


def test_rows_of_others_do_not_make_a_period_another(tmp_path: Path) -> None:
    ours: list = [*ROWS, row(99, text=None), row(1, intent="a conflict"), row(2)]
    before = run(tmp_path, ours)
    told = Known(rows_digest=before.rows_digest)
    for rows in (ours, ours[::-1], [*OTHERS, *ours], [*ours[:10], *OTHERS, *ours[10:]]):
        write(tmp_path, rows)
        staging = tmp_path / "again"
        reading, summary = ingest(made(), tmp_path, "home", staging, known=told)
        assert summary is None
        assert reading.num_unplaced == (2 if len(rows) > len(ours) else 0)
        assert [path.name for path in staging.iterdir()] == ["unplaced.parquet"]
        unplaced = pq.read_table(staging / "unplaced.parquet").to_pylist()
        assert [q["value"] for q in unplaced] == ["", "{not json"][: reading.num_unplaced]
        shutil.rmtree(staging)
    after = run(tmp_path, [*ours, *OTHERS])
    assert (after.num_quarantined, after.num_unplaced) == (before.num_quarantined + 2, 2)
    assert after.schema == before.schema


@pytest.mark.parametrize(
    "changed",
    [
        [*ROWS, row(20)],
        [*ROWS, row(3)],
        [*ROWS, row(20, text=None)],
        ROWS[1:],
        [row(0, intent="other"), *ROWS[1:]],
        [row(0, split="train"), *ROWS[1:]],
        [row(0, id="other"), *ROWS[1:]],
    ],
)
def test_other_rows_of_its_own_make_it_another(tmp_path: Path, changed: list) -> None:
    before = run(tmp_path, ROWS)
    assert run(tmp_path, changed, known=Known(rows_digest=before.rows_digest)) != before


def test_another_salt_makes_it_another(tmp_path: Path) -> None:
    salted = PeriodSettings(order=PERIODS.order, holdout_splits=("test",), salt="other")
    assert run(tmp_path, ROWS).rows_digest != run(tmp_path, ROWS, made(periods=salted)).rows_digest


def test_bad_rows_are_quarantined_and_a_repeated_one_dropped(tmp_path: Path) -> None:
    """The last block of the acceptance check, where no row is held out."""
    rows: list = [row(n, split="train") for n in range(200)]
    without = {k: v for k, v in row(0).items() if k != "text"}
    summary = run(tmp_path, [*rows, "{not json", row(0, id="x1", text=None), without, rows[1]])
    assert (summary.num_quarantined, summary.num_duplicates) == (3, 1)
    assert (summary.num_train, summary.num_holdout) == (200, 0)
    found = [(q["file"], q["line"], q["field"], q["value"]) for q in table(tmp_path, "quarantine")]
    assert found == [
        ("rows.jsonl", 201, "", "{not json"),
        ("rows.jsonl", 202, "prompt", ""),
        ("rows.jsonl", 203, "prompt", ""),
    ]


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"text": " \t"}, "prompt", "column text must not be blank"),
        ({"text": ["a"]}, "prompt", "column text must be text, a number"),
        ({"text": {"a": 1}}, "prompt", "column text must be text, a number"),
        ({"text": "a\0b"}, "prompt", "must not hold the character NUL"),
        ({"text": "\ud800"}, "prompt", "must be UTF-8"),
        ({"text": "x" * 1_000_001}, "prompt", "must be at most 1000000 characters"),
        ({"intent": None}, "completion", "column intent must not be null"),
        ({"id": "x" * 513}, "id", "must be at most 512 characters"),
        ({"id": ""}, "id", "column id must not be blank"),
        ({"split": None}, "split", "column split must not be null"),
        ({"domain": None}, "period", "column domain must not be null"),
        ({"domain": " "}, "period", "column domain must not be blank"),
    ],
)
def test_each_rule_of_a_row(tmp_path: Path, changes: dict, field: str, rule: str) -> None:
    summary = run(tmp_path, [*ROWS, row(99, **changes)])
    assert (summary.num_quarantined, summary.num_train) == (1, 16)
    (bad,) = table(tmp_path, "quarantine")
    assert (bad["line"], bad["field"]) == (21, field)
    assert bad["rule"].startswith(rule)
    assert len(bad["value"]) <= 10_000


def test_values_that_are_not_texts_are_rendered(tmp_path: Path) -> None:
    fields = {
        "prompt": "{{{n:03d}}} {price:.1f} {flag} {user.name} {user[tags][0]} {a.b}",
        "completion": "{n}",
        "subject": "{user.name}",
    }
    plain = {"domain": "home", "price": 2, "flag": True, "a.b": "dotted", "intent": "x"}
    rows: list = [{**plain, "n": n, "user": {"name": "Ada", "tags": ["x"]}} for n in range(40)]
    bad: list = [
        {**rows[0], "n": "text"},
        {**rows[0], "user": {"name": "Ada", "tags": []}},
        {**rows[0], "user": "Ada"},
    ]
    summary = run(tmp_path, rows + bad, hashed(**fields))
    assert summary.num_quarantined == 3
    rules = {q["rule"] for q in table(tmp_path, "quarantine")}
    assert "column n must fit the format '03d'" in rules
    by_completion = {
        r["completion"]: r for r in table(tmp_path, "train") + table(tmp_path, "holdout")
    }
    assert by_completion["7"]["prompt"] == "{007} 2.0 true Ada x dotted"
    assert by_completion["7"]["subject"] == "Ada"
    assert summary.schema["user.name"] == "string"
    assert summary.schema["n"] == "integer"


def test_a_subject_may_be_missing_but_not_wrong(tmp_path: Path) -> None:
    rows: list = [row(n, user=None if n % 2 else f"u{n}") for n in range(40)]
    summary = run(tmp_path, [*rows, row(99, user=[1])], hashed(subject="{user}"))
    assert summary.num_quarantined == 1
    assert (
        Counter(
            r["subject"] is None for r in table(tmp_path, "train") + table(tmp_path, "holdout")
        )[True]
        == 20
    )


def test_a_stratum_is_a_column_where_the_settings_name_one(tmp_path: Path) -> None:
    rows: list = [row(n, kind=None if n % 2 else f"k{n % 4}") for n in range(40)]
    plain = run(tmp_path, rows, hashed())
    assert "stratum" not in table(tmp_path, "train")[0]
    given = run(tmp_path, rows, hashed(stratum="{kind}"))
    made_of = table(tmp_path, "train") + table(tmp_path, "holdout")
    assert list(made_of[0])[-1] == "stratum"
    assert Counter(r["stratum"] for r in made_of) == {None: 20, "k0": 10, "k2": 10}
    assert given.rows_digest != plain.rows_digest
    changed = run(tmp_path, [{**rows[0], "kind": "k2"}, *rows[1:]], hashed(stratum="{kind}"))
    assert changed.rows_digest not in (given.rows_digest, plain.rows_digest)


def test_of_equal_examples_the_same_stratum_stays_whatever_their_order(tmp_path: Path) -> None:
    twice: list = [row(n, kind=kind) for n in range(40) for kind in ("b", None, "a")]
    for rows in (twice, twice[::-1]):
        run(tmp_path, rows, hashed(stratum="{kind}"))
        made_of = table(tmp_path, "train") + table(tmp_path, "holdout")
        assert {r["stratum"] for r in made_of} == {"a"}


def test_an_example_without_an_id_gets_one_from_its_content(tmp_path: Path) -> None:
    summary = run(tmp_path, [*ROWS, row(3, intent="new")], hashed())
    assert summary.num_train + summary.num_holdout == 21
    ids = {
        r["completion"] + r["prompt"]: r["id"]
        for r in table(tmp_path, "train") + table(tmp_path, "holdout")
    }
    content = b"6:text 3i0"
    assert ids["i0text 3"] == hashlib.sha256(content).hexdigest()[:32]


def test_an_id_of_two_contents_is_quarantined_but_for_one(tmp_path: Path) -> None:
    rows = [*ROWS, row(1, intent="other"), row(1, intent="third"), row(1)]
    summary = run(tmp_path, rows)
    assert (summary.num_quarantined, summary.num_duplicates) == (3, 0)
    assert [q["field"] for q in table(tmp_path, "quarantine")] == ["id"] * 3
    kept = [r for r in table(tmp_path, "train") if r["id"] == "r1"]
    assert len(kept) == 1
    turned = run(tmp_path, rows[::-1])
    assert [r for r in table(tmp_path, "train") if r["id"] == "r1"] == kept
    assert turned == summary


def test_duplicates_and_leaks(tmp_path: Path) -> None:
    rows = [
        *ROWS,
        row(1),
        row(1, id="z1"),
        row(2, id="z2", split="test"),
        row(0, id="z3", split="train", intent="other"),
    ]
    summary = run(tmp_path, rows)
    assert (summary.num_duplicates, summary.num_leaked) == (2, 2), "r2 and z3 leak"
    ids = {r["id"] for r in table(tmp_path, "train")}
    expected = min(["r1", "z1"], key=lambda id_: (key_of("updater", id_), id_))
    assert ids & {"r1", "z1"} == {expected}
    assert not ids & {"r2", "z3"}


def test_prompts_of_past_holdouts_are_not_trained_on(tmp_path: Path) -> None:
    run(tmp_path, [row(n, domain="home") for n in (0, 1, 2)])
    past = newest(tmp_path) / "holdout.parquet"
    summary = run(tmp_path, [row(0, split="train"), *ROWS[1:]], known=Known(holdouts=[past]))
    assert (summary.num_leaked, summary.num_holdout) == (1, 3)
    for broken in (tmp_path / "none.parquet", tmp_path / "rows.jsonl"):
        assert broken.name in refused(tmp_path, known=Known(holdouts=[broken]))
        assert broken.name in refused(tmp_path, known=Known(trains=[broken]))


@pytest.mark.parametrize("size", [1, 3, 1_000_000])
def test_prompts_that_others_train_on_are_not_held_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(spool_module, "RANGE_ROWS", size)
    run(tmp_path, [row(n, split="train") for n in (0, 1, 5)])
    past = newest(tmp_path) / "train.parquet"
    rows = [*ROWS, row(5, id="z5", split="train"), row(10, id="z10", split="train")]
    summary = run(tmp_path, rows, known=Known(trains=[past]))
    assert (summary.num_leaked, summary.num_holdout) == (3, 2), "r0 and r5 go, and z10"
    assert {r["id"] for r in table(tmp_path, "holdout")} == {"r10", "r15"}
    ids = {r["id"] for r in table(tmp_path, "train")}
    assert "z5" in ids, "that prompt is held out no longer"
    assert "z10" not in ids


def test_dates_decide_the_period_in_the_time_zone(tmp_path: Path) -> None:
    fields = FieldTemplates(prompt="{text}", completion="{intent}", date="{at}")
    periods = PeriodSettings(every="month", time_zone="Europe/Berlin", holdout_fraction=0.5)
    inside = ["2026-01-01", "2025-12-31T23:00:00Z", "2026-01-31T23:59:59", "20260115"]
    inside += ["2026-01-31 22:59:59+00:00"]
    outside = ["2025-12-31", "2025-12-31T22:59:59Z", "2026-01-31T23:00:00Z", "2026-02-01"]
    bad = ["yesterday", "2026-13-01", "0001-01-01", "9999-12-31T23:59:59-10:00", ""]
    rows: list = [row(n, at=at) for n, at in enumerate([*inside, *outside, *bad])]
    rows += [row(n, at="2026-01-02") for n in range(50, 60)]
    write(tmp_path, rows)
    reading, summary = ingest(made(fields, periods), tmp_path, "2026-01", tmp_path / "s")
    assert summary
    assert summary.num_train + summary.num_holdout == len(inside) + 10
    assert (reading.num_skipped, reading.num_unplaced) == (len(outside), len(bad))


def test_a_calendar_period_may_be_written_in_the_source(tmp_path: Path) -> None:
    fields = FieldTemplates(prompt="{text}", completion="{intent}", period="{month}")
    periods = PeriodSettings(every="month", holdout_fraction=0.5)
    rows: list = [row(n, month="2026-01") for n in range(20)]
    write(tmp_path, [*rows, row(30, month="2026-02"), row(31, month="2026-13")])
    reading, _ = ingest(made(fields, periods), tmp_path, "2026-01", tmp_path / "s")
    assert (reading.num_skipped, reading.num_unplaced) == (1, 1)


def test_formats_and_databases_give_the_same_period(tmp_path: Path) -> None:
    rows = [row(n) for n in range(60)]
    run(tmp_path, list(rows))
    expected = data(tmp_path)
    (tmp_path / "r.jsonl.gz").write_bytes(gzip.compress((tmp_path / "rows.jsonl").read_bytes()))
    (tmp_path / "r.csv").write_text(
        "\n".join(",".join(r) for r in [list(rows[0]), *(list(r.values()) for r in rows)])
    )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "r.parquet", row_group_size=7)
    with sqlite3.connect(tmp_path / "r.db") as database:
        database.execute("create table r (id, text, intent, domain, split)")
        values = [list(r.values()) for r in rows]
        database.executemany("insert into r values (?, ?, ?, ?, ?)", values)
    database.close()
    query = "select * from r where domain = :period"
    for source in (
        {"uri": "r.jsonl.gz"},
        {"uri": "r.csv"},
        {"uri": "r.parquet"},
        {"uri": "sqlite:///r.db", "query": query},
    ):
        run(tmp_path, None, made(**source))
        assert data(tmp_path) == expected, source


TEXTS = st.sampled_from(["a", "b", "c", "d", "e é", None, " "])
SOURCE_ROWS = st.fixed_dictionaries(
    {
        "id": st.sampled_from([f"i{n}" for n in range(12)]),
        "text": TEXTS,
        "intent": st.sampled_from(["x", "y"]),
        "domain": st.sampled_from(["home", "home", "home", "work", "garden"]),
        "split": st.sampled_from(["train", "test"]),
        "user": st.sampled_from(["u", "v", None]),
    }
)
GOOD_ROWS: list = [row(n, user=None) for n in range(100, 160)]
PROPERTY = settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@PROPERTY
@given(st.lists(SOURCE_ROWS, max_size=40), st.booleans(), st.randoms(use_true_random=False))
def test_every_row_is_accounted_for_and_order_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, rows: list, is_split: bool, shuffler: random.Random
) -> None:
    folder = tmp_path_factory.mktemp("property")
    fields = {"prompt": "{text}", "completion": "{intent}", "subject": "{user}", "id": "{id}"}
    given_ = hashed(**fields)
    if is_split:
        given_ = made(FieldTemplates(**fields, period="{domain}", split="{split}"))
    source = [*rows, *GOOD_ROWS]
    reading, summary = read(folder, source, given_)
    train, holdout = table(folder, "train"), table(folder, "holdout")
    before = data(folder)
    assert reading.num_rows_read == len(source)
    assert reading.num_rows_read == (
        summary.num_train
        + summary.num_holdout
        + summary.num_quarantined
        + summary.num_duplicates
        + summary.num_leaked
        + reading.num_skipped
    )
    assert (len(train), len(holdout)) == (summary.num_train, summary.num_holdout)
    assert len(table(folder, "quarantine")) == summary.num_quarantined
    assert not {r["prompt"] for r in train} & {r["prompt"] for r in holdout}
    for side in (train, holdout):
        assert len({(r["prompt"], r["completion"]) for r in side}) == len(side)
        assert side == sorted(side, key=lambda r: (r["key"], r["id"].encode()))
    if not is_split:
        assert all(is_holdout("updater", r["prompt"], 0.3) for r in holdout)
        assert not any(is_holdout("updater", r["prompt"], 0.3) for r in train)
    shuffler.shuffle(source)
    assert run(folder, source, given_) == summary
    assert data(folder) == before


def test_the_hash_split_holds_out_the_configured_fraction() -> None:
    """A binomial of n = 20,000 at 0.1: five standard deviations, false alarm below 6e-7."""
    held = sum(is_holdout("salt", f"prompt {n}", 0.1) for n in range(20_000))
    assert abs(held - 2000) < 5 * (20_000 * 0.1 * 0.9) ** 0.5
    assert held != sum(is_holdout("other", f"prompt {n}", 0.1) for n in range(20_000))


def test_keys_are_those_of_the_architecture() -> None:
    """MD5("salt:id"), its last eight bytes as a little-endian number."""
    digest = hashlib.md5(b"salt:id").digest()
    assert key_of("salt", "id") == sum(byte << 8 * n for n, byte in enumerate(digest[8:]))


def test_row_groups_are_full_however_the_rows_come(tmp_path: Path) -> None:
    num_rows = 2 * ROW_GROUP_ROWS + 3
    ids = [f"{n:06d}" for n in range(num_rows)]
    columns = [pa.array(range(num_rows), pa.uint64()), *[pa.array(ids)] * 3]
    columns.append(pa.nulls(num_rows, pa.string()))
    whole = pa.Table.from_arrays(columns, names=EXAMPLES.names)
    for name, size in (("a", 1000), ("b", ROW_GROUP_ROWS), ("c", num_rows), ("d", 7777)):
        write_parquet(tmp_path / name, whole.to_batches(max_chunksize=size), EXAMPLES)
    metadata = pq.read_metadata(tmp_path / "a")
    sizes = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
    assert sizes == [ROW_GROUP_ROWS, ROW_GROUP_ROWS, 3]
    assert len({(tmp_path / name).read_bytes() for name in "abcd"}) == 1


def test_judging_and_sorting_in_ranges_of_the_hashes_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conflict, repeated, leaked = row(1, intent="x"), row(2, id="z"), row(0, split="train")
    rows = [*ROWS, conflict, repeated, repeated, row(3), leaked]
    whole, expected = run(tmp_path, rows), data(tmp_path)
    assert (whole.num_quarantined, whole.num_duplicates, whole.num_leaked) == (1, 3, 1)
    for size in (1, 3, 24):
        monkeypatch.setattr(spool_module, "RANGE_ROWS", size)
        assert run(tmp_path, rows) == whole
        assert data(tmp_path) == expected


def test_progress_is_told(tmp_path: Path) -> None:
    seen: list[int] = []
    run(tmp_path, [row(n) for n in range(5000)], progress=seen.append)
    assert seen == [4096, 5000]
