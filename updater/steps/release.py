"""Step release: what the gate accepts is deployed, or waits for a person; then it is published.

The promotion itself is `updater.release`'s. Publishing (scores, report and plots on the MLflow
run) comes after, because the report tells what is deployed.
"""

import shutil
from typing import Any

from store.ledger import Update
from updater import release
from updater.steps.gate import is_by_hand
from updater.steps.publish import publish
from updater.workspace import Workspace

_LARGE = ("initial", "candidate", "compressed", "trace")
"""In the update's folder, as large as models, and in the store by now."""


def run(workspace: Workspace, update: Update, *, approve: bool = False) -> dict[str, Any]:
    """An accepted candidate is deployed, unless approval is a person's and `approve` is not said;
    of a version that is compressed by hand it always is.

    Raises:
        InputError: another version was deployed meanwhile: the update is out of date.
    """
    verdict = workspace.ledger.verdict(update.id)
    assert verdict is not None, "the pipeline runs the gate first"
    candidate = workspace.ledger.update(update.id).candidate
    assert candidate is not None, "the pipeline runs train first"
    wanted = update.base is not None or update.config["arguments"]["deploy"]
    at_once = approve or not is_by_hand(workspace, update)
    promoted = wanted and verdict.verdict == "accepted" and at_once
    if promoted:
        release.promote(
            workspace.ledger,
            workspace.aliases,
            candidate,
            actor=workspace.actor,
            reason=_reason(update, approve),
            update=update.id,
        )
    else:
        release.repair(workspace.ledger, workspace.aliases)
    publish(workspace, update)
    for left in _LARGE:
        shutil.rmtree(workspace.run_folder(update.id) / left, ignore_errors=True)
    awaiting = wanted and not promoted and verdict.verdict in ("accepted", "review")
    if update.kind == "compress" and release.deployed(workspace.ledger) != update.base:
        awaiting = False  # it can only take the place of what it was made of
    return {"promoted": promoted, "awaiting": awaiting}


def _reason(update: Update, approve: bool) -> str:
    if update.base is None:
        return f"the first model, by {update.kind}"
    return "accepted by the gate" + ("; approved by --yes" if approve else "")
