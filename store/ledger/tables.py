"""The ledger's tables, typed. Changing one takes a migration in `store/ledger/migrations`.

Not what callers see (`store.ledger.records`): every row turns into a record of the same field
names. `row` is the order of arrival, which is what "oldest first" means; the clock never is.
Used by `store.ledger` alone.
"""

import dataclasses
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Float,
    ForeignKey,
    Index,
    MetaData,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.types import Integer, Text

from store.database import PlainJson, UtcTime
from store.ledger.records import RELEASE_KINDS, STEP_STATES, UPDATE_KINDS, VERDICTS

Record = TypeVar("Record")

# A constraint without a name can't be changed by a later migration.
NAMES = {
    "ix": "%(table_name)s_%(column_0_name)s",
    "uq": "%(table_name)s_%(column_0_N_name)s_unique",
    "ck": "%(table_name)s_%(constraint_name)s",
    "fk": "%(table_name)s_%(column_0_name)s_known",
    "pk": "%(table_name)s_key",
}


def _one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN {values}", name=f"{column}_known")


class Row(DeclarativeBase):
    """A row of any of the tables."""

    metadata = MetaData(naming_convention=NAMES)
    type_annotation_map = {  # noqa: RUF012 (SQLAlchemy's own declaration)
        str: Text,
        int: BigInteger,
        float: Float(53),
        datetime: UtcTime,
        dict[str, Any]: PlainJson,
        dict[str, str]: PlainJson,
        list[str]: PlainJson,
        list[dict[str, Any]]: PlainJson,
    }

    def record(self, kind: type[Record]) -> Record:
        """The row as the dataclass `kind`, whose fields are columns of this table."""
        names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
        return kind(**{name: getattr(self, name) for name in names})


class PeriodRow(Row):
    __tablename__ = "periods"
    row: Mapped[int] = mapped_column(Integer, primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    ordinal: Mapped[int]
    start_at: Mapped[datetime | None]
    end_at: Mapped[datetime | None]


class DatasetVersionRow(Row):
    __tablename__ = "dataset_versions"
    row: Mapped[int] = mapped_column(Integer, primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    period: Mapped[str] = mapped_column(ForeignKey("periods.id"), index=True)
    commit: Mapped[str]
    digest: Mapped[str]
    num_train: Mapped[int]
    num_holdout: Mapped[int]
    num_quarantined: Mapped[int]
    num_duplicates: Mapped[int]
    num_leaked: Mapped[int]
    schema: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


class UpdateRow(Row):
    """`base` and `candidate` name model versions, which name their update: no key both ways."""

    __tablename__ = "updates"
    __table_args__ = (_one_of("kind", UPDATE_KINDS),)
    row: Mapped[int] = mapped_column(Integer, primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    period: Mapped[str] = mapped_column(ForeignKey("periods.id"), index=True)
    base: Mapped[str | None]
    dataset_version: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"))
    config: Mapped[dict[str, Any]]
    config_digest: Mapped[str]
    candidate: Mapped[str | None]
    created_at: Mapped[datetime]


class StepRow(Row):
    __tablename__ = "steps"
    __table_args__ = (UniqueConstraint("update", "name"), _one_of("state", STEP_STATES))
    row: Mapped[int] = mapped_column(Integer, primary_key=True)
    update: Mapped[str] = mapped_column(ForeignKey("updates.id"))
    name: Mapped[str]
    state: Mapped[str]
    attempts: Mapped[int]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    seconds: Mapped[float | None]
    result: Mapped[dict[str, Any]]


class ModelVersionRow(Row):
    __tablename__ = "model_versions"
    row: Mapped[int] = mapped_column(Integer, primary_key=True)
    id: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    base: Mapped[str | None] = mapped_column(ForeignKey("model_versions.id"))
    update: Mapped[str | None] = mapped_column(ForeignKey("updates.id"))
    digest: Mapped[str]
    uri: Mapped[str]
    periods: Mapped[list[str]]
    dataset_versions: Mapped[dict[str, str]]
    run_id: Mapped[str]
    created_at: Mapped[datetime]


class ScoreRow(Row):
    __tablename__ = "scores"
    __table_args__ = (
        UniqueConstraint("version", "dataset_version"),
        CheckConstraint("num_correct BETWEEN 0 AND num_examples", name="num_correct_possible"),
    )
    row: Mapped[int] = mapped_column(Integer, primary_key=True)
    version: Mapped[str] = mapped_column(ForeignKey("model_versions.id"))
    period: Mapped[str] = mapped_column(ForeignKey("periods.id"), index=True)
    dataset_version: Mapped[str] = mapped_column(ForeignKey("dataset_versions.id"))
    num_correct: Mapped[int]
    num_examples: Mapped[int]
    outcomes: Mapped[str]
    created_at: Mapped[datetime]


class VerdictRow(Row):
    __tablename__ = "verdicts"
    __table_args__ = (_one_of("verdict", VERDICTS),)
    row: Mapped[int] = mapped_column(Integer, primary_key=True)
    update: Mapped[str] = mapped_column(ForeignKey("updates.id"), unique=True)
    verdict: Mapped[str]
    reasons: Mapped[list[str]]
    comparisons: Mapped[list[dict[str, Any]]]
    rule: Mapped[dict[str, Any]]
    created_at: Mapped[datetime]


def _once_per_update(name: str, condition: str) -> Index:
    chosen = text(condition)
    return Index(name, "update", unique=True, sqlite_where=chosen, postgresql_where=chosen)


IS_RELEASE = text(f"kind IN {RELEASE_KINDS}")
"""In words, not values: a database uses a partial index where a question repeats its condition."""


class EventRow(Row):
    """An update is promoted at most once for ever, and decided by a person at most once. (That one
    was abandoned is kept once by the transaction alone.)"""

    __tablename__ = "events"
    __table_args__ = (
        _once_per_update("events_promoted_once", "kind = 'promoted'"),
        _once_per_update("events_decided_once", "kind IN ('approved', 'rejected')"),
        Index("events_kind", "kind"),
        # Of a long history what stands is asked by these, without reading the rest of it.
        Index("events_released", "id", sqlite_where=IS_RELEASE, postgresql_where=IS_RELEASE),
        Index("events_version", "version", "kind", "id"),
        Index("events_update", "update", "kind", "id"),
        {"sqlite_autoincrement": True},
    )
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    at: Mapped[datetime]
    actor: Mapped[str]
    kind: Mapped[str]
    version: Mapped[str | None]
    previous: Mapped[str | None]
    update: Mapped[str | None]
    reason: Mapped[str]
    payload: Mapped[dict[str, Any]]
