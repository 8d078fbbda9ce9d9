"""Step gate: the verdict on the candidate, from outcomes that lie on the disk.

The decision is `updater.gate.decide`, a pure function; here its inputs are gathered and its
verdict is written down, in the ledger and on the MLflow run.
"""

import dataclasses
from typing import Any

from store.ledger import Score, Update
from updater import gate
from updater.comparison import Against, Role
from updater.outcomes import outcomes, scores_on
from updater.steps.past import past_versions
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
    _tell(workspace, update, verdict)
    needs_person = verdict.verdict == "review" or (
        verdict.verdict == "accepted" and is_by_hand(workspace, update)
    )
    return {
        "verdict": verdict.verdict,
        "reasons": judged["reasons"],
        "approval": "needed" if needs_person else "none",
    }


def is_by_hand(workspace: Workspace, update: Update) -> bool:
    """Whether a person deploys what the gate accepts: of all but a first model where the settings
    say so, and of what was compressed by hand."""
    if update.base is None:
        return False
    return update.kind == "compress" or workspace.settings.gate.approval == "manual"


def _tell(workspace: Workspace, update: Update, verdict: gate.Verdict) -> None:
    """The history has the verdict, once."""
    ledger = workspace.ledger
    if ledger.first_event("judged", update=update.id) is None:
        ledger.append(
            "judged",
            _candidate(workspace, update),
            actor=workspace.actor,
            reason=f"{verdict.verdict}: {verdict.reasons[0]}",
            update=update.id,
            payload={"verdict": verdict.verdict},
        )


def _decide(workspace: Workspace, update: Update, rule: gate.Rule) -> gate.Verdict:
    """The candidate against its base on every period, and against the best on every past one."""
    if update.base is None:
        return gate.decide([], rule, past=[], new=None, base=None)
    past = past_versions(workspace, update)
    judged = {**past, **update.config["datasets"]}
    scores = scores_on(workspace, judged)
    best = _best(workspace, scores, past, update.base)
    wanted = [(period, "base", update.base) for period in judged]
    wanted += [(period, "best", version) for period, version in best.items()]
    candidate = _candidate(workspace, update)
    compared = [
        _compare(
            workspace,
            scores.get((reference, period)),
            scores.get((candidate, period)),
            role="past" if period in past else "new",
            against="best" if against == "best" else "base",
        )
        for period, against, reference in wanted
    ]
    found = [comparison for comparison in compared if comparison is not None]
    new = None if update.period in past else update.period
    return gate.decide(found, rule, past=list(past), new=new, base=update.base, best=best)


def _compare(
    workspace: Workspace,
    reference: Score | None,
    candidate: Score | None,
    *,
    role: Role,
    against: Against,
) -> gate.Paired | None:
    """Their outcomes paired; None, which rejects, where a score lacks."""
    if reference is None or candidate is None:
        return None
    return gate.pair(
        outcomes(workspace, reference),
        outcomes(workspace, candidate),
        period=candidate.period,
        role=role,
        against=against,
        reference=reference.version,
    )


def _best(
    workspace: Workspace,
    scores: dict[tuple[str, str], Score],
    past: dict[str, str],
    base: str,
) -> dict[str, str]:
    """Past period -> the version ever deployed that did better on it than the base, if any did."""
    ever = workspace.ledger.ever_deployed()
    accuracy = {key: score.accuracy for key, score in scores.items() if key[1] in past}
    return gate.best_deployed(accuracy, ever, base)


def _candidate(workspace: Workspace, update: Update) -> str:
    candidate = workspace.ledger.update(update.id).candidate
    assert candidate is not None, "the pipeline runs train first"
    return candidate
