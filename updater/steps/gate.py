"""Step gate: the verdict on the candidate, from outcomes that lie on the disk.

The decision is `updater.gate.decide`, a pure function; here its inputs are gathered and its
verdict is written down, in the ledger and on the MLflow run.
"""

import dataclasses
from typing import Any

from store.ledger import Update
from updater import gate, release
from updater.outcomes import find, outcomes
from updater.steps.rehearse import past_versions
from updater.workspace import Workspace


def run(workspace: Workspace, update: Update) -> dict[str, Any]:
    """The update has its verdict. `approval` says whether a person has to answer."""
    settings = workspace.settings.gate
    rule = gate.Rule(margin_fraction=settings.margin_fraction, confidence=settings.confidence)
    verdict = _decide(workspace, update, rule)
    judged = verdict.as_dict()
    workspace.ledger.record_verdict(
        update.id,
        verdict.verdict,
        reasons=judged["reasons"],
        comparisons=judged["comparisons"],
        rule=dataclasses.asdict(rule),
    )
    needs_person = verdict.verdict == "review" or (
        verdict.verdict == "accepted" and settings.approval == "manual" and update.base is not None
    )
    return {
        "verdict": verdict.verdict,
        "reasons": judged["reasons"],
        "approval": "needed" if needs_person else "none",
        "approval_timeout_seconds": settings.approval_timeout_seconds,
    }


def _decide(workspace: Workspace, update: Update, rule: gate.Rule) -> gate.Verdict:
    """The candidate against its base on every period, and against the best on every past one."""
    if update.base is None:
        return gate.decide([], rule, past=[], new=None, base=None)
    past = past_versions(workspace, update)
    datasets = {**past, **update.config["datasets"]}
    best = _best(workspace, past, update.base)
    references = [(period, "base", update.base) for period in datasets]
    references += [(period, "best", version) for period, version in best.items()]
    candidate = _candidate(workspace, update)
    pairs = [
        gate.pair(
            outcomes(workspace, find(workspace, reference, datasets[period])),
            outcomes(workspace, find(workspace, candidate, datasets[period])),
            period=period,
            role="past" if period in past else "new",
            against="base" if against == "base" else "best",
            reference=reference,
        )
        for period, against, reference in references
    ]
    return gate.decide(pairs, rule, past=list(past), new=update.period, base=update.base, best=best)


def _best(workspace: Workspace, past: dict[str, str], base: str) -> dict[str, str]:
    """Past period -> the version ever deployed that did better on it than the base, if any did."""
    ever = release.deployments_ever(workspace.ledger.events())
    accuracy = {
        (s.version, s.period): s.accuracy
        for s in workspace.ledger.scores()
        if past.get(s.period) == s.dataset_version
    }
    return gate.best_deployed(accuracy, ever, base)


def _candidate(workspace: Workspace, update: Update) -> str:
    candidate = workspace.ledger.update(update.id).candidate
    assert candidate is not None, "the pipeline runs train first"
    return candidate
