"""Facts are kept once: recording one again changes nothing, and contradicting one is refused.

Works within the transaction of a `Ledger` method, which is its one caller, and on any table.
"""

import dataclasses
from typing import Any, TypeVar

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.database import PlainJson, plain
from store.errors import ConflictError, NotFoundError
from store.ledger.tables import DatasetVersionRow, ModelVersionRow, PeriodRow, Row, UpdateRow

AnyRow = TypeVar("AnyRow", bound=Row)
Named = TypeVar("Named", PeriodRow, DatasetVersionRow, UpdateRow, ModelVersionRow)

NOUNS: dict[type[Row], str] = {
    PeriodRow: "period",
    DatasetVersionRow: "dataset version",
    UpdateRow: "update",
    ModelVersionRow: "version",
}
MOST_LISTED = 20


def find(session: Session, table: type[Named], name: str) -> Named:
    """The row called `name`.

    Raises:
        NotFoundError: there is none; the message lists the newest that there are.
    """
    row = session.scalars(select(table).where(table.id == name)).one_or_none()
    if row is not None:
        return row
    newest = select(table.id).order_by(table.row.desc()).limit(MOST_LISTED + 1)
    known = list(session.scalars(newest))
    listed = ", ".join(reversed(known[:MOST_LISTED])) or "none yet"
    more = "older ones, " if len(known) > MOST_LISTED else ""
    raise NotFoundError(f"no {NOUNS[table]} {name} in the ledger; there are: {more}{listed}")


def keep(session: Session, table: type[AnyRow], record: Any, *, key: tuple[str, ...]) -> AnyRow:
    """The row that holds the dataclass `record`: the one that was there, else a new one.

    `key` are the fields that tell one fact from another. `created_at` is when it was first
    recorded, so the first one stays.

    Raises:
        ConflictError: a fact with that key is there and says something else.
    """
    fields = {f.name: _as_kept(table, f.name, getattr(record, f.name)) for f in _fields(record)}
    name = {column: fields[column] for column in key}
    row = session.scalars(select(table).filter_by(**name)).one_or_none()
    if row is None:
        row = table(**fields)
        session.add(row)
        session.flush()
        return row
    for field, value in fields.items():
        kept = getattr(row, field)
        if field != "created_at" and kept != value:
            shown = ", ".join(str(part) for part in name.values())
            raise ConflictError(
                f"{table.__tablename__}: {shown} is recorded with {field} {_short(kept)} and can't "
                f"be recorded again with {_short(value)}: facts are kept as they first were"
            )
    return row


def _fields(record: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(record)


def _as_kept(table: type[Row], column: str, value: Any) -> Any:
    """The value as the database will give it back, to compare it with what is there."""
    if not isinstance(table.__table__.columns[column].type, PlainJson):
        return value
    try:
        return plain(value)
    except ValueError as error:
        raise ValueError(f"{column}: {error}") from error


def _short(value: object) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
