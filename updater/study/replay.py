"""Replay before going live: the service's gate judges each update of a stream as if it came in.

The decision is `updater.gate.decide`, as in the service; nothing is trained here. How the runner
of an arm calls this, with `[replay]` in the study file:

    deployed = replay.begin(outcomes, learnt=first, rule=rule, settings=settings)
    for period in then:
        ...train a candidate from the model that is deployed, ask it for its outcomes...
        judged, deployed = replay.judge(deployed, outcomes, period=period)
        ...a Stage with judged.verdict, judged.reasons, judged.deployed...
        ...go on from the candidate if judged.deployed, else from the model deployed before...

A period whose update was not deployed counts as not learnt: later updates neither rehearse it nor
are judged on it, as in a service in which nobody runs that update again.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from updater import gate
from updater.errors import InputError
from updater.study.measures import mean, over_stream, served
from updater.study.results import Run

Outcomes = Mapping[str, Sequence[tuple[str, bool]]]
"""Period -> (id of the holdout example, whether the whole completion was right), of all periods of
the stream."""

VERDICTS = ("accepted", "review", "rejected")
ANSWERS = ("approve", "reject")


@dataclass(frozen=True)
class ReplaySettings:
    """The study file's `[replay]`. `follow_gate`: the stream goes on from what is deployed; false
    only notes the verdicts. `review`: what the person says to every update that the gate leaves
    undecided.

    Raises:
        InputError: another answer than these.
    """

    follow_gate: bool = True
    review: str = "approve"

    def __post_init__(self) -> None:
        if self.review not in ANSWERS:
            raise InputError(
                f'[replay] review = "{self.review}"',
                "it is what the person says to an update under review",
                'write "approve" or "reject"',
            )


@dataclass(frozen=True)
class Deployed:
    """What is deployed at one moment of the stream, and what was before, as far as the gate asks.

    `versions`: the outcomes of every model that was ever deployed, by number, the present one last.
    """

    rule: gate.Rule
    settings: ReplaySettings
    learnt: tuple[str, ...]
    versions: Mapping[str, Outcomes]

    @property
    def base(self) -> str:
        """The present one."""
        return list(self.versions)[-1]

    def to_json(self) -> str:
        """What the stream needs to go on where it was, but the rule and the settings."""
        return json.dumps({"learnt": self.learnt, "versions": self.versions})

    @classmethod
    def from_json(cls, text: str, *, rule: gate.Rule, settings: ReplaySettings) -> "Deployed":
        """What `to_json` wrote. Raises: ValueError: not JSON."""
        plain = json.loads(text)
        versions = {
            version: {p: [(id, right) for id, right in answers] for p, answers in outcomes.items()}
            for version, outcomes in plain["versions"].items()
        }
        return cls(rule, settings, tuple(plain["learnt"]), versions)


@dataclass(frozen=True)
class Judged:
    """`deployed`: users got the candidate, and the stream goes on from it."""

    verdict: Literal["accepted", "rejected", "review"]
    reasons: tuple[str, ...]
    deployed: bool


def begin(
    outcomes: Outcomes, *, learnt: Sequence[str], rule: gate.Rule, settings: ReplaySettings
) -> Deployed:
    """The first model, which has learnt these periods, is deployed."""
    return Deployed(rule, settings, tuple(learnt), {"0": outcomes})


def judge(deployed: Deployed, candidate: Outcomes, *, period: str) -> tuple[Judged, Deployed]:
    """The gate's verdict on a candidate that learnt `period`, and what is deployed after it.

    Raises:
        ValueError: the period was learnt before, or the two models answered different examples.
    """
    base = deployed.base
    best = gate.best_deployed(_accuracies(deployed), list(deployed.versions), base)
    compared = [
        _pair(deployed, candidate, past, against, version)
        for past in deployed.learnt
        for against, version in (("base", base), ("best", best.get(past)))
        if version is not None
    ]
    compared.append(_pair(deployed, candidate, period, "new", base))
    verdict = gate.decide(
        compared, deployed.rule, past=deployed.learnt, new=period, base=base, best=best
    )
    approved = verdict.verdict == "review" and deployed.settings.review == "approve"
    goes_on = not deployed.settings.follow_gate or verdict.verdict == "accepted" or approved
    judged = Judged(verdict.verdict, verdict.reasons, goes_on)
    if not goes_on:
        return judged, deployed
    return judged, dataclasses.replace(
        deployed,
        learnt=(*deployed.learnt, period),
        versions={**deployed.versions, str(int(base) + 1): candidate},
    )


def _pair(
    deployed: Deployed, candidate: Outcomes, period: str, against: str, version: str
) -> gate.Paired:
    return gate.pair(
        deployed.versions[version][period],
        candidate[period],
        period=period,
        role="new" if against == "new" else "past",
        against="best" if against == "best" else "base",
        reference=version,
    )


def _accuracies(deployed: Deployed) -> dict[tuple[str, str], float]:
    """(version, learnt period) -> accuracy, where the period has a holdout."""
    return {
        (version, period): sum(right for _, right in answers) / len(answers)
        for version, outcomes in deployed.versions.items()
        for period in deployed.learnt
        if (answers := outcomes[period])
    }


@dataclass(frozen=True)
class Replayed:
    """What a replayed run comes to. `last_deployed`: the period of the update that is deployed at
    the end of the stream; "" where that is still the first model. `had`: after each stage, the mean
    accuracy of what users had then, over all periods that had closed by then, learnt or not."""

    num_accepted: int
    num_review: int
    num_rejected: int
    num_deployed: int
    last_deployed: str
    had: tuple[float | None, ...]
    seconds: float
    tokens: int

    @property
    def mean_had(self) -> float | None:
        """Over the whole stream, each stage with the same weight."""
        return mean(self.had)

    def as_dict(self) -> dict[str, Any]:
        """The same as plain numbers and lists, for JSON."""
        return {**dataclasses.asdict(self), "mean_had": self.mean_had}


def replayed(run: Run) -> Replayed | None:
    """The run's verdicts and what users would have had; None where it was no replay or failed.

    What was spent on rejected updates counts: it was spent.
    """
    updates = run.stages[1:]
    if run.failure or not any(stage.verdict for stage in updates):
        return None
    num = {verdict: sum(s.verdict == verdict for s in updates) for verdict in VERDICTS}
    deployed = [stage.period for stage in updates if stage.verdict and stage.deployed]
    return Replayed(
        num_accepted=num["accepted"],
        num_review=num["review"],
        num_rejected=num["rejected"],
        num_deployed=len(deployed),
        last_deployed=deployed[-1] if deployed else "",
        had=tuple(over_stream(served(run))),
        seconds=sum(stage.seconds for stage in updates),
        tokens=sum(stage.tokens for stage in updates),
    )
