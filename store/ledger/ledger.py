"""The ledger: what was learnt, judged and released, in a database; the one truth about it.

Not what it means (`updater.release`, `updater.gate`) and not the data or weights themselves. One
transaction per method, one writer at a time; recording a fact again changes nothing, so every
step may run twice. Called by the steps, the release logic and the read commands.
"""

import dataclasses
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.database import Database
from store.errors import ConflictError, NoLedgerError
from store.ledger import events, past, schema
from store.ledger.kept import find, keep
from store.ledger.records import (
    DatasetVersion,
    Event,
    ModelVersion,
    Period,
    Release,
    Score,
    Step,
    Update,
    VerdictRecord,
)
from store.ledger.sessions import Sessions
from store.ledger.tables import (
    DatasetVersionRow,
    EventRow,
    ModelVersionRow,
    PeriodRow,
    ScoreRow,
    StepRow,
    UpdateRow,
    VerdictRow,
)


def open_ledger(url: str, *, clock: Callable[[], datetime] | None = None) -> "Ledger":
    """The ledger at the SQLAlchemy `url`, its tables as this code needs them. `clock` takes the
    place of its own.

    Raises:
        SchemaError: it has no tables (NoLedgerError), older or newer ones; the message names the
            cure.
        UnreachableError: no answer after retries.
        StoreError: no database URL, or no database there.
    """
    database = Database(url, name="the ledger", wal=True)
    if database.is_missing:
        raise NoLedgerError(f"{database.shown} isn't there. {schema.NEW_OR_LOST}")
    with database.read() as connection:
        schema.check(connection, database.shown)
    return Ledger(database, clock=clock)


class Ledger:
    """See the module. Every method may raise UnreachableError and StoreError as
    `store.database.Database.read` does; Raises sections name what comes on top.

    Lists are oldest first, in the order in which things were recorded.
    """

    def __init__(self, database: Database, *, clock: Callable[[], datetime] | None = None) -> None:
        self._sessions = Sessions(database, clock)

    def now(self) -> datetime:
        """The present, aware, in UTC, by the ledger's own clock: PostgreSQL's, which is one for
        all workers whatever theirs say; with SQLite this machine's."""
        with self._sessions.read() as session:
            return self._sessions.now(session)

    # Periods and their data

    def record_period(
        self, id: str, ordinal: int, start_at: datetime | None, end_at: datetime | None
    ) -> None:
        """The period is known, with this place and these bounds (they may be corrected)."""
        with self._sessions.write() as session:
            row = session.scalars(select(PeriodRow).where(PeriodRow.id == id)).one_or_none()
            if row is None:
                row = PeriodRow(id=id)
                session.add(row)
            row.ordinal, row.start_at, row.end_at = ordinal, start_at, end_at

    def periods(self) -> list[Period]:
        """Every known period, by ordinal."""
        return sorted(self._sessions.all(PeriodRow, Period), key=lambda period: period.ordinal)

    def record_dataset_version(self, version: DatasetVersion) -> None:
        """The dataset version is recorded.

        Raises:
            NotFoundError: its period is not known.
            ConflictError: it is recorded with other content.
        """
        with self._sessions.write() as session:
            find(session, PeriodRow, version.period)
            keep(session, DatasetVersionRow, version, key=("id",))

    def dataset_version(self, id: str) -> DatasetVersion:
        """The dataset version. Raises: NotFoundError: there is none; lists those there are."""
        with self._sessions.read() as session:
            return find(session, DatasetVersionRow, id).record(DatasetVersion)

    def dataset_versions(self, period: str | None = None) -> list[DatasetVersion]:
        """The dataset versions, of one period or of all."""
        where = [] if period is None else [DatasetVersionRow.period == period]
        return self._sessions.all(DatasetVersionRow, DatasetVersion, *where)

    # Updates and their steps

    def open_update(self, update: Update) -> Update:
        """The update is open. Given back as it stands: a known one keeps its candidate.

        Raises:
            NotFoundError: its base or dataset version is not known.
            ConflictError: its id stands for another update.
        """
        with self._sessions.write() as session:
            find(session, DatasetVersionRow, update.dataset_version)
            if update.base is not None:
                find(session, ModelVersionRow, update.base)
            known = session.scalars(select(UpdateRow).where(UpdateRow.id == update.id)).first()
            if known is not None:
                update = dataclasses.replace(update, candidate=known.candidate)
            return keep(session, UpdateRow, update, key=("id",)).record(Update)

    def update(self, id: str) -> Update:
        """The update. Raises: NotFoundError: there is none; lists those there are."""
        with self._sessions.read() as session:
            return find(session, UpdateRow, id).record(Update)

    def updates(self, period: str | None = None) -> list[Update]:
        """The updates, of one period or of all."""
        return self._sessions.all(
            UpdateRow, Update, *([] if period is None else [UpdateRow.period == period])
        )

    def updates_on(self, base: str | None) -> list[Update]:
        """The updates on that base, or without one."""
        return self._sessions.all(UpdateRow, Update, UpdateRow.base == base)

    def updates_without(self, step: str) -> list[Update]:
        """The updates whose step of that name is not finished."""
        with self._sessions.read() as session:
            return [row.record(Update) for row in past.updates_without(session, step)]

    def set_candidate(self, update_id: str, version: str) -> None:
        """The update has made `version`.

        Raises:
            NotFoundError: no such update or version.
            ConflictError: it has made another one.
        """
        with self._sessions.write() as session:
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
        with self._sessions.write() as session:
            find(session, UpdateRow, update)
            row = _step(session, update, name)
            if row is None:
                row = StepRow(update=update, name=name, state="running", attempts=0, result={})
                session.add(row)
            if row.state == "running":
                row.attempts += 1
                row.started_at = self._sessions.now(session)
            session.flush()
            return row.record(Step)

    def finish_step(self, update: str, name: str, result: dict[str, Any], seconds: float) -> Step:
        """The step is finished with this result, which took `seconds`; the first result stays.

        Raises:
            ConflictError: it was never started, or is finished with another result.
            ValueError: `result` is no plain JSON.
        """
        with self._sessions.write() as session:
            row = _step(session, update, name)
            if row is None:
                raise ConflictError(f"step {name} of update {update} can't finish: never started")
            if row.state == "finished":
                again = dataclasses.replace(row.record(Step), result=result)
                return keep(session, StepRow, again, key=("update", "name")).record(Step)
            row.state, row.result, row.seconds = "finished", result, seconds
            row.finished_at = self._sessions.now(session)
            session.flush()
            session.refresh(row)
            return row.record(Step)

    def step(self, update: str, name: str) -> Step | None:
        """The step, or None where it was never started."""
        with self._sessions.read() as session:
            row = _step(session, update, name)
            return None if row is None else row.record(Step)

    def steps(self, update: str | None = None) -> list[Step]:
        """The steps that were ever started, of one update or of all."""
        where = [] if update is None else [StepRow.update == update]
        return self._sessions.all(StepRow, Step, *where)

    # Versions, how they did, and what the gate said

    def record_model_version(self, version: ModelVersion) -> None:
        """The version is recorded.

        Raises:
            NotFoundError: its base or update is not known.
            ConflictError: it is recorded with other content.
        """
        with self._sessions.write() as session:
            if version.base is not None:
                find(session, ModelVersionRow, version.base)
            if version.update is not None:
                find(session, UpdateRow, version.update)
            keep(session, ModelVersionRow, version, key=("id",))

    def model_version(self, id: str) -> ModelVersion:
        """The version. Raises: NotFoundError: there is none; lists those there are."""
        with self._sessions.read() as session:
            return find(session, ModelVersionRow, id).record(ModelVersion)

    def model_versions(self) -> list[ModelVersion]:
        """Every version."""
        return self._sessions.all(ModelVersionRow, ModelVersion)

    def newest_version(self, among: Collection[str] | None = None) -> ModelVersion | None:
        """The newest version of all, or among these; None where there is none."""
        with self._sessions.read() as session:
            row = past.newest_version(session, among)
            return None if row is None else row.record(ModelVersion)

    def lineage(self, version: str) -> list[str]:
        """The version, its base, the base's base and so on to the first.

        Raises:
            NotFoundError: there is no such version.
        """
        with self._sessions.read() as session:
            found = past.lineage(session, version)
            return found or [find(session, ModelVersionRow, version).id]

    def record_scores(self, scores: Sequence[Score]) -> None:
        """All of the scores are recorded, or none where one of them is refused.

        Raises:
            NotFoundError: a version or dataset version is not known.
            ConflictError: one is recorded with another count.
        """
        with self._sessions.write() as session:
            for score in scores:
                find(session, ModelVersionRow, score.version)
                find(session, DatasetVersionRow, score.dataset_version)
                keep(session, ScoreRow, score, key=("version", "dataset_version"))

    def scores(self, version: str | None = None, period: str | None = None) -> list[Score]:
        """The scores, of one version or period or of all."""
        where = [] if version is None else [ScoreRow.version == version]
        where += [] if period is None else [ScoreRow.period == period]
        return self._sessions.all(ScoreRow, Score, *where)

    def record_verdict(
        self,
        update: str,
        verdict: str,
        *,
        reasons: list[str],
        comparisons: list[dict[str, Any]],
        rule: dict[str, Any],
    ) -> VerdictRecord:
        """The gate's verdict on the update is recorded, once for ever.

        Raises:
            NotFoundError: no such update.
            ConflictError: another verdict is recorded.
            ValueError: a number in it is not finite.
        """
        with self._sessions.write() as session:
            find(session, UpdateRow, update)
            record = VerdictRecord(
                update=update,
                verdict=verdict,
                reasons=reasons,
                comparisons=comparisons,
                rule=rule,
                created_at=self._sessions.now(session),
            )
            return keep(session, VerdictRow, record, key=("update",)).record(VerdictRecord)

    def verdict(self, update: str) -> VerdictRecord | None:
        """The gate's verdict on the update, or None before there is one."""
        known = self._sessions.all(VerdictRow, VerdictRecord, VerdictRow.update == update)
        return known[0] if known else None

    def verdicts(self) -> list[VerdictRecord]:
        """Every verdict."""
        return self._sessions.all(VerdictRow, VerdictRecord)

    # Events

    def append(
        self,
        kind: str,
        version: str | None = None,
        *,
        actor: str,
        reason: str,
        update: str | None = None,
        payload: dict[str, Any] | None = None,
    ) -> Event:
        """The event has happened. Each call is another event.

        Raises:
            ValueError: a release (use `append_release`), or a decision without its update.
            ConflictError: a second decision ("approved", "rejected", "abandoned") on one update, or
                a "rejected" or "abandoned" on one that was promoted.
        """
        fields = _event(kind, version, actor, reason, update) | {"payload": payload or {}}
        with self._sessions.write() as session:
            return events.append(session, {**fields, "at": self._sessions.now(session)})

    def append_release(
        self,
        kind: str,
        version: str,
        *,
        expected_deployed: str | None,
        actor: str,
        reason: str,
        update: str | None = None,
        payload: dict[str, Any] | None = None,
    ) -> Event:
        """`version` is deployed by an event "promoted" or "rolled_back", if `expected_deployed`
        was deployed until this very transaction. An update is promoted once for ever: a second
        promotion in its name gives back the first event and changes nothing.

        Raises:
            NotFoundError: no such version.
            ConflictError: another version is deployed, or a person has rejected or abandoned the
                update and nothing in `payload` says that this is overridden; nothing was appended.
            ValueError: `kind` is no release.
        """
        fields = _event(kind, version, actor, reason, update) | {"payload": payload or {}}
        with self._sessions.write() as session:
            fields["at"] = self._sessions.now(session)
            return events.append_release(session, fields, expected=expected_deployed)

    def events(self, kind: str | None = None) -> list[Event]:
        """The events, of one kind or of all."""
        where = [] if kind is None else [EventRow.kind == kind]
        return self._sessions.all(EventRow, Event, *where)

    def first_event(
        self, *kinds: str, update: str | None = None, version: str | None = None
    ) -> Event | None:
        """The oldest event of one of these kinds on the update, or where None is given on the
        version; None where there is none. Reads that one alone, however long the history is."""
        with self._sessions.read() as session:
            return past.first(session, kinds, update=update, version=version)

    def newest_events(self, most: int) -> list[Event]:
        """The newest `most` events, or all that there are."""
        with self._sessions.read() as session:
            return past.newest(session, most)

    def last_release(self) -> Event | None:
        """The event by which what is deployed came; None before the first release."""
        with self._sessions.read() as session:
            return past.last_release(session)

    def first_release_after(self, event: int) -> Event | None:
        """The oldest release that is newer than the event of that id; None where there is none."""
        with self._sessions.read() as session:
            return past.first_release_after(session, event)

    def releases(self, most: int) -> list[Release]:
        """The newest `most` releases, or all that there are."""
        with self._sessions.read() as session:
            return past.releases(session, most)

    def ever_deployed(self) -> list[str]:
        """Every version that was ever deployed, once, in the order of first deployments."""
        with self._sessions.read() as session:
            return past.ever_deployed(session)


def _event(
    kind: str, version: str | None, actor: str, reason: str, update: str | None
) -> dict[str, Any]:
    return {
        "actor": actor,
        "kind": kind,
        "version": version,
        "update": update,
        "reason": reason,
    }


def _step(session: Session, update: str, name: str) -> StepRow | None:
    chosen = select(StepRow).where(StepRow.update == update, StepRow.name == name)
    return session.scalars(chosen).one_or_none()
