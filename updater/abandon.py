"""An unfinished update is given up: the ledger says by whom and why, and its large files go.

What it has ingested stays: the next update of the period learns it, from the beginning. Called by
the command line, which holds the workspace's lock.
"""

import logging
import shutil

from store.errors import StoreError
from store.ledger import Event, Update
from updater import objections, release
from updater.errors import InputError
from updater.standing import abandoned, awaiting_approval, decision, promotion
from updater.workspace import Workspace

log = logging.getLogger("updater")

_LARGE = ("initial", "training", "drafting", "trace", "candidate", "compressed", "compressing")
"""In an update's run folder, as large as models: what the steps train and release take away."""


def abandon(workspace: Workspace, update_id: str, *, reason: str) -> Event:
    """The update goes on no more, and no candidate of it waits. Safe to repeat: the first reason
    stays.

    Raises:
        InputError: no reason; the update is finished, or was promoted or decided by a person.
        NotFoundError: no such update.
        ConflictError: somebody decided it meanwhile.
        UnreachableError, StoreError: ledger or MLflow's aliases; run it again.
    """
    reason = objections.required(reason)
    ledger = workspace.ledger
    update = ledger.update(update_id)
    event = abandoned(ledger, update_id)
    if event is None:
        _check_unfinished(workspace, update)
        event = ledger.append(
            "abandoned", update.candidate, actor=workspace.actor, reason=reason, update=update_id
        )
    release.repair(ledger, workspace.aliases)
    for name in _LARGE:
        shutil.rmtree(workspace.root / "runs" / update_id / name, ignore_errors=True)
    if ledger.step(update_id, "train") is not None:
        _stop_run(workspace, update_id)
    return event


def _check_unfinished(workspace: Workspace, update: Update) -> None:
    ledger = workspace.ledger
    decided = decision(ledger, update.id)
    released = ledger.step(update.id, "release")
    state, cure = "", f"`updater show {update.candidate}` tells what became of it"
    if promotion(ledger, update) is not None:
        state = "was promoted"
        cure = "go back with `updater rollback --reason TEXT`"
    elif decided is not None:
        state = f"was {decided.kind} by {decided.actor} ({decided.reason})"
    elif update.id in awaiting_approval(ledger):
        state = "waits for a person"
        cure = f"turn it down with `updater reject {update.id} --reason TEXT`"
    elif released is not None and released.state == "finished":
        state = "is finished"
    if state:
        raise InputError(
            f"update {update.id} {state}", "only an unfinished update can be abandoned", cure
        )


def _stop_run(workspace: Workspace, update_id: str) -> None:
    """MLflow no longer shows it as running; where MLflow can't be reached that is said."""
    try:
        workspace.registry.stop_run(update_id, "KILLED")
    except StoreError as error:
        log.warning("it is abandoned; MLflow still shows %s as it was: %s", update_id, error)
