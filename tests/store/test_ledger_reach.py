"""A ledger that can't be reached, breaks off, or can't be written: plain errors, nothing half."""

import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection, make_url

from store import database as database_module
from store import retry
from store.errors import StoreError, UnreachableError
from store.ledger import Ledger, migrate, open_ledger

ROOT = Path(__file__).parents[2]


@pytest.fixture
def sqlite_file(tmp_path: Path) -> Path:
    migrate(f"sqlite:///{tmp_path / 'store.db'}")
    return tmp_path / "store.db"


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The pauses that were asked for; none is waited for."""
    asked: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", asked.append)
    return asked


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def test_a_server_that_is_away_is_asked_again_then_named(pauses: list[float]) -> None:
    url = f"postgresql+psycopg://bob:hunter2@127.0.0.1:{free_port()}/ledger"
    with pytest.raises(UnreachableError, match=r"the ledger at .*4 attempts.*same command") as e:
        open_ledger(url)
    assert pauses == [0.2, 0.4, 0.8]
    assert "hunter2" not in str(e.value)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("password", ["p@ss/word", "word@ss", "a:word@b"])
def test_of_a_password_that_is_not_encoded_nothing_is_shown(password: str) -> None:
    with pytest.raises(StoreError, match=r"no database URL .* %40, %3A and %2F") as e:
        open_ledger(f"postgresql+psycopg://bob:{password}@127.0.0.1:1/ledger")
    assert "word" not in str(e.value).replace("a password as", "")
    assert "ss" not in str(e.value).replace("a password as", "").replace("address", "")


def test_a_server_that_comes_back_is_not_noticed(pauses: list[float]) -> None:
    answers = iter([ConnectionError("not yet"), ConnectionError("not yet"), "here"])

    def ask() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert retry.with_backoff(ask, on=(ConnectionError,), what="it") == "here"
    assert pauses == [0.2, 0.4]
    with pytest.raises(KeyError):
        retry.with_backoff(lambda: {}["x"], on=(ConnectionError,), what="it")


def test_a_connection_that_was_cut_is_made_again(postgres_ledger_url: str) -> None:
    ledger = open_ledger(postgres_ledger_url)
    ledger.append("noted", actor="a", reason="r")
    cut_all(postgres_ledger_url)
    assert len(ledger.events()) == 1


def test_a_connection_cut_within_a_transaction_leaves_nothing(postgres_ledger_url: str) -> None:
    ledger = open_ledger(postgres_ledger_url)
    ledger.record_period("p", 0, None, None)
    with pytest.raises(UnreachableError, match=r"broke off.*Run the same command again"):
        cut_within(ledger, lambda: cut_all(postgres_ledger_url))
    assert [p.id for p in ledger.periods()] == ["p"]


def cut_within(ledger: Ledger, cut: Callable[[], None]) -> None:
    with ledger._sessions.write() as session:
        session.execute(sa.text("DELETE FROM periods"))
        cut()
        session.execute(sa.text("SELECT 1"))


def cut_all(url: str) -> None:
    plain = make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )


def test_a_writer_that_hangs_is_waited_for_then_named(
    postgres_ledger_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.ledger.sessions.LOCK_TIMEOUT_SECONDS", 1)
    first, second = open_ledger(postgres_ledger_url), open_ledger(postgres_ledger_url)
    with first._sessions.write():
        with pytest.raises(UnreachableError, match="lock timeout"):
            second.append("noted", actor="a", reason="r")
        assert second.events() == []


def test_a_locked_sqlite_file_is_waited_for(sqlite_file: Path) -> None:
    ledger = open_ledger(f"sqlite:///{sqlite_file}")
    other = sqlite3.connect(sqlite_file, isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, lambda: other.execute("COMMIT")).start()
    ledger.append("noted", actor="a", reason="r")
    assert len(ledger.events()) == 1
    other.close()


def test_a_sqlite_file_locked_for_ever_is_named(
    sqlite_file: Path, pauses: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database_module, "BUSY_TIMEOUT_SECONDS", 0)
    ledger = open_ledger(f"sqlite:///{sqlite_file}")
    other = sqlite3.connect(sqlite_file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(UnreachableError, match="database is locked"):
        ledger.append("noted", actor="a", reason="r")
    other.close()
    assert ledger.append("noted", actor="a", reason="r").kind == "noted"


def test_a_full_disk_is_said_at_once(sqlite_file: Path, pauses: list[float]) -> None:
    """max_page_count makes SQLite answer as it does on a full disk."""
    ledger = open_ledger(f"sqlite:///{sqlite_file}")

    @sa.event.listens_for(ledger._sessions._database._engine, "begin")
    def fill(connection: Connection) -> None:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")

    with pytest.raises(StoreError, match="refused: database or disk is full") as e:
        ledger.append("noted", actor="a", reason="x" * 100_000)
    assert not isinstance(e.value, UnreachableError)
    assert pauses == []
    assert open_ledger(f"sqlite:///{sqlite_file}").events() == []


def test_a_file_that_is_no_database_is_said(tmp_path: Path, pauses: list[float]) -> None:
    (tmp_path / "store.db").write_bytes(b"this is a letter, not a ledger" * 100)
    for start in (open_ledger, migrate):
        with pytest.raises(StoreError, match="not a database"):
            start(f"sqlite:///{tmp_path / 'store.db'}")
    assert pauses == []


def test_a_folder_that_is_missing_is_said(tmp_path: Path, pauses: list[float]) -> None:
    with pytest.raises(UnreachableError, match="unable to open database file"):
        migrate(f"sqlite:///{tmp_path / 'nowhere' / 'store.db'}")


@pytest.mark.parametrize("url", ["", "store.db", "nosuch://host/db", "postgresql+nosuch://h/d"])
def test_what_is_no_database_url_is_said_without_showing_it(url: str) -> None:
    with pytest.raises(StoreError, match=r"address of the ledger .*sqlite:///FILE"):
        open_ledger(url)


def test_a_plain_postgresql_url_takes_the_driver_we_ship(postgres_ledger_url: str) -> None:
    plain = postgres_ledger_url.replace("postgresql+psycopg", "postgresql")
    assert isinstance(open_ledger(plain), Ledger)


APPEND_FOR_EVER = """
import itertools, sys
from store.ledger import open_ledger

ledger = open_ledger(sys.argv[1])
for number in itertools.count():
    ledger.append("noted", actor="a", reason="x" * 2000, payload={"n": number})
    print(number, flush=True)
"""


def test_killed_at_any_instant_the_events_are_a_whole_prefix(ledger_url: str) -> None:
    for pause in (0.0, 0.017):
        before = len(open_ledger(ledger_url).events())
        process = subprocess.Popen(
            [sys.executable, "-c", APPEND_FOR_EVER, ledger_url],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(pause)
        process.kill()
        said = 1 + len(process.communicate(timeout=60)[0].splitlines())
        events = open_ledger(ledger_url).events()
        numbers = [e.payload["n"] for e in events[before:]]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) >= said, "what was said to be kept is kept"
