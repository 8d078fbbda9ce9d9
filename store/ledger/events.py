"""The ledger's events: appended, never edited, and what is deployed follows from them.

Works within a writing transaction of a `Ledger` method, its one caller. Such transactions exclude
each other (on SQLite by BEGIN IMMEDIATE, on PostgreSQL by a lock on this table), so what is read
here still holds when the event is appended, and ids rise in the order of commits.
"""

from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from store.errors import ConflictError
from store.ledger.kept import find
from store.ledger.records import DECISION_KINDS, RELEASE_KINDS, Event
from store.ledger.tables import IS_RELEASE, EventRow, ModelVersionRow


def append(session: Session, fields: dict[str, Any]) -> Event:
    """The event is appended.

    Raises:
        ValueError: it is of a kind that has rules of its own, or says too little.
        ConflictError: the update was decided by a person before, or what is to be turned down was
            promoted.
    """
    kind, update = fields["kind"], fields["update"]
    if kind in RELEASE_KINDS:
        raise ValueError(f"kind: {kind} changes what is deployed; append it by append_release")
    if kind in DECISION_KINDS:
        if update is None:
            raise ValueError(f"update: None; {kind} decides an update, so name it")
        earlier = _first(session, update, DECISION_KINDS)
        if earlier is not None:
            raise ConflictError(
                f"update {update} was {earlier.kind} already, by {earlier.actor} "
                f"({earlier.reason}); an update is decided once"
            )
        promoted = _promotion(session, update, fields["version"])
        if promoted is not None and kind != "approved":
            raise ConflictError(
                f"update {update} was promoted meanwhile, by {promoted.actor} ({promoted.reason}). "
                "Go back with `updater rollback --reason TEXT`"
            )
    return _add(session, fields)


def append_release(session: Session, fields: dict[str, Any], *, expected: str | None) -> Event:
    """The release event is appended on top of `expected`, or is the one the update had already.

    Raises:
        ValueError: the kind is not a release.
        NotFoundError: the ledger has no such version.
        ConflictError: not `expected` but another version is deployed, or a person has turned the
            update down.
    """
    kind, version, update = fields["kind"], fields["version"], fields["update"]
    if kind not in RELEASE_KINDS:
        raise ValueError(f"kind: {kind}; must be one of {', '.join(RELEASE_KINDS)}")
    maker = find(session, ModelVersionRow, version).update
    if kind == "promoted" and update is not None:
        earlier = _first(session, update, ("promoted",))
        if earlier is not None:
            return earlier.record(Event)
    if kind == "promoted" and maker is not None and not fields["payload"].get("overridden"):
        refused = _first(session, maker, ("rejected", "abandoned"))
        if refused is not None:
            raise ConflictError(
                f"update {maker} was {refused.kind} meanwhile, by {refused.actor} "
                f"({refused.reason}); what a person turned down is not deployed"
            )
    deployed = _deployed(session)
    if deployed != expected:
        raise ConflictError(
            f"version {version} was to follow {_named(expected)}, but {_named(deployed)} is "
            "deployed now: somebody else released meanwhile. Look at `updater history`, then "
            "run the command again if it is still right."
        )
    return _add(session, {**fields, "previous": deployed})


def _deployed(session: Session) -> str | None:
    newest = select(EventRow.version).where(IS_RELEASE)
    return session.scalars(newest.order_by(EventRow.id.desc()).limit(1)).one_or_none()


def _first(session: Session, update: str, kinds: tuple[str, ...]) -> EventRow | None:
    chosen = select(EventRow).where(EventRow.update == update, EventRow.kind.in_(kinds))
    return session.scalars(chosen.order_by(EventRow.id).limit(1)).one_or_none()


def _promotion(session: Session, update: str, version: str | None) -> EventRow | None:
    """By the update itself or by hand, which names no update."""
    found = _first(session, update, ("promoted",))
    if found is None and version is not None:
        chosen = select(EventRow).where(EventRow.version == version, EventRow.kind == "promoted")
        found = session.scalars(chosen.order_by(EventRow.id).limit(1)).one_or_none()
    return found


def _add(session: Session, fields: dict[str, Any]) -> Event:
    row = EventRow(**fields)
    session.add(row)
    session.flush()
    session.refresh(row)
    return row.record(Event)


def _named(version: str | None) -> str:
    return "nothing" if version is None else f"version {version}"
