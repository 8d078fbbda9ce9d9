"""What stands, derived from the ledger: deployed versions, candidates, unfinished work.

Changes nothing (that is `updater.release`, through which the rest of the service calls this).
Only the order of events counts, never their times.
"""

from collections.abc import Collection, Sequence

from store.ledger import Event, Ledger, Update
from store.ledger.records import DECISION_KINDS

RELEASES = ("promoted", "rolled_back")


def last_release(events: Sequence[Event]) -> Event | None:
    """The event that made the deployed version what it is; None before the first."""
    return next((e for e in reversed(events) if e.kind in RELEASES), None)


def deployed(events: Sequence[Event]) -> str | None:
    """The version in use; None before the first promotion."""
    last = last_release(events)
    return last.version if last else None


def deployments(events: Sequence[Event]) -> list[str]:
    """The stack that rollback walks, the deployed version last.

    A promotion is put on top. A rollback takes off what lies above its version; one to a version
    that was taken off before puts it on top again.
    """
    stack: list[str] = []
    for event in events:
        version = event.version
        if event.kind not in RELEASES or version is None or stack[-1:] == [version]:
            continue
        if event.kind == "rolled_back" and version in stack:
            while stack[-1] != version:
                stack.pop()
        else:
            stack.append(version)
    return stack


def deployments_ever(events: Sequence[Event]) -> list[str]:
    """Every version that was ever deployed, once, in the order of first deployments."""
    versions = (e.version for e in events if e.kind in RELEASES)
    return list(dict.fromkeys(v for v in versions if v is not None))


def lineage(ledger: Ledger, version: str | None) -> list[str]:
    """`version`, its base, the base's base and so on to the first."""
    chain = []
    while version is not None:
        chain.append(version)
        version = ledger.model_version(version).base
    return chain


def promotion(events: Sequence[Event], update: Update) -> Event | None:
    """The event that promoted the update's candidate, by the update itself or by hand."""
    for event in events:
        if event.kind == "promoted" and (
            event.update == update.id or event.version == update.candidate is not None
        ):
            return event
    return None


def decision(events: Sequence[Event], update_id: str) -> Event | None:
    """What a person decided on the update: an event "approved", "rejected" or "abandoned", or
    None."""
    return next((e for e in events if e.kind in DECISION_KINDS and e.update == update_id), None)


def abandoned(events: Sequence[Event], update_id: str) -> Event | None:
    """The event by which a person gave the update up before it was finished, or None."""
    decided = decision(events, update_id)
    return decided if decided is not None and decided.kind == "abandoned" else None


def awaiting_approval(ledger: Ledger) -> list[str]:
    """The updates that wait for a person and could still be promoted, oldest first.

    One that was approved, but whose promotion was cut short, still waits: approving it again
    finishes it.
    """
    waiting = {s.update for s in ledger.steps() if s.name == "release" and s.result.get("awaiting")}
    return [update.id for update in _open(ledger) if update.id in waiting]


def candidate(ledger: Ledger) -> str | None:
    """The newest version of which it is still to be decided whether it is promoted.

    That is one whose update waits for a person, or was judged and is being released.
    """
    return _newest(ledger, [u for u in _open(ledger) if u.id in _undecided(ledger)])


def candidate_awaiting(ledger: Ledger) -> str | None:
    """As `candidate`, of the updates that wait for a person alone."""
    waiting = awaiting_approval(ledger)
    return _newest(ledger, [u for u in _open(ledger) if u.id in waiting])


def unfinished(ledger: Ledger) -> list[str]:
    """The updates that running their command again would finish, oldest first.

    Not those that were abandoned, nor those that are superseded: whose base is deployed no longer
    (unless they themselves were promoted), and first models that a later one of the same periods'
    end has replaced.
    """
    steps = ledger.steps()
    started = {s.update for s in steps}
    finished = {s.update for s in steps if s.name == "release" and s.state == "finished"}
    events = ledger.events()
    now = deployed(events)
    updates = ledger.updates()
    replaced = {
        earlier.id
        for number, later in enumerate(updates)
        if later.id in finished
        for earlier in updates[:number]
        if (earlier.kind, earlier.period) == (later.kind, later.period)
    }

    def stands(update: Update) -> bool:
        if abandoned(events, update.id) is not None:
            return False
        if update.kind == "update":
            return update.base == now or promotion(events, update) is not None
        return update.id in started and update.id not in replaced

    return [u.id for u in updates if u.id not in finished and stands(u)]


def _open(ledger: Ledger) -> list[Update]:
    """The updates on the deployed version that have a candidate which nobody has settled."""
    events = ledger.events()
    now = deployed(events)

    def is_open(update: Update) -> bool:
        decided = decision(events, update.id)
        return (
            update.candidate is not None
            and update.base == now
            and promotion(events, update) is None
            and (decided is None or decided.kind == "approved")
        )

    return [update for update in ledger.updates() if is_open(update)]


def _undecided(ledger: Ledger) -> set[str]:
    """The updates that wait for a person, and those between the gate and the end of release."""
    released = {s.update: s for s in ledger.steps() if s.name == "release"}
    judged = {v.update for v in ledger.verdicts() if v.verdict in ("accepted", "review")}
    done = {name for name, step in released.items() if step.state == "finished"}
    first = {update.id for update in ledger.updates() if update.base is None}
    return set(awaiting_approval(ledger)) | (judged - done - first)


def _newest(ledger: Ledger, updates: Collection[Update]) -> str | None:
    made = {update.candidate for update in updates}
    return next((v.id for v in reversed(ledger.model_versions()) if v.id in made), None)
