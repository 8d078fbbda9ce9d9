"""What people see of an update in MLflow: scores, plots, the report, and the tags of the version.

Everything here can be made again from the ledger and the workspace; nothing is decided by it.
"""

import logging
import shutil
from pathlib import Path

from store.errors import StoreError
from store.ledger import Update
from updater import outcome
from updater.files import write_json, write_text
from updater.workspace import Workspace

log = logging.getLogger("updater")


def publish(workspace: Workspace, update: Update) -> None:
    """The update's MLflow run holds its scores and artifacts, and is closed.

    Raises:
        UnreachableError: MLflow can't be reached; run it again.
    """
    ledger, registry = workspace.ledger, workspace.registry
    candidate = ledger.update(update.id).candidate
    verdict = ledger.verdict(update.id)
    assert candidate is not None, "the pipeline runs train first"
    assert verdict is not None, "the pipeline runs the gate first"
    run_id = ledger.model_version(candidate).run_id
    scores = {
        period: score.accuracy
        for (version, period), score in outcome.current_scores(workspace).items()
        if version == candidate
    }
    ordinals = {period: workspace.periods.ordinal(period) for period in scores}
    registry.log_scores(run_id, scores, ordinals)
    registry.set_version_tags(candidate, {"verdict": verdict.verdict})
    folder = workspace.run_folder(update.id)
    note = "\n".join([f"**{verdict.verdict}**", *(f"* {reason}" for reason in verdict.reasons)])
    shown: dict[str, float | str | bool | None] = {
        "verdict": verdict.verdict,
        "mlflow.note.content": note,
        **_draw(workspace, candidate, folder / "report"),
    }
    registry.log_summary(run_id, shown)
    registry.log_artifacts(run_id, folder / "report")
    registry.close_run(run_id)
    shutil.rmtree(folder / "report")


def publish_decision(workspace: Workspace, update: Update) -> None:
    """What a person decided on the update stands in MLflow's report too.

    The decision itself stands whatever happens here: where MLflow can't be reached that is said,
    and no more.
    """
    try:
        publish(workspace, update)
    except StoreError as error:
        log.warning("the decision stands; MLflow's report is of before it: %s", error)


def _draw(workspace: Workspace, version: str, folder: Path) -> dict[str, float]:
    """Report, pictures and tables are in `folder`; the figures that a run table shows come back."""
    from updater.report import figures
    from updater.report.collect import collect
    from updater.report.page import render

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    data = collect(workspace, version)
    write_text(folder / "report.html", render(data))
    figures.save_all(data, folder)
    write_json(folder / "score_matrix.json", outcome.score_matrix(workspace))
    for name in ("manifest.json", "search.json", "experts.json", "train_metrics.jsonl"):
        made = folder.parent / name
        if made.exists():
            shutil.copyfile(made, folder / name)
    return data.summary()
