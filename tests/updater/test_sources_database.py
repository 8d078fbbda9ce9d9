"""A database's query on real SQLite and PostgreSQL: bounds, zones, streaming, reading only."""

import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa

from updater.errors import InputError, UpdateError
from updater.ingest import ingest
from updater.periods import Periods
from updater.settings import (
    FieldTemplates,
    PeriodSettings,
    Settings,
    SourceSettings,
    WorkspaceSettings,
)
from updater.sources import open_source
from updater.sources.batch import BATCH_ROWS

FIELDS = FieldTemplates(prompt="{text}", completion="{label}", date="{at}")
MONTH = "select text, label, at from tickets where at >= :start and at < :end order by at"


def rows(
    folder: Path, uri: str, query: str = MONTH, **periods: Any
) -> list[tuple[int, Mapping[str, Any]]]:
    source = SourceSettings(uri=uri, query=query, fields=FIELDS)
    settings = PeriodSettings(**(periods or {"every": "month"}))
    period = settings.order[0] if settings.order else "2026-01"
    found = open_source(source, folder, periods=Periods(settings), period=period)
    return [row for batch in found for row in batch.rows]  # type: ignore[misc]


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    with sqlite3.connect(tmp_path / "tickets.db") as database:
        database.execute("create table tickets (text, label, at)")
        at = [
            "2025-12-29T23:59:59",
            "2025-12-30",
            "2026-01-01 00:00:00",
            "2026-02-02T23:59:59",
            "2026-02-03",
        ]
        database.executemany(
            "insert into tickets values (?, ?, ?)", [(f"t{n}", "l", a) for n, a in enumerate(at)]
        )
    database.close()
    return tmp_path


def test_sqlite_gives_the_period_and_two_days_on_either_side(tickets: Path) -> None:
    found = rows(tickets, "sqlite:///tickets.db")
    assert [line for line, _ in found] == [1, 2, 3]
    assert [values["text"] for _, values in found] == ["t1", "t2", "t3"]


# Of each pair one is in January, the other just outside.
BORDERS = {
    "Europe/Berlin": (
        ("2025-12-31T23:30:00+00:00", "2025-12-31T22:30:00+00:00"),
        ("2026-01-31T22:30:00+00:00", "2026-01-31T23:30:00+00:00"),
        ("2026-01-31 23:59:59", "2025-12-31 23:59:59"),
        ("2026-01-01", "2026-02-01"),
    ),
    "Pacific/Kiritimati": (
        ("2025-12-30T22:00:00-12:00", "2025-12-30T21:59:59-12:00"),
        ("2026-01-30T21:59:59-12:00", "2026-01-30T22:00:00-12:00"),
    ),
    "Etc/GMT+12": (
        ("2026-01-02T02:00:00+14:00", "2026-01-02T01:59:59+14:00"),
        ("2026-02-02T01:59:59+14:00", "2026-02-02T02:00:00+14:00"),
    ),
}


def learnt(folder: Path, uri: str, zone: str, column: str = "at") -> set[str]:
    """The prompts of January, by way of the ingest."""
    fields = FieldTemplates(prompt="{text}", completion="{label}", date=f"{{{column}}}")
    query = f"select * from tickets where {column} >= :start and {column} < :end"
    settings = Settings(
        workspace=WorkspaceSettings(name="t"),
        source=SourceSettings(uri=uri, query=query, fields=fields),
        periods=PeriodSettings(every="month", time_zone=zone, holdout_fraction=0.5),
    )
    staging = folder / f"staging-{column}"
    ingest(settings, folder, "2026-01", staging)
    tables = [pq.read_table(staging / f"{name}.parquet") for name in ("train", "holdout")]
    return {prompt for table in tables for prompt in table["prompt"].to_pylist()}


FILLING = [(f"f{n}", "2026-01-15") for n in range(40)]  # so that there are a train and a holdout


@pytest.mark.parametrize("zone", BORDERS)
def test_sqlite_loses_no_row_whose_text_is_of_another_zone(tmp_path: Path, zone: str) -> None:
    pairs = BORDERS[zone]
    inside = [(f"in{n}", pair[0]) for n, pair in enumerate(pairs)]
    outside = [(f"out{n}", pair[1]) for n, pair in enumerate(pairs)]
    with sqlite3.connect(tmp_path / "tickets.db") as database:
        database.execute("create table tickets (text, at, label default 'l')")
        insert = "insert into tickets (text, at) values (?, ?)"
        database.executemany(insert, [*FILLING, *inside, *outside])
    database.close()
    found = learnt(tmp_path, "sqlite:///tickets.db", zone)
    assert found == {text for text, _ in (*FILLING, *inside)}


def test_the_period_can_be_bound_by_its_id(tickets: Path) -> None:
    query = "select text, label, at from tickets where label = :period"
    assert len(rows(tickets, "sqlite:///tickets.db", query, order=("l", "m"))) == 5


def test_the_query_can_only_read(tickets: Path) -> None:
    with pytest.raises(InputError, match="readonly"):
        rows(tickets, "sqlite:///tickets.db", "delete from tickets where at >= :start or at<:end")
    assert len(rows(tickets, "sqlite:///tickets.db")) == 3


@pytest.mark.parametrize(
    ("uri", "query", "words"),
    [
        ("sqlite:///none.db", MONTH, "must be there. put it there, or change source.uri"),
        ("tickets.db", MONTH, "SQLAlchemy URL"),
        ("nosuch://h/x", MONTH, "nosuch"),
        ("mysql+pymysql://h/x", MONTH, "install its driver"),
        ("sqlite:///tickets.db", "select * from tickets", "binds none"),
        ("sqlite:///tickets.db", "select * from tickets where at > :start", "binds :start"),
        (
            "sqlite:///tickets.db",
            "select * from t where at > :start and at < :end",
            "no such table",
        ),
        ("sqlite:///tickets.db", "select text, at as text from tickets where at<>:period", "AS"),
    ],
)
def test_a_wrong_source_is_named(tickets: Path, uri: str, query: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        rows(tickets, uri, query)
    assert not (tickets / "none.db").exists()


def test_named_periods_have_no_bounds(tickets: Path) -> None:
    with pytest.raises(InputError, match="bind :period instead"):
        rows(tickets, "sqlite:///tickets.db", MONTH, order=("a", "b"))


def test_a_database_that_breaks_off_is_an_update_error(tickets: Path) -> None:
    content = (tickets / "tickets.db").read_bytes()
    with sqlite3.connect(tickets / "tickets.db") as database:
        values = [(f"t{n}", "x" * 1000, "2026-01-02") for n in range(20_000)]
        database.executemany("insert into tickets values (?, ?, ?)", values)
    database.close()
    content = (tickets / "tickets.db").read_bytes()
    half = len(content) // 2
    broken = content[:half] + b"\xff" * (len(content) - half)
    (tickets / "tickets.db").write_bytes(broken)
    with pytest.raises(UpdateError, match="broke off"):
        rows(tickets, "sqlite:///tickets.db", MONTH.replace(" order by at", ""))


def test_a_database_that_is_not_there_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("store.retry.time.sleep", pauses.append)
    with pytest.raises(UpdateError, match="attempts") as caught:
        rows(tmp_path, "postgresql+psycopg://me:hunter2@127.0.0.1:9/x?connect_timeout=2")
    assert pauses == sorted(pauses)
    assert len(pauses) == 3
    assert "hunter2" not in str(caught.value)


def test_postgresql_streams_in_the_zone_and_can_only_read(
    tmp_path: Path, postgres_url: str
) -> None:
    engine = sa.create_engine(postgres_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "create table tickets as select 't'||n as text, 'l' as label, "
            "timestamptz '2025-12-31 23:00+00' + n * interval '1 second' as at, "
            "timestamp '2026-01-01 00:00' + n * interval '1 second' as local "
            f"from generate_series(-1, {BATCH_ROWS}) n; create sequence counter"
        )
    engine.dispose()
    berlin = {"every": "month", "time_zone": "Europe/Berlin"}
    found = rows(tmp_path, postgres_url, **berlin)
    assert [line for line, _ in found] == list(range(1, BATCH_ROWS + 2))
    assert found[0][1]["text"] == "t0", "midnight in Berlin is 23:00 in UTC"
    by_clock = MONTH.replace("at >=", "local >=").replace("at <", "local <")
    assert rows(tmp_path, postgres_url, by_clock, **berlin) == found
    with pytest.raises(InputError, match="read-only"):
        rows(tmp_path, postgres_url, MONTH.replace("text", "nextval('counter') as text", 1))


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York"])
def test_postgresql_is_right_at_the_borders_in_columns_of_every_type(
    tmp_path: Path, postgres_url: str, zone: str
) -> None:
    """The same instants with a zone, by the clock of the zone, and days; two in, two out."""
    engine = sa.create_engine(postgres_url)
    clocks = ("2026-01-01 00:00:00", "2026-01-31 23:59:59", "2025-12-31 23:59:59", "2026-02-01")
    times = [*zip(("in0", "in1", "out0", "out1"), clocks, strict=True), *FILLING]
    with engine.begin() as connection:
        connection.exec_driver_sql(f"set time zone '{zone}'")
        connection.exec_driver_sql(
            "create table tickets (text text, at timestamptz, local timestamp, day date, "
            "label text default 'l')"
        )
        for text, clock in times:
            statement = "insert into tickets (text, at, local, day) values (%s, %s, %s, %s)"
            connection.exec_driver_sql(statement, (text, clock, clock, clock))
    engine.dispose()
    expected = {text for text, _ in (*FILLING, ("in0", ""), ("in1", ""))}
    for column in ("at", "local", "day"):
        assert learnt(tmp_path, postgres_url, zone, column) == expected, column
