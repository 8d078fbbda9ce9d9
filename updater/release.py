"""Releases: promote, roll back, approve, reject, and the aliases that follow from them.

The event is the fact and is written first; MLflow's aliases are moved to what the events say
after it. Killed in between, `consistent` is False, and running the command again (or any other
that releases) repairs it. Not the gate (`updater.gate`), and no torch, MLflow or DVC: on-call
needs an answer in a second. Called by the command line, step release and the read commands.
"""

from collections.abc import Callable
from dataclasses import dataclass

from store.aliases import Aliases
from store.errors import ConflictError, NotFoundError, StoreError
from store.ledger import Event, Ledger, ModelVersion
from store.ledger.records import RELEASE_KINDS
from updater import objections
from updater.errors import InputError
from updater.standing import (
    awaiting_approval,
    before,
    candidate,
    candidate_awaiting,
    decision,
    deployed,
    promotion,
    unfinished,
)

__all__ = [
    "Release",
    "approve",
    "awaiting_approval",
    "candidate",
    "check_promotion",
    "consistent",
    "deployed",
    "promote",
    "reject",
    "repair",
    "rollback",
    "rollback_target",
    "unfinished",
]

# Each round is one release by somebody else between our reading and our writing.
MOST_ROUNDS = 20

# Given a version before it is deployed; raises what speaks against its checkpoint.
Check = Callable[[ModelVersion], object]


@dataclass(frozen=True, kw_only=True)
class Release:
    """What is deployed now, and the event by which it came with what was deployed before it.

    `is_new`: the event is of this call, which else found it and appended nothing. `moved`: an alias
    had to follow.
    """

    deployed: str | None
    previous: str | None
    event: Event
    is_new: bool
    moved: bool


def _unchecked(version: ModelVersion) -> None:
    """Nothing speaks against the checkpoint: whoever releases has just made it."""


def promote(
    ledger: Ledger,
    aliases: Aliases,
    version: str,
    *,
    actor: str,
    reason: str,
    update: str | None = None,
    force: bool = False,
    after: int | None = None,
    check: Check = _unchecked,
) -> Release:
    """`version` is deployed, and the aliases say so.

    Where it is deployed already nothing is appended. With `update` it is promoted in the name of
    that update, once for ever: later calls repair the aliases and change nothing else. `force`
    overrides the gate and the base; what it overrode is kept with the event. Before an event is
    appended, `check` is given the version; what it raises, nobody catches.

    `after`: the id of the event by which what was deployed came when this was asked for, 0 for
    none. The call may then be repeated at any time: what it did is not done again, also not where
    somebody has gone back since.

    Raises:
        InputError: no reason; the version is not verified; or, without `force`, it was not
            accepted, or its base is not what is deployed.
        NotFoundError: no such version or update.
        ConflictError: somebody else released meanwhile, or since `after`; nothing was changed.
        UnreachableError, StoreError: ledger or MLflow. If it was MLflow, the version may be
            deployed with the alias not moved: run it again.
    """
    reason = objections.required(reason)
    found = ledger.model_version(version)
    now = ledger.last_release()  # before all else: what is deployed since is told by append_release
    event = promotion(ledger, objections.maker(ledger, update, version)) if update else None
    if event is None and after is not None:
        event = _done_since(ledger, after, "promoted", version)
    if event is None and now is not None and now.version == version:
        event = now
    is_new = event is None
    if event is None:
        replaced = now.version if now else None
        against = objections.overridden(ledger, found, replaced, force=force)
        check(found)
        event = ledger.append_release(
            "promoted",
            version,
            expected_deployed=replaced,
            actor=actor,
            reason=reason,
            update=update,
            payload={"overridden": [error.what for error in against]},
        )
    return _settled(ledger, aliases, event, is_new=is_new)


def rollback(
    ledger: Ledger,
    aliases: Aliases,
    *,
    to: str | None = None,
    actor: str,
    reason: str,
    after: int | None = None,
    check: Check = _unchecked,
) -> Release:
    """What was deployed before is deployed again, and the aliases say so; or `to` is.

    Each call without `to` walks one deployment further back; but one whose event was written and
    whose alias was not moved is finished, and not walked past. With `to` it is safe to repeat
    until somebody else releases, with `after` at any time. `after` and `check` are as in `promote`.

    Raises:
        InputError: no reason, nothing to go back to, or `to` was never deployed or was just
            promoted.
        NotFoundError, ConflictError, UnreachableError, StoreError: as `promote`.
    """
    reason = objections.required(reason)
    now = _last(ledger)
    if after is not None:
        done = _done_since(ledger, after, "rolled_back", to)
        if done is not None:
            return _settled(ledger, aliases, done, is_new=False)
    target = _target(ledger, aliases, now, to)
    if target == now.version:
        return _settled(ledger, aliases, now, is_new=False)
    check(ledger.model_version(target))
    event = ledger.append_release(
        "rolled_back", target, expected_deployed=now.version, actor=actor, reason=reason
    )
    return _settled(ledger, aliases, event, is_new=True)


def check_promotion(ledger: Ledger, version: str, *, force: bool = False) -> None:
    """`promote` would deploy the version, or it is deployed.

    Raises:
        InputError, NotFoundError: as `promote`.
    """
    found, now = ledger.model_version(version), deployed(ledger)
    if now != version:
        objections.overridden(ledger, found, now, force=force)


def rollback_target(ledger: Ledger, aliases: Aliases, *, to: str | None = None) -> str:
    """The version that `rollback` would deploy; what is deployed, where it was just rolled back to
    and is only to be finished. Changes nothing.

    Raises:
        InputError, NotFoundError, UnreachableError, StoreError: as `rollback`.
    """
    return _target(ledger, aliases, _last(ledger), to)


def approve(
    ledger: Ledger,
    aliases: Aliases,
    update_id: str,
    *,
    actor: str,
    reason: str,
    check: Check = _unchecked,
) -> Release:
    """The update's candidate is approved by a person and deployed. Safe to repeat.

    `check` is as in `promote`.

    Raises:
        InputError: no reason; the update is not judged yet, rejected by the gate or by a person,
            not verified, or its base is no longer what is deployed.
        NotFoundError, ConflictError, UnreachableError, StoreError: as `promote`.
    """
    reason = objections.required(reason)
    update = ledger.update(update_id)
    version = objections.judged_candidate(ledger, update)
    now = deployed(ledger)  # before all else, as in `promote`
    if promotion(ledger, update) is None:
        earlier = decision(ledger, update_id)
        objections.check_not_rejected(ledger, update, earlier)
        objections.check_verified(ledger, version)
        found = ledger.model_version(version)
        old = objections.stale(found, now)
        if old is not None:
            raise old
        if earlier is None:
            check(found)
            ledger.append("approved", version, actor=actor, reason=reason, update=update_id)
    return promote(
        ledger, aliases, version, actor=actor, reason=reason, update=update_id, check=check
    )


def reject(
    ledger: Ledger,
    aliases: Aliases,
    update_id: str,
    *,
    actor: str,
    reason: str,
    if_undecided: bool = False,
) -> bool:
    """A person has turned the update's candidate down; it is no candidate. Safe to repeat.

    `if_undecided`: what was approved or promoted stays so, and this does nothing. Returns whether
    the update is turned down.

    Raises:
        InputError: no reason; the update is not judged yet, rejected by the gate, approved or
            promoted.
        NotFoundError, ConflictError, UnreachableError, StoreError: as `promote`.
    """
    reason = objections.required(reason)
    update = ledger.update(update_id)
    version = objections.judged_candidate(ledger, update)
    earlier = decision(ledger, update_id)
    if earlier is None or earlier.kind != "rejected":
        if promotion(ledger, update) is not None or earlier is not None:
            if if_undecided:
                return False
            raise InputError(
                f"update {update_id} was {'promoted' if earlier is None else earlier.kind} already",
                "only what nobody has decided can be rejected",
                "go back with `updater rollback --reason TEXT`",
            )
        objections.check_not_rejected(ledger, update, earlier)
        ledger.append("rejected", version, actor=actor, reason=reason, update=update_id)
    repair(ledger, aliases)
    return True


def consistent(ledger: Ledger, aliases: Aliases) -> bool:
    """Whether MLflow's aliases say what the events say.

    While an update is between its verdict and the end of its release, its candidate may or may
    not have the alias yet.

    Raises:
        UnreachableError, StoreError: ledger or MLflow.
    """
    if aliases.get("deployed") != deployed(ledger):
        return False
    shown = aliases.get("candidate")
    return shown == candidate(ledger) or shown == candidate_awaiting(ledger)


def repair(ledger: Ledger, aliases: Aliases) -> bool:
    """The aliases say what the events say; whether any had to be moved.

    Of several at once the last one sees what all have written, so the aliases end right. The alias
    of what is deployed is never deleted: a ledger that knows of no release is not the one by which
    it was set.

    Raises:
        UnreachableError, StoreError: ledger or MLflow; also where MLflow has no such version.
        ConflictError: others release faster than this can follow.
    """
    moved = False
    for _ in range(MOST_ROUNDS):
        wanted = {"deployed": deployed(ledger), "candidate": candidate(ledger)}
        wrong = {alias: v for alias, v in wanted.items() if aliases.get(alias) != v}
        if not wrong:
            return moved
        for alias, version in wrong.items():
            if alias == "deployed" and version is None:
                raise ConflictError(
                    f"by MLflow version {aliases.get(alias)} is deployed, and the ledger knows of "
                    "no release: it was lost, or another workspace has a model of this name. "
                    "Restore the ledger from its backup (docs/backup.md), or name this workspace "
                    "otherwise; the alias was left as it is"
                )
            if version is None:
                aliases.delete(alias)
            else:
                _point(aliases, alias, version)
        moved = True
    raise ConflictError(
        "the aliases don't stay as they are set: something else moves them. Stop it, and run the "
        "command again."
    )


def _point(aliases: Aliases, alias: str, version: str) -> None:
    """The alias points to the version.

    Raises:
        UnreachableError, StoreError: MLflow; where it has no such version this is no
            NotFoundError, which would say that the user named a wrong one and nothing was done.
    """
    try:
        aliases.set(alias, version)
    except NotFoundError as error:
        said = "deployed" if alias == "deployed" else "the candidate"
        raise StoreError(
            f"version {version} is {said} by the ledger, and the alias {alias} can't follow: "
            f"{error}. Serving by alias is out of date until MLflow's database is restored from "
            "its backup and `updater status --repair` was run"
        ) from error


def _done_since(ledger: Ledger, after: int, kind: str, version: str | None) -> Event | None:
    """The release that was asked for, where it is the first one after the event of that id; None
    where nobody has released since."""
    last = ledger.last_release()
    if after > (last.id if last else 0):
        raise InputError(
            f"--after {after}: there is no such event",
            f"the last release is event {last.id if last else 0}",
            "take the number that --dry-run --json answers",
        )
    first = ledger.first_release_after(after)
    if first is None or (first.kind == kind and version in (None, first.version)):
        return first
    did = "promoted" if first.kind == "promoted" else "rolled back to"
    raise ConflictError(
        f"since this was asked for, {first.actor} has {did} version {first.version} "
        f"({first.reason}); nothing was changed. Look at `updater history`, and "
        "ask again if it is still right"
    )


def _settled(ledger: Ledger, aliases: Aliases, event: Event, *, is_new: bool) -> Release:
    try:
        moved = repair(ledger, aliases)
    except StoreError as error:
        if not is_new:
            raise
        before = f"was {event.previous}" if event.previous else "the first"
        raise type(error)(
            f"version {event.version} is deployed by the ledger ({before}), and MLflow's alias "
            f"does not follow yet: {error} `updater status --repair` moves it when MLflow answers"
        ) from error
    return Release(
        deployed=deployed(ledger),
        previous=event.previous,
        event=event,
        is_new=is_new,
        moved=moved,
    )


def _was_done(last: Event, aliases: Aliases, to: str | None) -> bool:
    """Whether `last` is the rollback that is asked for.

    Without `to` only what aliases still show tells it from one that has to walk further back. No
    alias at all, as in an MLflow that was lost, has not followed it either.
    """
    if last.kind != "rolled_back":
        return False
    if to is not None:
        return to == last.version
    try:
        return aliases.get("deployed") in (None, last.previous)
    except StoreError as error:
        raise type(error)(
            f"{error} Version {last.version} was rolled back to, and without MLflow nobody can "
            "tell whether its alias followed: go further back with `updater rollback --to VERSION`"
        ) from error


def _target(ledger: Ledger, aliases: Aliases, now: Event, to: str | None) -> str:
    if _was_done(now, aliases, to):
        return str(now.version)
    deployed_now = str(now.version)
    return _before(ledger, deployed_now) if to is None else _earlier(ledger, deployed_now, to)


def _last(ledger: Ledger) -> Event:
    """The event by which what is deployed came."""
    now = ledger.last_release()
    if now is None:
        raise InputError(
            "nothing is deployed",
            "a rollback needs an earlier deployment",
            "see `updater history`",
        )
    return now


def _before(ledger: Ledger, now: str) -> str:
    earlier = before(ledger, now)
    if earlier is None:
        raise InputError(
            f"version {now} is where the deployments begin",
            "a rollback needs one before it",
            "name another with `updater promote VERSION --reason TEXT`",
        )
    return earlier


def _earlier(ledger: Ledger, now: str, to: str) -> str:
    ledger.model_version(to)
    known = ledger.first_event(*RELEASE_KINDS, version=to)
    if known is None or to == now:
        others = [version for version in ledger.ever_deployed() if version != now]
        raise InputError(
            f"version {to} {'is deployed already' if known else 'was never deployed'}",
            f"a rollback goes to what was deployed before: {', '.join(others) or 'nothing'}",
            "name one of them, or deploy another with `updater promote`",
        )
    return to
