"""Step gate: the verdict on the candidate, from outcomes that lie on the disk.

The decision is `updater.gate.decide`, a pure function; here its inputs are gathered and its
verdict is written down, in the ledger and on the MLflow run.
"""

from typing import Any

import pyarrow.parquet as pq

from store.ledger import ModelVersion, Score, Update
from updater import gate, release
from updater.steps.rehearse import past_versions
from updater.workspace import Workspace


def run(workspace: Workspace, update: Update) -> dict[str, Any]:
    """The update has its verdict. `approval` says whether a person has to answer."""
    ledger = workspace.ledger
    candidate = ledger.model_version(_candidate(workspace, update))
    settings = workspace.settings.gate
    verdict = gate.decide(
        comparisons(workspace, update, candidate),
        gate.Rule(margin_fraction=settings.margin_fraction, confidence=settings.confidence),
        expected=_expected(workspace, update),
    )
    ledger.record_verdict(
        update.id,
        verdict.verdict,
        reasons=list(verdict.reasons),
        comparisons=[comparison.as_dict() for comparison in verdict.comparisons],
        rule=verdict.rule.as_dict(),
    )
    needs_person = verdict.verdict == "review" or (
        verdict.verdict == "accepted" and settings.approval == "manual"
    )
    return {
        "verdict": verdict.verdict,
        "reasons": list(verdict.reasons),
        "approval": "needed" if needs_person else "none",
        "approval_timeout_seconds": settings.approval_timeout_seconds,
    }


def comparisons(
    workspace: Workspace, update: Update, candidate: ModelVersion
) -> list[gate.Paired]:
    """The candidate against its base on every period, and against the best on every past one."""
    if update.base is None:
        return []
    past = past_versions(workspace, update)
    pairs = []
    for period, dataset_version in candidate.dataset_versions.items():
        role = "past" if period in past else "new"
        mine = _score(workspace, candidate.id, dataset_version)
        base = _score(workspace, update.base, dataset_version)
        references = {"base": base}
        if role == "past":
            references["best"] = _best(workspace, base)
        for against, reference in references.items():
            if against == "best" and reference.version == base.version:
                continue
            pairs.append(
                gate.pair(
                    _outcomes(workspace, reference),
                    _outcomes(workspace, mine),
                    period=period,
                    role=role,
                    against=against,
                    reference=reference.version,
                )
            )
    return pairs


def _expected(workspace: Workspace, update: Update) -> dict[str, str]:
    """Period -> role of every period that must be judged; empty for a first model."""
    if update.base is None:
        return {}
    roles = dict.fromkeys(past_versions(workspace, update), "past")
    return {**roles, update.period: "new"}


def _candidate(workspace: Workspace, update: Update) -> str:
    candidate = workspace.ledger.update(update.id).candidate
    assert candidate is not None, "the pipeline runs train first"
    return candidate


def _score(workspace: Workspace, version: str, dataset_version: str) -> Score:
    scores = workspace.ledger.scores(version=version)
    return next(s for s in scores if s.dataset_version == dataset_version)


def _best(workspace: Workspace, base: Score) -> Score:
    """The score of the version that did best on this period among all ever deployed."""
    ever = set(release.deployments_ever(workspace.ledger.events()))
    rivals = [
        s
        for s in workspace.ledger.scores(period=base.period)
        if s.dataset_version == base.dataset_version and s.version in ever
    ]
    return max([base, *rivals], key=lambda s: s.accuracy)


def _outcomes(workspace: Workspace, score: Score) -> dict[str, bool]:
    table = pq.read_table(workspace.root / score.outcomes, columns=["id", "correct"])
    return dict(zip(table["id"].to_pylist(), table["correct"].to_pylist(), strict=True))
