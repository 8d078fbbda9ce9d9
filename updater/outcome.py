"""What the commands answer, read from the ledger: the JSON contracts of the command line.

Not how it looks to people (`updater.cli.tables`). Imports neither torch nor MLflow nor DVC.
"""

import logging
from collections.abc import Sequence
from datetime import UTC
from typing import Any

from store.errors import StoreError
from store.ledger import Event, Score, Update
from updater import links, release, shrunk, statistics
from updater.errors import InputError
from updater.standing import decision, lineage, promotion, skipped, superseded
from updater.workspace import Workspace

log = logging.getLogger("updater")


def update(workspace: Workspace, opened: Update) -> dict[str, Any]:
    """The answer of `update`: verdict, reasons, scores, seconds.

    `compute_seconds` is the part of a step's `seconds` that trains, estimates or evaluates; the
    rest is what the service adds. `rolled_back`: it was promoted, and neither it nor a version
    made from it is deployed any longer. `links`: as `updater.links` has them.
    """
    ledger = workspace.ledger
    verdict = ledger.verdict(opened.id)
    promoted = promotion(ledger, opened) is not None
    in_use = opened.candidate in lineage(ledger, release.deployed(ledger))
    steps = ledger.steps(opened.id)
    smaller = shrunk.compression(ledger, opened.id)
    return {
        "update": opened.id,
        "period": opened.period,
        "base": opened.base,
        "candidate": opened.candidate,
        "verdict": verdict.verdict if verdict else None,
        "reasons": list(verdict.reasons) if verdict else [],
        "decision": _decision(workspace, opened.id),
        "promoted": promoted,
        "rolled_back": promoted and not in_use,
        "scores": _paired_scores(workspace, opened),
        "seconds": {s.name: round(s.seconds, 3) for s in steps if s.seconds},
        "compute_seconds": {
            s.name: round(s.result["compute_seconds"], 3)
            for s in steps
            if s.state == "finished" and "compute_seconds" in s.result
        },
        "links": links.of_update(workspace, opened),
        "compression": None if smaller is None else smaller.as_dict(),
    }


def step(workspace: Workspace, opened: Update, name: str, result: dict[str, Any]) -> dict[str, Any]:
    """The result of a step, of release with what has become of the update since."""
    if name != "release":
        return result
    ledger = workspace.ledger
    return {
        **result,
        "promoted": promotion(ledger, opened) is not None,
        "awaiting": opened.id in release.awaiting_approval(ledger),
    }


def first(workspace: Workspace, opened: Update) -> dict[str, Any]:
    """The answer of `scratch` and `adopt`."""
    assert opened.candidate is not None, "a finished update has a candidate"
    scores = workspace.ledger.scores(version=opened.candidate)
    return {
        "version": opened.candidate,
        "deployed": release.deployed(workspace.ledger) == opened.candidate,
        "scores": {s.period: s.accuracy for s in scores if s.period in opened.config["datasets"]},
        "update": opened.id,
        "links": links.of_update(workspace, opened),
    }


def compressed(workspace: Workspace, opened: Update) -> dict[str, Any]:
    """The answer of `compress`: that of `update`, and what the version is beside its base.

    `bytes` and `base_bytes` are those of the weight files. `num_parameters` are those that the
    version has; `nonzero_fraction` of them are not zero.
    """
    answer = update(workspace, opened)
    told = answer["compression"]
    assert told is not None, "a finished update has made its candidate"
    names = ("num_parameters", "nonzero_fraction", "bytes", "base_bytes")
    return {**answer, "version": opened.candidate, **{name: told[name] for name in names}}


def status(workspace: Workspace) -> dict[str, Any]:
    """The answer of `status`.

    `consistent` is whether MLflow's aliases say what the events say: not where it can't be
    reached, or refuses the sign-in. `release` is the event by which the deployed version came, with
    the period of the update that made it so; None where nothing is deployed. `due` is None where
    the configuration's periods are wrong: on call has to see the rest. `updates` says what the
    unfinished ones and those awaiting approval are.
    """
    ledger = workspace.ledger
    last = ledger.last_release()
    deployed = last.version if last else None
    unfinished, awaiting = release.unfinished(ledger), release.awaiting_approval(ledger)
    return {
        "deployed": deployed,
        "release": _release(workspace, last) if last else None,
        "learnt": _learnt(workspace),
        "due": _due_if_known(workspace),
        "unfinished": unfinished,
        "superseded": [
            {"update": one.id, "period": one.period, "base": one.base} for one in superseded(ledger)
        ],
        "awaiting_approval": awaiting,
        "updates": {name: _about(ledger.update(name)) for name in (*unfinished, *awaiting)},
        "consistent": _consistent(workspace),
        "links": links.of_workspace(workspace),
    }


def _about(update: Update) -> dict[str, Any]:
    """What an update is of, without what became of it."""
    return {
        "kind": update.kind,
        "period": update.period,
        "base": update.base,
        "candidate": update.candidate,
        "compression": shrunk.asked(update),
    }


def due(workspace: Workspace) -> list[str]:
    """The periods that have closed, that the deployed version has not learnt and nobody skipped.

    Raises:
        InputError: the configuration's periods are wrong.
    """
    found = workspace.periods.due(_learnt(workspace), workspace.ledger.now())
    passed_over = skipped(workspace.ledger)
    return [period for period in found if period not in passed_over]


def _learnt(workspace: Workspace) -> list[str]:
    deployed = release.deployed(workspace.ledger)
    return workspace.ledger.model_version(deployed).periods if deployed else []


def _due_if_known(workspace: Workspace) -> list[str] | None:
    try:
        _ = workspace.settings.periods
    except InputError:
        return None  # what is wrong there was said when the configuration was read
    try:
        return due(workspace)
    except InputError as error:
        log.warning("which periods are due is not known: %s", error)
        return None


def _release(workspace: Workspace, event: Event) -> dict[str, Any]:
    period = workspace.ledger.update(event.update).period if event.update else None
    return {"event": event.id, **_told(event), "period": period}


def _decision(workspace: Workspace, update: str | None) -> dict[str, Any] | None:
    """What a person said of the update: approved, rejected or abandoned; None where nobody did."""
    found = decision(workspace.ledger, update) if update is not None else None
    if found is None:
        return None
    return {name: _told(found)[name] for name in ("kind", "at", "actor", "reason")}


def _told(event: Event) -> dict[str, Any]:
    return {
        "at": event.at.astimezone(UTC).isoformat(timespec="seconds"),
        "actor": event.actor,
        "kind": event.kind,
        "version": event.version,
        "previous": event.previous,
        "update": event.update,
        "reason": event.reason,
    }


def _consistent(workspace: Workspace) -> bool:
    try:
        return release.consistent(workspace.ledger, workspace.aliases)
    except StoreError as error:
        log.warning("whether the aliases are right is not known: %s", error)
        return False


def score_matrix(workspace: Workspace) -> dict[str, Any]:
    """The answer of `scores`: rows are versions, columns the periods in their order."""
    scores = current_scores(workspace)
    periods = sorted({p for _, p in scores}, key=workspace.periods.ordinal)
    versions = [v.id for v in workspace.ledger.model_versions()]
    cells = [[scores.get((v, p)) for p in periods] for v in versions]
    sizes = {p: s.num_examples for (_, p), s in scores.items()}
    return {
        "periods": periods,
        "versions": versions,
        "accuracy": [[cell.accuracy if cell else None for cell in row] for row in cells],
        "num_examples": [sizes[p] for p in periods],
    }


def current_scores(
    workspace: Workspace, version: str | None = None
) -> dict[tuple[str, str], Score]:
    """(version, period) -> score on the period's newest dataset version that has been scored; of
    one version or of all."""
    newest = {d.id: n for n, d in enumerate(workspace.ledger.dataset_versions())}
    found = workspace.ledger.scores(version=version)
    scores = sorted(found, key=lambda s: newest[s.dataset_version])
    return {(s.version, s.period): s for s in scores}


def history(workspace: Workspace, last: int | None = None) -> dict[str, Any]:
    """The answer of `history`: every event, or the `last` so many; oldest first."""
    ledger = workspace.ledger
    events = ledger.events() if last is None else ledger.newest_events(last)
    return {"events": [{"id": e.id, **_told(e), "period": e.payload.get("period")} for e in events]}


def version(workspace: Workspace, name: str) -> dict[str, Any]:
    """The answer of `show`: where a version comes from and what became of it. `compression` is None
    where nothing was taken away of it."""
    ledger = workspace.ledger
    found = ledger.model_version(name)
    smaller = shrunk.compression(ledger, found.update)
    verdict = ledger.verdict(found.update) if found.update else None
    current = current_scores(workspace, found.id)
    return {
        "version": found.id,
        "kind": found.kind,
        "base": found.base,
        "update": found.update,
        "digest": found.digest,
        "uri": found.uri,
        "learnt": found.periods,
        "dataset_versions": found.dataset_versions,
        "created_at": found.created_at.astimezone(UTC).isoformat(timespec="seconds"),
        "deployed": release.deployed(ledger) == found.id,
        "verdict": verdict.verdict if verdict else None,
        "reasons": list(verdict.reasons) if verdict else [],
        "decision": _decision(workspace, found.update),
        "compression": None if smaller is None else smaller.as_dict(),
        "scores": {p: s.accuracy for (_, p), s in current.items()},
        "mlflow_run": found.run_id,
        "links": links.of_version(workspace, found.id),
    }


def periods(workspace: Workspace) -> dict[str, Any]:
    """The answer of `periods`: each with its newest dataset version and the one that the deployed
    model has learnt; due ones without."""
    deployed, learnt_periods = release.deployed(workspace.ledger), _learnt(workspace)
    waiting = due(workspace)
    learnt = workspace.ledger.model_version(deployed).dataset_versions if deployed else {}
    newest = {d.period: d for d in workspace.ledger.dataset_versions()}
    names = sorted({*newest, *waiting}, key=workspace.periods.ordinal)
    counts = ("num_train", "num_holdout", "num_quarantined", "num_duplicates", "num_leaked")
    return {
        "periods": [
            {
                "period": period,
                "dataset_version": newest[period].id if period in newest else None,
                **{c: getattr(newest[period], c) if period in newest else None for c in counts},
                "learnt": period in learnt_periods,
                "learnt_version": learnt.get(period),
            }
            for period in names
        ]
    }


def evaluation(workspace: Workspace, name: str, wanted: Sequence[str]) -> dict[str, Any]:
    """The answer of `evaluate`: accuracy with its 95 % interval (Wilson 1927) per period."""
    found = {p: s for (_, p), s in current_scores(workspace, name).items()}
    chosen = (
        workspace.periods.expand(wanted) if wanted else sorted(found, key=workspace.periods.ordinal)
    )
    scores = {}
    for period in chosen:
        score = found[period]
        bounds = statistics.wilson(score.num_correct, score.num_examples)
        scores[period] = {
            "accuracy": score.accuracy,
            "low": bounds.low,
            "high": bounds.high,
            "num_examples": score.num_examples,
        }
    return {"version": name, "scores": scores}


def _paired_scores(workspace: Workspace, opened: Update) -> dict[str, dict[str, Any]]:
    if opened.candidate is None:
        return {}
    ledger = workspace.ledger
    base = {s.dataset_version: s for s in ledger.scores(version=opened.base)} if opened.base else {}
    judged = set(ledger.model_version(opened.candidate).dataset_versions.values())
    scores = {}
    for mine in ledger.scores(version=opened.candidate):
        if mine.dataset_version not in judged:
            continue  # measured later, for a comparison with a version that came after
        theirs = base.get(mine.dataset_version)
        scores[mine.period] = {
            "base": theirs.accuracy if theirs else None,
            "candidate": mine.accuracy,
            "num_examples": mine.num_examples,
        }
    return scores
