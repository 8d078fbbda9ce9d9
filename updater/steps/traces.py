"""What a training recorded on its way, kept beside the outcomes: it can't be had again.

Called by the train step. Read by the importance step of the updates that follow.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from store.ledger import Update
from store.manifest import Manifest
from updater.steps.terms import method_of, trace_file
from updater.workspace import Workspace

if TYPE_CHECKING:
    from updater.train.fit import Fit


def trace_of(workspace: Workspace) -> str:
    """What the training has to record by the present settings, whatever the strength."""
    method = method_of(workspace)
    return "" if method is None else method.trace(workspace.settings.regularizer.estimator)


def keep(workspace: Workspace, update: Update, candidate: Path, done: "Fit") -> None:
    """What `done` recorded is on the disk, under the digest of the exported candidate.

    Nothing is written where the settings ask for nothing.
    """
    if not trace_of(workspace):
        return
    from regularizers import importance
    from updater.train.memory import traced

    datasets = json.dumps(update.config["datasets"], sort_keys=True)
    digest = Manifest.of(candidate).digest
    path = trace_file(workspace, digest)
    path.parent.mkdir(exist_ok=True)
    recorded = importance.Importance(
        traced(workspace.settings.regularizer, done),
        trace_of(workspace),
        done.num_examples,
        checkpoint_digest=digest,
        data_digest=hashlib.sha256(datasets.encode()).hexdigest(),
    )
    importance.save(recorded.in_format(workspace.settings.regularizer.format), path)
