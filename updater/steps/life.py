"""The parent run of a model's life in MLflow: the scores of every version, by its number.

MLflow's own line charts of it show what is forgotten: one metric for each period,
`accuracy/PERIOD`, whose steps are the versions. The updates' runs are its children. It can be made
again from the ledger at any time. Called by `updater.steps.registration` and
`updater.steps.publish`.
"""

import dataclasses
import logging
from datetime import datetime

from store import views
from store.errors import DeniedError, StoreError, UnreachableError
from store.ledger import ModelVersion, Score, Update
from store.points import Point
from store.registry import PARENT
from updater import outcome
from updater.report.data import ReportData
from updater.workspace import Workspace

log = logging.getLogger("updater")

KEY = "life"
FILLED = "updater.filled_to"
TOLD = "updater.scores_told"  # how many of the ledger's scores, in the order of their arrival
MEANS = ("average_accuracy", "worst_accuracy", "average_forgetting", "backward_transfer")
NOTE = """\
Every version of **{name}**, by its number: the charts' steps are version numbers. `accuracy/PERIOD`
falls where a version has forgotten the period; versions that the gate rejected are among them.
The runs below this one are the updates that made the versions.
"""


def open_life(workspace: Workspace) -> str:
    """The id of the parent run, which is there."""
    name = workspace.settings.workspace.name
    return workspace.registry.standing_run(
        KEY,
        run_name=f"{name}: every version",
        tags={
            "updater.kind": "life",
            "mlflow.note.content": NOTE.format(name=name),
            "mlflow.user": workspace.actor,
        },
    )


def tags_of(workspace: Workspace, update: Update) -> dict[str, str]:
    """What an update's run is found and sorted by, and its place below the parent run."""
    return {
        "updater.kind": update.kind,
        "updater.period": update.period,
        "updater.opened_at": update.created_at.isoformat(timespec="seconds"),
        PARENT: open_life(workspace),
    }


def show(workspace: Workspace, update: Update, data: ReportData) -> None:
    """The parent run has the scores of every version, and MLflow's page the views of them.

    Every version is told once, with the first update that is published here; after that those that
    `update` made or compared, those that have got a score since, and any that were told of by
    halves. A point carries the time at which it was measured, so that MLflow keeps one that it is
    told twice once.

    Raises:
        UnreachableError, StoreError: MLflow can't be reached or refuses; run it again.
    """
    registry, ledger = workspace.registry, workspace.ledger
    run_id = open_life(workspace)
    tags = registry.run_tags(run_id)
    filled, num_told = (int(tags.get(name, 0)) for name in (FILLED, TOLD))
    measured = ledger.scores()
    if num_told > len(measured):  # the ledger was restored from a copy older than MLflow
        num_told = 0
    fresh = {score.version for score in measured[num_told:]}
    versions = ledger.model_versions()
    scores: dict[str, dict[str, Score]] = {version.id: {} for version in versions}
    for (name, period), score in outcome.current_scores(workspace).items():
        scores[name][period] = score
    told: list[Point] = []
    for version in versions:
        own = scores[version.id]
        if int(version.id) > filled:
            _adopt(workspace, version)
            told += _points(version, own, data)
        elif version.id in (update.candidate, update.base, *fresh):
            told += _points(version, own, data)
    registry.log_curve(run_id, told)
    newest = max((int(version.id) for version in versions), default=0)
    registry.log_summary(run_id, {FILLED: str(max(newest, filled)), TOLD: str(len(measured))})
    for view in (views.updates(), views.versions(data.periods)):
        registry.pages.save_view(*view)
    registry.close_run(run_id)


def _adopt(workspace: Workspace, version: ModelVersion) -> None:
    """The version's run, which a release without parent runs may have made, is a child; where
    MLflow has lost it, or somebody deleted it, there is none."""
    if version.update is None:
        return
    tags = tags_of(workspace, workspace.ledger.update(version.update))
    try:
        workspace.registry.log_summary(version.run_id, tags)
    except (UnreachableError, DeniedError):
        raise
    except StoreError as gone:
        log.warning("version %s has no run in MLflow any longer: %s", version.id, gone)


def _points(version: ModelVersion, scores: dict[str, Score], data: ReportData) -> list[Point]:
    """The scores, each by the time at which it was measured, and their means by the last one's."""
    step = int(version.id)
    points = [
        Point(step, _ms(score.created_at), {f"accuracy/{period}": score.accuracy})
        for period, score in scores.items()
    ]
    learnt = [_ms(score.created_at) for p, score in scores.items() if p in version.periods]
    if learnt:
        row = dataclasses.replace(data, version=version.id, flips=None, drafts=None).summary()
        means = {name: row[name] for name in MEANS if name in row}
        points.append(Point(step, max(learnt), means))
    return points


def _ms(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)
