"""From the ledger and the workspace's files to a `ReportData`.

Reads only; nothing is measured, judged or repaired here. Called by `updater report` and by the
pipeline's publishing. Imports neither torch nor MLflow.
"""

import dataclasses
import json
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa

from rehearsal.choice import Choice
from store.ledger import Event, Ledger, ModelVersion, Score
from store.ledger.records import DECISION_KINDS
from updater.cost import cost_of
from updater.outcomes import holdout as read_holdout
from updater.rehearsed import rehearsed
from updater.report import flips
from updater.report.data import (
    Cell,
    Dataset,
    Deployment,
    Drafts,
    Importance,
    Judgement,
    Rehearsed,
    ReportData,
    Searched,
    Version,
    Window,
)
from updater.report.went import went
from updater.shrunk import compression
from updater.step_titles import title
from updater.workspace import Workspace

_RELEASES = ("promoted", "rolled_back")


def collect(
    workspace: Workspace,
    version: str,
    *,
    holdout: Callable[[str], pa.Table] | None = None,
) -> ReportData:
    """All that the report on `version` shows, as of now.

    Args:
        holdout: dataset version -> its holdout examples; DVC's by default. Asked for only where an
            example flipped.

    Raises:
        NotFoundError: no such version.
        OSError, pyarrow.ArrowInvalid: a file of the workspace can't be read.
    """
    ledger = workspace.ledger
    subject = ledger.model_version(version)
    versions = ledger.model_versions()
    deployments = _deployments(ledger)
    update = ledger.update(subject.update) if subject.update is not None else None
    known, unknown = flips.against_base(
        workspace,
        subject,
        _learnt(workspace, subject),
        holdout or (lambda dataset: read_holdout(workspace, dataset)),
    )
    scores = _scores(ledger, subject)
    smaller = compression(ledger, subject.update)
    shown = {p for v in versions for p in v.dataset_versions} | {period for _, period in scores}
    return ReportData(
        workspace=workspace.settings.workspace.name,
        version=version,
        made_at=_moment(datetime.now(UTC)),
        versions=tuple(_version(workspace, v, {d.version for d in deployments}) for v in versions),
        periods=tuple(sorted(shown, key=workspace.periods.ordinal)),
        scores=scores,
        deployments=deployments,
        judgement=_judgement(ledger, subject),
        flips=known,
        flips_unknown=unknown,
        rehearsed=_rehearsed(ledger, subject),
        importance=_importance(ledger, subject),
        drafts=_drafts(ledger, subject),
        searched=_searched(ledger, subject),
        compression=smaller,
        went=None if smaller is None else went(workspace, subject, smaller),
        curve={} if update is None else _curve(workspace.root / "runs" / update.id),
        step_seconds=_step_seconds(ledger, subject),
        cost=cost_of([] if subject.update is None else ledger.steps(subject.update)),
        datasets=tuple(_dataset(ledger, d) for d in _learnt(workspace, subject).values()),
        config={} if update is None else update.config,
        config_digest="" if update is None else update.config_digest,
    )


def _version(workspace: Workspace, version: ModelVersion, ever_deployed: set[str]) -> Version:
    ledger = workspace.ledger
    verdict = ledger.verdict(version.update) if version.update is not None else None
    learnt = tuple(_learnt(workspace, version))
    taught = _taught(ledger, version)
    return Version(
        id=version.id,
        kind=version.kind,
        base=version.base,
        learnt=learnt,
        new=tuple(period for period in learnt if period in taught),
        verdict=None if verdict is None else verdict.verdict,
        was_deployed=version.id in ever_deployed,
        created_at=_moment(version.created_at),
        update=version.update,
        digest=version.digest,
        run_id=version.run_id,
    )


def _taught(ledger: Ledger, version: ModelVersion) -> set[str]:
    """The periods whose dataset version the base had not learnt: new ones, and new data of old."""
    before = ledger.model_version(version.base).dataset_versions if version.base is not None else {}
    return {p for p, dataset in version.dataset_versions.items() if before.get(p) != dataset}


def _learnt(workspace: Workspace, version: ModelVersion) -> dict[str, str]:
    """Period -> dataset version of what it has learnt, in the periods' order."""
    learnt = version.dataset_versions
    return {period: learnt[period] for period in sorted(learnt, key=workspace.periods.ordinal)}


def _deployments(ledger: Ledger) -> tuple[Deployment, ...]:
    return tuple(
        Deployment(_moment(e.at), e.kind, e.version, e.actor, e.reason)
        for e in ledger.events()
        if e.kind in _RELEASES and e.version is not None
    )


def _scores(ledger: Ledger, subject: ModelVersion) -> dict[tuple[str, str], Cell]:
    """One score for each version and period: on the dataset version that the report's version has
    learnt where there is one, so that a column compares like with like; else on the newest."""
    newest = {dataset.id: n for n, dataset in enumerate(ledger.dataset_versions())}

    def preference(score: Score) -> tuple[bool, int]:
        same = subject.dataset_versions.get(score.period) == score.dataset_version
        return same, newest[score.dataset_version]

    return {
        (score.version, score.period): Cell(score.num_correct, score.num_examples)
        for score in sorted(ledger.scores(), key=preference)
    }


def _judgement(ledger: Ledger, subject: ModelVersion) -> Judgement | None:
    verdict = ledger.verdict(subject.update) if subject.update is not None else None
    if verdict is None:
        return None
    return Judgement(
        verdict=verdict.verdict,
        reasons=tuple(verdict.reasons),
        comparisons=tuple(verdict.comparisons),
        margin_fraction=verdict.rule["margin_fraction"],
        confidence=verdict.rule["confidence"],
        decision=_decision(ledger, subject),
    )


def _decision(ledger: Ledger, subject: ModelVersion) -> tuple[str, str, str] | None:
    """(what a person decided, who, why): the last word on the version."""
    found = [
        event
        for event in ledger.events()
        if (event.kind in DECISION_KINDS and event.update == subject.update)
        or (event.kind == "promoted" and event.version == subject.id and _overrode(event))
    ]
    return (found[-1].kind, found[-1].actor, found[-1].reason) if found else None


def _overrode(event: Event) -> bool:
    return bool(event.payload.get("overridden"))


def _rehearsed(ledger: Ledger, subject: ModelVersion) -> Rehearsed | None:
    manifest = rehearsed(ledger, subject.update) if subject.update is not None else None
    if manifest is None:
        return None
    windows = tuple(
        Window(
            choice.period,
            choice.dataset_version,
            choice.num_train,
            choice.start if isinstance(choice, Choice) else None,
            choice.count,
        )
        for choice in manifest.choices
    )
    return Rehearsed(manifest.policy, manifest.budget, windows)


def _importance(ledger: Ledger, subject: ModelVersion) -> Importance | None:
    """None where nothing was weighed, or by a release that did not say what it cost."""
    step = ledger.step(subject.update, "importance") if subject.update is not None else None
    if step is None or step.state != "finished" or not step.result.get("num_bytes"):
        return None
    found = {f.name: step.result[f.name] for f in dataclasses.fields(Importance)}
    estimator = found["estimator"]
    return Importance(**{**found, "estimator": _ESTIMATORS.get(estimator, estimator)})


def _drafts(ledger: Ledger, subject: ModelVersion) -> Drafts | None:
    """None where no head was aligned."""
    step = ledger.step(subject.update, "train") if subject.update is not None else None
    if step is None or step.state != "finished" or "mtp" not in step.result:
        return None
    told = step.result["mtp"]
    before, after = (tuple(told[f"acceptance_{when}"]) for when in ("before", "after"))
    return Drafts(before, after, told["num_examples"])


_ESTIMATORS = dict.fromkeys(("si", "path"), "SI's path integral")
"""In words, where the name alone says little; older ledgers have SI's under the second one."""


def _searched(ledger: Ledger, subject: ModelVersion) -> Searched | None:
    step = ledger.step(subject.update, "train") if subject.update is not None else None
    if step is None or step.state != "finished" or "search" not in step.result:
        return None
    record = step.result["search"]
    shown = {name: record[name] for name in ("winner", "num_new", "num_past", "base_past")}
    return Searched(trials=tuple(record["trials"]), **shown)


def _curve(folder: Path) -> dict[str, tuple[tuple[int, float], ...]]:
    """Metric -> points by rising step; the newest of those that a resumed training repeated."""
    path = folder / "train_metrics.jsonl"
    if not path.exists():
        return {}
    whole, _, _ = path.read_text("utf-8").rpartition("\n")  # after it, a line still being written
    curve: dict[str, dict[int, float]] = {}
    for line in whole.splitlines():
        point = json.loads(line)
        point.pop("at_ms", None)  # versions made before it was kept are reported too
        step = int(point.pop("step"))
        for name, value in point.items():
            if math.isfinite(value):
                curve.setdefault(name, {})[step] = float(value)
    return {name: tuple(sorted(points.items())) for name, points in curve.items()}


def _step_seconds(ledger: Ledger, subject: ModelVersion) -> tuple[tuple[str, float], ...]:
    steps = ledger.steps(subject.update) if subject.update is not None else []
    return tuple(
        (title(subject.kind, step.name), step.seconds) for step in steps if step.seconds is not None
    )


def _dataset(ledger: Ledger, id: str) -> Dataset:
    found = ledger.dataset_version(id)
    return Dataset(
        period=found.period,
        id=found.id,
        num_train=found.num_train,
        num_holdout=found.num_holdout,
        num_quarantined=found.num_quarantined,
        num_duplicates=found.num_duplicates,
        num_leaked=found.num_leaked,
    )


def _moment(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="seconds")
