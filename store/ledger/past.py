"""Questions about a long past that read no more of it than the answer needs.

Works within a reading transaction of a `Ledger` method, which is its one caller. Appending events
is `store.ledger.events`.
"""

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session, aliased

from store.ledger.records import Event, Release
from store.ledger.tables import IS_RELEASE, EventRow, ModelVersionRow, StepRow, UpdateRow


def first(
    session: Session, kinds: Sequence[str], *, update: str | None, version: str | None
) -> Event | None:
    """The oldest event of one of these kinds that is of the update, or else of the version."""
    of_one = EventRow.update == update if update is not None else EventRow.version == version
    # One question a kind: of several at once no index gives the order.
    found = [_oldest(session, of_one, EventRow.kind == kind) for kind in kinds]
    return min((e for e in found if e is not None), key=lambda event: event.id, default=None)


def _oldest(session: Session, *where: ColumnElement[bool]) -> Event | None:
    chosen = select(EventRow).where(*where).order_by(EventRow.id).limit(1)
    row = session.scalars(chosen).one_or_none()
    return None if row is None else row.record(Event)


def newest(session: Session, most: int) -> list[Event]:
    """The newest events, oldest first, and no more than `most`."""
    rows = session.scalars(select(EventRow).order_by(EventRow.id.desc()).limit(most)).all()
    return [row.record(Event) for row in reversed(rows)]


def last_release(session: Session) -> Event | None:
    """The newest event by which a version was deployed."""
    chosen = select(EventRow).where(IS_RELEASE)
    row = session.scalars(chosen.order_by(EventRow.id.desc()).limit(1)).one_or_none()
    return None if row is None else row.record(Event)


def first_release_after(session: Session, event: int) -> Event | None:
    """The oldest release that is newer than the event of that id; None where there is none."""
    chosen = select(EventRow).where(IS_RELEASE, EventRow.id > event)
    row = session.scalars(chosen.order_by(EventRow.id).limit(1)).one_or_none()
    return None if row is None else row.record(Event)


def releases(session: Session, most: int) -> list[Release]:
    """The newest releases, oldest first, and no more than `most`."""
    chosen = select(EventRow.kind, EventRow.version).where(IS_RELEASE)
    newest = session.execute(chosen.order_by(EventRow.id.desc()).limit(most)).all()
    return [Release(kind, str(version)) for kind, version in reversed(newest)]


def ever_deployed(session: Session) -> list[str]:
    """Every version that was ever deployed, once, in the order of first deployments."""
    first_id = func.min(EventRow.id)
    chosen = select(EventRow.version).where(IS_RELEASE)
    versions = session.scalars(chosen.group_by(EventRow.version).order_by(first_id))
    return [version for version in versions if version is not None]


def lineage(session: Session, version: str) -> list[str]:
    """The version, its base, the base's base and so on to the first; [] where there is none."""
    chosen = select(ModelVersionRow.id, ModelVersionRow.base, ModelVersionRow.row)
    line = chosen.where(ModelVersionRow.id == version).cte("line", recursive=True)
    base = aliased(ModelVersionRow)
    line = line.union_all(select(base.id, base.base, base.row).where(base.id == line.c.base))
    return list(session.scalars(select(line.c.id).order_by(line.c.row.desc())))


def updates_without(session: Session, step: str) -> list[UpdateRow]:
    """The updates whose step of that name is not finished, oldest first."""
    finished = select(StepRow.update).where(StepRow.name == step, StepRow.state == "finished")
    chosen = select(UpdateRow).where(UpdateRow.id.not_in(finished))
    return list(session.scalars(chosen.order_by(UpdateRow.row)))


def newest_version(session: Session, among: Collection[str] | None) -> ModelVersionRow | None:
    """The newest version of all, or among these."""
    chosen = select(ModelVersionRow)
    if among is not None:
        chosen = chosen.where(ModelVersionRow.id.in_(among))
    return session.scalars(chosen.order_by(ModelVersionRow.row.desc()).limit(1)).one_or_none()
