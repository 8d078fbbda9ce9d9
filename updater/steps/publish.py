"""What people see of an update in MLflow: scores, plots, the report, and the tags of the version.

Everything here can be made again from the ledger and the workspace; nothing is decided by it.
"""

import shutil

from store.ledger import Update
from updater.workspace import Workspace


def publish(workspace: Workspace, update: Update) -> None:
    """The update's MLflow run holds its scores and artifacts, and is closed."""
    ledger, registry = workspace.ledger, workspace.registry
    assert update.kind, "an update of the ledger"
    candidate = ledger.update(update.id).candidate
    assert candidate is not None, "the pipeline runs train first"
    version = ledger.model_version(candidate)
    scores = {s.period: s.accuracy for s in ledger.scores(version=candidate)}
    ordinals = {period: workspace.periods.ordinal(period) for period in scores}
    registry.log_scores(version.run_id, scores, ordinals)
    verdict = ledger.verdict(update.id)
    assert verdict is not None, "the pipeline runs the gate first"
    registry.set_version_tags(candidate, {"verdict": verdict.verdict})
    from updater.report.collect import collect

    data = collect(workspace, candidate)
    registry.log_summary(version.run_id, data.summary())
    folder = workspace.run_folder(update.id) / "report"
    _draw(data, folder)
    registry.log_artifacts(version.run_id, folder)
    registry.close_run(version.run_id)
    shutil.rmtree(folder)
