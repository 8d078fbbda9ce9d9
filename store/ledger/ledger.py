"""The ledger: what was learnt, judged and released, in a database; the one truth about it.

Not what it means (`updater.release`, `updater.gate`) and not the data or weights themselves. One
transaction per method, one writer at a time; recording a fact again changes nothing, so every
step may run twice. Called by the steps, the release logic and the read commands.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, select, text
from sqlalchemy.orm import Session

from store.database import Database
from store.errors import ConflictError, SchemaError
from store.ledger import events, schema
from store.ledger.kept import find, keep
from store.ledger.records import (
    DatasetVersion,
    Event,
    ModelVersion,
    Period,
    Score,
    Step,
    Update,
    VerdictRecord,
)
from store.ledger.tables import (
    DatasetVersionRow,
    EventRow,
    ModelVersionRow,
    PeriodRow,
    Row,
    ScoreRow,
    StepRow,
    UpdateRow,
    VerdictRow,
)

AnyRecord = TypeVar("AnyRecord")

# Longer than any transaction of ours; a client that hangs with the lock is then named, not joined.
LOCK_TIMEOUT_SECONDS = 20


def now() -> datetime:
    """The present, aware, in UTC."""
    return datetime.now(UTC)


def open_ledger(url: str, *, clock: Callable[[], datetime] = now) -> "Ledger":
    """The ledger at the SQLAlchemy `url`, its tables as this code needs them.

    Raises:
        SchemaError: it has no tables, older or newer ones; the message names the cure.
        UnreachableError: no answer after retries.
        StoreError: no database URL, or no database there.
    """
    database = Database(url, name="the ledger", wal=True)
    if database.is_missing:
        raise SchemaError(f"{database.shown} isn't there. Run `updater init` on the workspace.")
    with database.read() as connection:
        schema.check(connection, database.shown)
    return Ledger(database, clock=clock)


class Ledger:
    """See the module. Every method may raise UnreachableError and StoreError as
    `store.database.Database.read` does; Raises sections name what comes on top.

    Lists are oldest first, in the order in which things were recorded.
    """

    def __init__(self, database: Database, *, clock: Callable[[], datetime] = now) -> None:
        self._database = database
        self._clock = clock

    # Periods and their data

    def record_period(
        self, id: str, ordinal: int, start_at: datetime | None, end_at: datetime | None
    ) -> None:
        """The period is known, with this place and these bounds (they may be corrected)."""
        with self._write() as session:
            row = session.scalars(select(PeriodRow).where(PeriodRow.id == id)).one_or_none()
            if row is None:
                row = PeriodRow(id=id)
                session.add(row)
            row.ordinal, row.start_at, row.end_at = ordinal, start_at, end_at

    def periods(self) -> list[Period]:
        """Every known period, by ordinal."""
        return sorted(self._all(PeriodRow, Period), key=lambda period: period.ordinal)

    def record_dataset_version(self, version: DatasetVersion) -> None:
        """The dataset version is recorded.

        Raises:
            NotFoundError: its period is not known.
            ConflictError: it is recorded with other content.
        """
        with self._write() as session:
            find(session, PeriodRow, version.period)
            keep(session, DatasetVersionRow, version, key=("id",))

    def dataset_version(self, id: str) -> DatasetVersion:
        """The dataset version. Raises: NotFoundError: there is none; lists those there are."""
        with self._read() as session:
            return find(session, DatasetVersionRow, id).record(DatasetVersion)

    def dataset_versions(self, period: str | None = None) -> list[DatasetVersion]:
        """The dataset versions, of one period or of all."""
        where = [] if period is None else [DatasetVersionRow.period == period]
        return self._all(DatasetVersionRow, DatasetVersion, *where)

    def latest_dataset_version(self, period: str) -> DatasetVersion | None:
        """The period's newest dataset version, or None."""
        known = self.dataset_versions(period)
        return known[-1] if known else None

    # Updates and their steps

    def open_update(self, update: Update) -> Update:
        """The update is open. Given back as it stands: a known one keeps its candidate.

        Raises:
            NotFoundError: its base or dataset version is not known.
            ConflictError: its id stands for another update.
        """
        with self._write() as session:
            find(session, DatasetVersionRow, update.dataset_version)
            if update.base is not None:
                find(session, ModelVersionRow, update.base)
            known = session.scalars(select(UpdateRow).where(UpdateRow.id == update.id)).first()
            if known is not None:
                update = dataclasses.replace(update, candidate=known.candidate)
            return keep(session, UpdateRow, update, key=("id",)).record(Update)

    def update(self, id: str) -> Update:
        """The update. Raises: NotFoundError: there is none; lists those there are."""
        with self._read() as session:
            return find(session, UpdateRow, id).record(Update)

    def updates(self, period: str | None = None) -> list[Update]:
        """The updates, of one period or of all."""
        return self._all(UpdateRow, Update, *([] if period is None else [UpdateRow.period == period]))

    def set_candidate(self, update_id: str, version: str) -> None:
        """The update has made `version`.

        Raises:
            NotFoundError: no such update or version.
            ConflictError: it has made another one.
        """
        with self._write() as session:
            find(session, ModelVersionRow, version)
            row = find(session, UpdateRow, update_id)
            if row.candidate not in (None, version):
                raise ConflictError(
                    f"update {update_id} has made version {row.candidate} and can't have made "
                    f"version {version} too"
                )
            row.candidate = version

    def start_step(self, update: str, name: str) -> Step:
        """The step runs, for one more attempt; a finished one stays finished.

        Raises:
            NotFoundError: no such update.
        """
        with self._write() as session:
            find(session, UpdateRow, update)
            row = _step(session, update, name)
            if row is None:
                row = StepRow(update=update, name=name, state="running", attempts=0, result={})
                session.add(row)
            if row.state == "running":
                row.attempts += 1
                row.started_at = self._clock()
            session.flush()
            return row.record(Step)

    def finish_step(self, update: str, name: str, result: dict[str, Any], seconds: float) -> Step:
        """The step is finished with this result, which took `seconds`; the first result stays.

        Raises:
            ConflictError: it was never started, or is finished with another result.
            ValueError: `result` is no plain JSON.
        """
        with self._write() as session:
            row = _step(session, update, name)
            if row is None:
                raise ConflictError(f"step {name} of update {update} can't finish: never started")
            first = row.finished_at or self._clock()
            spent = seconds if row.seconds is None else row.seconds
            row.state = "finished"
            if row.finished_at is None:
                row.result = result
            finished = dataclasses.replace(
                row.record(Step), result=result, finished_at=first, seconds=spent
            )
            row.finished_at, row.seconds = first, spent
            return keep(session, StepRow, finished, key=("update", "name")).record(Step)

    def step(self, update: str, name: str) -> Step | None:
        """The step, or None where it was never started."""
        with self._read() as session:
            row = _step(session, update, name)
            return None if row is None else row.record(Step)

    def steps(self, update: str) -> list[Step]:
        """The update's steps that were ever started."""
        return self._all(StepRow, Step, StepRow.update == update)
