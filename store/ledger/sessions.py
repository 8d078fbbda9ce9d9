"""The ledger's transactions: readers see one state, and there is one writer at a time.

Used by `store.ledger.ledger` alone, which opens one for each of its methods.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TypeVar

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.orm import Session

from store.database import Database
from store.ledger.tables import Row

Record = TypeVar("Record")

# Longer than any transaction of ours: who waits for it waits for a client that hangs.
LOCK_TIMEOUT_SECONDS = 20


class Sessions:
    """Transactions on `database`. They raise what `Database.read` and `Database.write` do.

    `clock` takes the place of the database's own, for tests.
    """

    def __init__(self, database: Database, clock: Callable[[], datetime] | None) -> None:
        self._database = database
        self._clock = clock

    def now(self, session: Session) -> datetime:
        """The present, aware, in UTC. Workers' clocks may be hours apart, so PostgreSQL's is
        asked: within `write` it then rises with the order of commits."""
        if self._clock is not None:
            return self._clock()
        if self._database.is_sqlite:
            return datetime.now(UTC)
        with session.no_autoflush:  # a row of the caller's may be half made
            present: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        return present.astimezone(UTC)

    @contextlib.contextmanager
    def read(self) -> Iterator[Session]:
        """A session that sees one state of the ledger."""
        with self._database.read() as connection, Session(connection) as session:
            yield session

    @contextlib.contextmanager
    def write(self) -> Iterator[Session]:
        """The one writing session: on SQLite by its nature, on PostgreSQL by this lock."""
        with self._database.write() as connection:
            if not self._database.is_sqlite:
                connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT_SECONDS}s'"))
                connection.execute(text("LOCK TABLE events IN SHARE ROW EXCLUSIVE MODE"))
            with Session(connection) as session:
                yield session
                session.flush()

    def all(
        self, table: type[Row], record: type[Record], *where: ColumnElement[bool]
    ) -> list[Record]:
        """The rows that meet `where` as records, in the order in which they arrived."""
        names = [f.name for f in dataclasses.fields(record)]  # type: ignore[arg-type]
        # By columns: as objects of the table's class, millions of scores would take minutes.
        chosen = select(*(getattr(table, name) for name in names)).where(*where)
        with self.read() as session:
            rows = session.execute(chosen.order_by(*table.__table__.primary_key))
            return [record(**dict(zip(names, row, strict=True))) for row in rows]
