"""One SQL database, asked with care: retries on connecting, whole transactions, plain errors.

It knows SQLite from PostgreSQL and nothing of what the tables mean. Called by the ledger and, for
MLflow's own tables, by the aliases.
"""

import contextlib
import json
import shutil
import sqlite3
import weakref
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Dialect, Engine, make_url

from store import disks
from store.errors import StoreError, UnreachableError
from store.retry import with_backoff

# Chosen by judgement: our own transactions last milliseconds, so 5 s and the retries of
# store.retry above it are a stuck writer, not a busy one.
BUSY_TIMEOUT_SECONDS = 5
# Per attempt; libpq's own default is to wait for ever.
CONNECT_TIMEOUT_SECONDS = 3
# With less than this SQLite may not open a file: its shared memory alone takes 32 KiB.
FULL_BYTES = 1 << 20
# What SQLite says when waiting may help. All else it says (disk full, read-only, no such table)
# is as true a second later.
PASSING = ("database is locked", "database table is locked", "unable to open database file")
# What it says, now this and now that, where its folder can't be written to.
CLOSED = ("unable to open database file", "attempt to write a readonly", "disk I/O error")


class UtcTime(sa.types.TypeDecorator[datetime]):
    """An aware datetime, kept and given back as UTC on every database.

    Raises ValueError (inside SQLAlchemy's StatementError) on a naive one.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"{value} has no time zone; times are kept as UTC, so give one")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class PlainJson(sa.types.TypeDecorator[Any]):
    """JSON that every database keeps and gives back alike: see `plain`."""

    impl = sa.JSON
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        return plain(value)


def plain(value: Any) -> Any:
    """The value as JSON gives it back: tuples are lists, the keys of dictionaries strings.

    Raises:
        ValueError: JSON has no such value; NaN and infinity are none (PostgreSQL refuses them).
    """
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{error}; must be plain JSON, its numbers finite: leave out what is not known"
        ) from error


class Database:
    """The database at `url`. `name` says what it is to people, as in "the ledger".

    `wal` puts a SQLite file into write-ahead mode: readers never wait for a writer.
    """

    def __init__(self, url: str, *, name: str, wal: bool) -> None:
        try:
            parsed = make_url(url)
            if parsed.get_backend_name() != "sqlite" and "@" in f"{parsed.host}{parsed.database}":
                raise exc.ArgumentError("more than one @")
            if parsed.drivername == "postgresql":
                parsed = parsed.set(drivername="postgresql+psycopg")
            self._engine = _engine(parsed, wal=wal)
        except (exc.ArgumentError, exc.NoSuchModuleError, ImportError) as error:
            # The URL stays out of the message: it may hold a password.
            raise StoreError(
                f"the address of {name} is no database URL that can be used "
                f"({type(error).__name__}); write sqlite:///FILE or postgresql+psycopg://HOST/NAME"
                ", with @, : and / of a password as %40, %3A and %2F"
            ) from error
        self.shown = f"{name} at {parsed.render_as_string(hide_password=True)}"
        self.is_sqlite = parsed.get_backend_name() == "sqlite"
        self.file = _file(parsed)
        weakref.finalize(self, self._engine.dispose)

    @property
    def is_missing(self) -> bool:
        """Whether it is a SQLite file that isn't there; connecting would make an empty one."""
        return self.file is not None and not self.file.is_file()

    def close(self) -> None:
        """No connection is open. The next question opens one again."""
        self._engine.dispose()

    @contextlib.contextmanager
    def read(self) -> Iterator[Connection]:
        """A transaction that sees one state of the database.

        Raises:
            UnreachableError: no connection after retries, or it broke off within.
            StoreError: the database refused a statement.
            ValueError: a value that no database can keep (NaN in JSON, a naive time).
        """
        with self._transaction(write=False) as connection:
            yield connection

    @contextlib.contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is whole at the end of the block, or never was if it raises.

        On SQLite it excludes every other writer from its first moment, so that what is read in
        it still holds when it commits. On PostgreSQL lock what has to hold. Only connecting is
        retried: the block runs once, because a commit may have arrived although its answer
        didn't.

        Raises: as `read`.
        """
        with self._transaction(write=True) as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, *, write: bool) -> Iterator[Connection]:
        with self._plain_errors():
            connection = with_backoff(
                lambda: self._begin(write=write),
                on=(exc.OperationalError, exc.InterfaceError),
                what=self.shown,
            )
            with connection:
                transaction = connection.get_transaction()
                assert transaction is not None, "_begin began one"
                with transaction:
                    yield connection

    def _begin(self, *, write: bool) -> Connection:
        """A connection on which a transaction has begun.

        Raises:
            OperationalError, InterfaceError: not now, maybe later.
            DatabaseError: never like this.
        """
        connection = self._engine.connect().execution_options(begin_immediate=write)
        try:
            connection.begin()
        except BaseException:
            connection.close()
            raise
        return connection

    @contextlib.contextmanager
    def _plain_errors(self) -> Iterator[None]:
        try:
            yield
        except UnreachableError as error:
            cause = error.__cause__
            if isinstance(cause, exc.DBAPIError) and not self._may_pass(cause):
                raise StoreError(f"{self.shown}: {self._reason(cause)}") from cause
            raise
        except exc.DBAPIError as error:
            if self._may_pass(error):
                raise UnreachableError(
                    f"{self.shown} broke off: {self._reason(error)}. Run the same command again."
                ) from error
            raise StoreError(f"{self.shown} refused: {self._reason(error)}") from error
        except exc.StatementError as error:
            raise ValueError(f"{self.shown} can't keep this: {error.orig}") from error

    def _may_pass(self, error: exc.DBAPIError) -> bool:
        if not isinstance(error, exc.OperationalError | exc.InterfaceError):
            return False
        if not self.is_sqlite:
            return True
        return not self._is_closed and any(said in str(error.orig) for said in PASSING)

    @property
    def _is_closed(self) -> bool:
        """Whether it is a file in a folder where nothing can be written."""
        return self.file is not None and disks.is_closed(self.file.parent)

    def _reason(self, error: exc.DBAPIError) -> str:
        """What the database said. Of a full disk SQLite says no more than "disk I/O error" where
        it can't open its shared memory."""
        said = (str(error.orig).strip() or type(error).__name__).splitlines()[0]
        if self._is_closed and said.startswith(CLOSED):
            return (
                f"{said}. Nothing can be written in its folder, and SQLite writes there even to "
                "read. Mount its disk writable, or give this user the right to write there, and "
                "run the same again"
            )
        if self.file is None or not said.startswith(("disk I/O", "database or disk is full")):
            return said
        try:
            is_full = shutil.disk_usage(self.file.parent).free < FULL_BYTES
        except OSError:
            is_full = False
        return (
            f"{said}. Its disk is full: free some space and run the same again" if is_full else said
        )


def _file(url: sa.URL) -> Path | None:
    """The SQLite file; None for another database, and for one in memory or with a URI for name."""
    name = url.database or ""
    plain = name not in ("", ":memory:") and not name.startswith("file:")
    return Path(name) if plain and url.get_backend_name() == "sqlite" else None


def _engine(url: sa.URL, *, wal: bool) -> Engine:
    if url.get_backend_name() != "sqlite":
        seconds = {"connect_timeout": CONNECT_TIMEOUT_SECONDS}
        return sa.create_engine(url, pool_pre_ping=True, connect_args=seconds)
    engine = sa.create_engine(url)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # or Python begins transactions on its own
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}")
        connection.execute("PRAGMA foreign_keys = ON")
        # FULL, not NORMAL: in write-ahead mode NORMAL may lose the last commits when the power
        # fails, and a release that was announced must not come undone.
        connection.execute("PRAGMA synchronous = FULL")
        if wal:
            connection.execute("PRAGMA journal_mode = WAL")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        immediate = connection.get_execution_options().get("begin_immediate")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if immediate else "BEGIN")

    return engine
