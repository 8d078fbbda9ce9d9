"""Scores and comparisons on demand: what `updater evaluate` and `updater compare` do.

Not the judging of an update (`updater.steps.gate`).
"""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from store.ledger import Score
from updater import gate, statistics, training_core
from updater.errors import InputError
from updater.outcomes import outcomes
from updater.steps import evaluate as evaluate_step
from updater.workspace import Workspace

CONFIDENCE = 0.95


def evaluate(workspace: Workspace, version: str, periods: Sequence[str]) -> list[Score]:
    """`version` has a score on the newest dataset version of these periods (none: of all).

    A version that had not been verified in a clean process is verified now, and outcomes behind
    its other scores that are missing or broken are measured again.

    Raises:
        InputError: a period that has never been ingested, or there is no torch here.
        NotFoundError: no such version.
    """
    training_core.check("evaluate")
    found = workspace.ledger.model_version(version)
    newest = {d.period: d.id for d in workspace.ledger.dataset_versions()}
    wanted = workspace.periods.expand(periods) if periods else list(newest)
    for period in wanted:
        if period not in newest:
            raise InputError(
                f"period {period} has no dataset version",
                "a version is scored on a period's holdout",
                f"run `updater ingest {period}` first",
            )
    scores = evaluate_step.score(workspace, found, {p: newest[p] for p in wanted})
    evaluate_step.score(workspace, found, found.dataset_versions)
    evaluate_step.mend(workspace, found)
    evaluate_step.verify_version(workspace, found)
    return scores


def compare(workspace: Workspace, first: str, second: str) -> dict[str, Any]:
    """The answer of `compare`: `second` against `first` on every period that either has learnt.

    Only where a score is missing does it measure, and for that take the workspace's lock.

    Raises: as `evaluate`; UpdateError: another command holds the lock.
    """
    ledger = workspace.ledger
    one, two = ledger.model_version(first), ledger.model_version(second)
    versions = {**one.dataset_versions, **two.dataset_versions}
    ordered = {p: versions[p] for p in sorted(versions, key=workspace.periods.ordinal)}
    missing = any(evaluate_step.unscored(workspace, version, ordered) for version in (one, two))
    if missing:
        training_core.check("compare, for which scores are missing,")
    with workspace.lock() if missing else nullcontext():
        pairs = zip(
            evaluate_step.score(workspace, one, ordered),
            evaluate_step.score(workspace, two, ordered),
            strict=True,
        )
    return {
        "first": first,
        "second": second,
        "confidence": CONFIDENCE,
        "periods": {a.period: _difference(workspace, a, b) for a, b in pairs},
    }


def _difference(workspace: Workspace, first: Score, second: Score) -> dict[str, Any]:
    pair = gate.pair(
        outcomes(workspace, first),
        outcomes(workspace, second),
        period=first.period,
        role="past",
        against="base",
        reference=first.version,
    )
    bounds = statistics.interval(pair.counts(), CONFIDENCE)
    return {
        "first": first.accuracy,
        "second": second.accuracy,
        "difference": second.accuracy - first.accuracy,
        "low": bounds.low,
        "high": bounds.high,
        "num_examples": pair.num_examples,
        "negative_flips": pair.reference_only,
        "positive_flips": pair.candidate_only,
    }
