"""What stands, derived from the ledger: deployed versions, candidates, unfinished work.

Changes nothing (that is `updater.release`, through which the rest of the service calls this).
Only the order of events counts, never their times.
"""

from collections.abc import Collection, Iterable

from store.errors import ConflictError
from store.ledger import Event, Ledger, Release, Update
from store.ledger.records import DECISION_KINDS, RELEASE_KINDS

FIRST_READ, MORE = 64, 8
"""Of the newest releases: how many are read to find what was deployed before, and how many times
more where these do not tell."""


def deployed(ledger: Ledger) -> str | None:
    """The version in use; None before the first promotion."""
    last = ledger.last_release()
    return last.version if last else None


def before(ledger: Ledger, now: str) -> str | None:
    """What was deployed before `now`, which is what is deployed; None where the deployments begin
    with that.

    Raises:
        ConflictError: another one is deployed by now.
    """
    most = FIRST_READ
    while True:
        newest = ledger.releases(most)
        is_whole = len(newest) < most
        stack = deployments(newest) if is_whole else deployments(newest[1:], below=newest[0])
        if stack[-1:] != [now]:
            raise ConflictError(
                f"version {now} was to be rolled back, but version {''.join(stack[-1:])} is "
                "deployed now: somebody else released meanwhile. Look at `updater history`, then "
                "run the command again if it is still right."
            )
        if len(stack) > 1 or is_whole:
            return stack[-2] if len(stack) > 1 else None
        most *= MORE


def deployments(releases: Iterable[Release | Event], *, below: Release | None = None) -> list[str]:
    """The stack that rollback walks, the deployed version last.

    A promotion is put on top. A rollback takes off what lies above its version; one to a version
    that was taken off before puts it on top again. `below` is the release before these, where they
    are only the newest: then the stack is the upper part of the whole, as far as they tell.
    """
    stack: list[str] = [] if below is None else [below.version]
    for event in releases:
        version = event.version
        if event.kind not in RELEASE_KINDS or version is None or stack[-1:] == [version]:
            continue
        if event.kind == "rolled_back" and version in stack:
            while stack[-1] != version:
                stack.pop()
        elif event.kind == "rolled_back" and below is not None:
            stack = [version]  # taken off down to it, or put on top: further down nobody knows
        else:
            stack.append(version)
    return stack


def lineage(ledger: Ledger, version: str | None) -> list[str]:
    """`version`, its base, the base's base and so on to the first."""
    return [] if version is None else ledger.lineage(version)


def promotion(ledger: Ledger, update: Update) -> Event | None:
    """The event that promoted the update's candidate, by the update itself or by hand."""
    found = [ledger.first_event("promoted", update=update.id)]
    if update.candidate is not None:
        found.append(ledger.first_event("promoted", version=update.candidate))
    return min((e for e in found if e is not None), key=lambda event: event.id, default=None)


def decision(ledger: Ledger, update_id: str) -> Event | None:
    """What a person decided on the update: an event "approved", "rejected" or "abandoned", or
    None."""
    return ledger.first_event(*DECISION_KINDS, update=update_id)


def abandoned(ledger: Ledger, update_id: str) -> Event | None:
    """The event by which a person gave the update up before it was finished, or None."""
    decided = decision(ledger, update_id)
    return decided if decided is not None and decided.kind == "abandoned" else None


def skipped(ledger: Ledger) -> dict[str, Event]:
    """Period -> the first event by which a person passed it over."""
    return {event.payload["period"]: event for event in reversed(ledger.events("skipped"))}


def awaiting_approval(ledger: Ledger) -> list[str]:
    """The updates that wait for a person and could still be promoted, oldest first.

    One that was approved, but whose promotion was cut short, still waits: approving it again
    finishes it.
    """
    return [update.id for update in _open(ledger) if _is_awaiting(ledger, update)]


def candidate(ledger: Ledger) -> str | None:
    """The newest version of which it is still to be decided whether it is promoted.

    That is one whose update waits for a person, or was judged and is being released.
    """
    return _newest(ledger, [u for u in _open(ledger) if _is_undecided(ledger, u)])


def candidate_awaiting(ledger: Ledger) -> str | None:
    """As `candidate`, of the updates that wait for a person alone."""
    return _newest(ledger, [u for u in _open(ledger) if _is_awaiting(ledger, u)])


def unfinished(ledger: Ledger) -> list[str]:
    """The updates that running their command again would finish, oldest first.

    Not those that were abandoned, nor those that are superseded: whose base is deployed no longer
    (unless they themselves were promoted), and first models that a later one of the same periods'
    end has replaced.
    """
    now = deployed(ledger)

    def stands(update: Update) -> bool:
        if update.kind == "update":
            stays = update.base == now or promotion(ledger, update) is not None
        else:
            stays = bool(ledger.steps(update.id)) and not _is_replaced(ledger, update)
        return stays and abandoned(ledger, update.id) is None

    return [update.id for update in ledger.updates_without("release") if stands(update)]


def superseded(ledger: Ledger) -> list[Update]:
    """The updates that were begun, oldest first, and that nothing can finish: another version than
    their base is deployed by now. Their steps are refused, but one at work goes on to its end.

    Not those that were abandoned, nor those whose period has another update since, or was learnt.
    """
    now = deployed(ledger)
    learnt = ledger.model_version(now).dataset_versions if now is not None else {}

    def counts(update: Update) -> bool:
        return (
            update.kind == "update"
            and update.base != now
            and learnt.get(update.period) != update.dataset_version
            and ledger.updates(period=update.period)[-1].id == update.id
            and promotion(ledger, update) is None
            and abandoned(ledger, update.id) is None
        )

    return [update for update in ledger.updates_without("release") if counts(update)]


def _is_replaced(ledger: Ledger, update: Update) -> bool:
    """Whether a later update of its kind and period is finished; of what is compressed each is for
    itself."""
    if update.kind == "compress":
        return False
    alike = [u.id for u in ledger.updates(period=update.period) if u.kind == update.kind]
    later = alike[alike.index(update.id) + 1 :]
    return any(_is_finished(ledger, name) for name in later)


def _is_finished(ledger: Ledger, update_id: str) -> bool:
    step = ledger.step(update_id, "release")
    return step is not None and step.state == "finished"


def _open(ledger: Ledger) -> list[Update]:
    """The updates on the deployed version that have a candidate which nobody has settled."""

    def is_open(update: Update) -> bool:
        if update.candidate is None or promotion(ledger, update) is not None:
            return False
        decided = decision(ledger, update.id)
        return decided is None or decided.kind == "approved"

    return [update for update in ledger.updates_on(deployed(ledger)) if is_open(update)]


def _is_awaiting(ledger: Ledger, update: Update) -> bool:
    """Whether an open update's release left it to a person."""
    step = ledger.step(update.id, "release")
    return step is not None and bool(step.result.get("awaiting"))


def _is_undecided(ledger: Ledger, update: Update) -> bool:
    """Whether an open update waits for a person, or is between the gate and the end of release."""
    if _is_awaiting(ledger, update):
        return True
    if update.base is None or _is_finished(ledger, update.id):
        return False
    judged = ledger.verdict(update.id)
    return judged is not None and judged.verdict in ("accepted", "review")


def _newest(ledger: Ledger, updates: Collection[Update]) -> str | None:
    made = {update.candidate for update in updates if update.candidate is not None}
    newest = ledger.newest_version(made) if made else None
    return None if newest is None else newest.id
