"""What a training recorded on its way, kept in the checkpoint store: it can't be had again.

Called by the train step. Read by the importance step of the updates that follow.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from store.ledger import Update
from store.manifest import Manifest
from updater.steps.terms import TRACE_FILE, method_of, trace_name
from updater.workspace import Workspace

if TYPE_CHECKING:
    from updater.train.fit import Fit


def trace_of(workspace: Workspace) -> str:
    """What the training has to record by the present settings, whatever the strength."""
    method = method_of(workspace)
    return "" if method is None else method.trace(workspace.settings.regularizer.estimator)


def keep(
    workspace: Workspace, update: Update, candidate: Path, done: "Fit"
) -> dict[str, dict[str, str]]:
    """What `done` recorded is in the checkpoint store; what the train step's result has to say of
    it. Nothing of either where the settings ask for nothing.

    Args:
        candidate: the exported checkpoint that the training came to.

    Raises:
        UpdateError: what it recorded is no number.
    """
    if not trace_of(workspace):
        return {}
    from regularizers import importance
    from updater.train.importance import overflow_told
    from updater.train.memory import traced

    datasets = json.dumps(update.config["datasets"], sort_keys=True)
    with overflow_told():
        recorded = importance.Importance(
            traced(workspace.settings.regularizer, done),
            trace_of(workspace),
            done.num_examples,
            checkpoint_digest=Manifest.of(candidate).digest,
            data_digest=hashlib.sha256(datasets.encode()).hexdigest(),
        )
        kept = recorded.in_format(workspace.settings.regularizer.format)
    folder = workspace.run_folder(update.id) / "trace"
    folder.mkdir(exist_ok=True)
    importance.save(kept, folder / TRACE_FILE)
    digest = workspace.checkpoints.add(folder, frozen=True)
    return {"trace": {"name": trace_name(workspace), "digest": digest}}
