"""What people see of an update in MLflow: scores, plots, the report, the model card, the pages.

Everything here can be made again from the ledger and the workspace; nothing is decided by it.
"""

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from store.errors import StoreError
from store.ledger import Update
from store.pages import DESCRIPTION_CHARACTERS
from updater import outcome, release
from updater.files import write_json, write_text
from updater.report import card
from updater.report.collect import collect
from updater.report.data import ReportData
from updater.standing import promotion
from updater.steps import life
from updater.workspace import Workspace

log = logging.getLogger("updater")

DIGITS = 4  # of a metric that is read in a table; the ledger has the counts
MODEL = """\
Versions of **{name}**, a Nemotron-H model that `updater` keeps up to date. Each was made from
another one by an update, and judged by a gate on every period that it had learnt; its own page is
its model card.

| alias | means |
|---|---|
| `deployed` | what users have; rollback moves it in seconds |
| `candidate` | under judgement, or waiting for a person |

A version holds no weights: it points to a checkpoint. In a program,
`mlflow.pyfunc.load_model("models:/{name}@deployed")`.

What was deployed when, by whom and why: `updater history`.
"""


def publish(workspace: Workspace, update: Update) -> None:
    """The update's MLflow run holds its scores and artifacts, and is closed; the pages of the model
    and of its life are up to date.

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
    data = collect(workspace, candidate)
    folder = _draw(workspace, update, data)
    shown: dict[str, float | str | bool | None] = {
        "verdict": verdict.verdict,
        "decision": _decision(workspace, update, data),
        "mlflow.note.content": _note(verdict.verdict, verdict.reasons),
        **life.tags_of(workspace, update),
        **{name: round(value, DIGITS) for name, value in data.summary().items()},
        "minutes": round(data.cost.seconds / 60, 2),
        "gpu_hours": _gpu_hours(data),
        "energy_kwh": _energy_kwh(data),
    }
    registry.log_summary(run_id, shown)
    registry.log_artifacts(run_id, folder)
    registry.name_run(run_id, f"{update.kind} {_of(update)}: version {candidate}")
    registry.close_run(run_id)
    registry.set_version_tags(candidate, {"verdict": verdict.verdict})
    registry.pages.describe_version(candidate, card.brief(data, DESCRIPTION_CHARACTERS))
    name = workspace.settings.workspace.name
    registry.pages.describe_model(MODEL.format(name=name), {"made_by": "updater"})
    life.show(workspace, ledger.update(update.id), data)
    shutil.rmtree(folder)


def publish_decision(workspace: Workspace, update: Update) -> None:
    """What a person decided on the update stands in MLflow's report too.

    The decision itself stands whatever happens here: where MLflow can't be reached that is said,
    and no more.
    """
    try:
        publish(workspace, update)
    except StoreError as error:
        log.warning("the decision stands; MLflow's report is of before it: %s", error)


def _decision(workspace: Workspace, update: Update, data: ReportData) -> str:
    """What became of the candidate, in few words."""
    judgement = data.judgement
    if judgement is not None and judgement.decision is not None:
        kind, actor, _ = judgement.decision
        return f"{card.DECIDED[kind]} by {actor}"
    if promotion(workspace.ledger, update) is not None:
        return "promoted"
    if update.id in release.awaiting_approval(workspace.ledger):
        return "waits for a person"
    return "not promoted"


def _of(update: Update) -> str:
    """What it was of."""
    return f"version {update.base}" if update.kind == "compress" else update.period


def _note(verdict: str, reasons: Sequence[str]) -> str:
    """The run's description: MLflow's table shows its beginning."""
    told = "\n".join(f"* {reason}" for reason in reasons)
    return f"**{verdict}**\n\n{told}\n\nThe whole story: `report.html` among the artifacts."


def _gpu_hours(data: ReportData) -> float | None:
    """None where nothing says what it computed on."""
    if data.cost.device_hours is None or not data.cost.device:
        return None
    return round(data.cost.device_hours, DIGITS) if data.cost.device == "GPU" else 0.0


def _energy_kwh(data: ReportData) -> float | None:
    joules = data.cost.energy_joules
    return None if joules is None else round(joules / 3.6e6, DIGITS)


def _draw(workspace: Workspace, update: Update, data: ReportData) -> Path:
    """A folder with what becomes the run's artifacts: report, model card, pictures and tables."""
    from updater.report import figures
    from updater.report.page import render

    folder = workspace.run_folder(update.id) / "report"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    write_text(folder / "report.html", render(data))
    write_text(folder / card.CARD, card.whole(data))
    figures.save_all(data, folder)
    write_json(folder / "score_matrix.json", outcome.score_matrix(workspace))
    for name in (
        *("manifest.json", "search.json", "experts.json", "taken_away.json"),
        "train_metrics.jsonl",
    ):
        made = folder.parent / name
        if made.exists():
            shutil.copyfile(made, folder / name)
    return folder
