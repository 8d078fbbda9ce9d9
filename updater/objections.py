"""What speaks against deploying a version, or deciding an update, in words and with the cure.

Reads the ledger, changes nothing. Called by `updater.release`, which releases.
"""

from store.ledger import Event, Ledger, ModelVersion, Update
from store.ledger.records import RELEASE_KINDS
from updater import typed
from updater.errors import InputError
from updater.gate_reasons import on_one_line
from updater.standing import decision


def required(reason: str) -> str:
    """The reason without blanks around it.

    Raises:
        InputError: there is none.
    """
    if not reason.strip():
        raise InputError("reason: empty", "whoever decides says why", "give --reason TEXT")
    return reason.strip()


def maker(ledger: Ledger, update_id: str, version: str) -> Update:
    """The update, which has `version` for its candidate.

    Raises:
        InputError: it has another.
        NotFoundError: no such update.
    """
    update = ledger.update(update_id)
    if update.candidate != version:
        raise InputError(
            f"version {version} is not the candidate of update {update_id}",
            f"its candidate is {update.candidate or 'not trained yet'}",
            "promote that one, or leave the update out",
        )
    return update


def check_verified(ledger: Ledger, version: str) -> None:
    """A clean process has given the scores that the version was judged by.

    Raises:
        InputError: none has.
    """
    if ledger.first_event("verified", version=version) is None:
        raise InputError(
            f"version {version} is not verified",
            "what is deployed must first have given its judged scores in a clean process; "
            "--force does not change that",
            f"run `updater evaluate {version}`",
        )


def overridden(
    ledger: Ledger, version: ModelVersion, now: str | None, *, force: bool
) -> list[InputError]:
    """What speaks against deploying the version in the place of `now`, where `force` overrides it.

    Raises:
        InputError: something does, and `force` is not said; or the version is not verified.
    """
    check_verified(ledger, version.id)
    against = [o for o in (_unaccepted(ledger, version), stale(version, now)) if o]
    if against and not force:
        if ledger.first_event(*RELEASE_KINDS, version=version.id) is None:
            raise against[0]
        raise InputError(
            against[0].what,
            against[0].rule,
            f"it was deployed before: `updater rollback --to {version.id} --reason TEXT` deploys "
            f"it again; or `updater promote {version.id} --reason TEXT --force` overrides this",
        )
    return against


def promotion_command(ledger: Ledger, version: ModelVersion, now: str | None) -> str:
    """What deploys the version in the place of `now`: with --force only where something speaks
    against it."""
    against = _unaccepted(ledger, version) or stale(version, now)
    return f"`updater promote {version.id} --reason TEXT{' --force' if against else ''}`"


def _unaccepted(ledger: Ledger, version: ModelVersion) -> InputError | None:
    update = version.update
    decided = decision(ledger, update) if update else None
    if decided is not None and decided.kind == "approved":
        return None
    force = f"`updater promote {version.id} --reason TEXT --force` overrides it"
    if decided is not None:
        what = f"update {update} was {decided.kind} by {decided.actor} ({decided.reason})"
        return InputError(what, f"what a person {decided.kind} is not deployed", force)
    verdict = ledger.verdict(update) if update else None
    if verdict is None:
        return InputError(f"version {version.id} has no verdict yet", "the gate judges it", force)
    if verdict.verdict == "review":
        return InputError(
            f"version {version.id} waits for a person: the gate could not tell",
            "what is under review is approved or rejected",
            f"run `updater approve {update} --reason TEXT`",
        )
    if verdict.verdict == "rejected":
        what = f"version {version.id} was rejected by the gate ({on_one_line(verdict.reasons)})"
        return InputError(what, "only what it accepts is deployed", force)
    return None


def stale(version: ModelVersion, now: str | None) -> InputError | None:
    """That another version than its base is deployed, which is `now`; None where it isn't so."""
    if version.base == now:
        return None
    return InputError(
        f"version {version.id} was made from {_named(version.base)}, but {_named(now)} is deployed",
        "a version is compared with its base and replaces that one alone",
        f"compare them, then `updater promote {version.id} --reason TEXT --force`",
    )


def check_not_superseded(update: Update, now: str | None) -> None:
    """What the update began at is deployed.

    Raises:
        InputError: another version is.
    """
    if update.kind == "update" and update.base != now:
        raise InputError(
            f"update {update.id} began at version {update.base}, and version {now} is deployed by "
            "now",
            "what it learns is compared with its base and replaces that one alone",
            begin_anew(update.period),
        )


def begin_anew(period: str) -> str:
    """The cure for an update whose base is deployed no more."""
    return (
        f"begin anew with `updater update {period}`, in Airflow by clearing the whole run: "
        "`airflow dags clear DAG --run-id RUN --yes`"
    )


def _named(version: str | None) -> str:
    return f"version {version}" if version is not None else "nothing"


def judged_candidate(ledger: Ledger, update: Update) -> str:
    """The update's candidate, which the gate has judged.

    Raises:
        InputError: it has not.
    """
    if update.candidate is None or ledger.verdict(update.id) is None:
        raise InputError(
            f"update {update.id} has no verdict yet",
            "a person decides after the gate",
            f"finish it with `{typed.command(update)}`",
        )
    return update.candidate


def check_not_rejected(ledger: Ledger, update: Update, decided: Event | None) -> None:
    """Neither a person nor the gate has said no.

    Raises:
        InputError: one of them has.
    """
    cure = f"`updater promote {update.candidate} --reason TEXT --force` overrides it"
    if decided is not None and decided.kind != "approved":
        what = f"update {update.id} was {decided.kind} by {decided.actor} ({decided.reason})"
        raise InputError(what, "an update is decided once", cure)
    verdict = ledger.verdict(update.id)
    if verdict is not None and verdict.verdict == "rejected":
        what = f"update {update.id} was rejected by the gate ({on_one_line(verdict.reasons)})"
        raise InputError(what, "only an update under review or accepted waits for a person", cure)
