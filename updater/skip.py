"""A period is passed over: it is due no more, and the ledger says by whom and why.

For one that has no rows and never will, or that nobody wants to learn. It can still be learnt by
its name. Called by the command line.
"""

from store.ledger import Event, Ledger
from updater import objections
from updater.errors import InputError
from updater.standing import deployed, skipped
from updater.workspace import Workspace


def skip(workspace: Workspace, period: str, *, reason: str) -> Event:
    """The period is due no more. Safe to repeat: the first reason stays.

    Raises:
        InputError: no reason; an unknown period, one that has not closed yet, or one that the
            deployed version has learnt.
        UnreachableError, StoreError: the ledger; run it again.
    """
    reason = objections.required(reason)
    ledger = workspace.ledger
    workspace.periods.check(period)
    known = skipped(ledger).get(period)
    if known is not None:
        return known
    _check_due(workspace, ledger, period)
    return ledger.append(
        "skipped", None, actor=workspace.actor, reason=reason, payload={"period": period}
    )


def _check_due(workspace: Workspace, ledger: Ledger, period: str) -> None:
    if not workspace.periods.closed(period, ledger.now()):
        raise InputError(
            f"period {period} has not closed yet (it ends {workspace.periods.end_shown(period)})",
            "only what is due is skipped",
            "wait until then: its rows may still come",
        )
    now = deployed(ledger)
    if now is not None and period in ledger.model_version(now).periods:
        raise InputError(
            f"period {period} is already learnt by the deployed version {now}",
            "only what is due is skipped",
            "see `updater due`",
        )
