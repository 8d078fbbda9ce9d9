"""How much of the budget each past period deserves: one function per policy, in one table.

A policy returns weights, not counts; `quota` makes integers of them. A new policy is one function
and one line of `POLICIES`. Called by `manifest`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

RECENT_DECAY = 0.8
"""What one period of age leaves of a weight: half after 3.1 periods. Our choice, not measured."""

FORGETTING_FLOOR = 0.05
"""The weight of a period that has not fallen, in units of accuracy: one that has fallen by 5
points gets twice as much. Our choice, not measured."""


@dataclass(frozen=True)
class Past:
    """One period that the deployed model has learnt.

    `num_train` examples are in `train.parquet` of `dataset_version`. `ordinal` is the period's
    place in time (higher is later). `accuracy` is the deployed model's score on its holdout and
    `best_accuracy` the best that any deployed model had, both 0..1, None where never scored.
    """

    period: str
    dataset_version: str
    num_train: int
    ordinal: int
    accuracy: float | None = None
    best_accuracy: float | None = None


def none(past: Sequence[Past]) -> dict[str, float]:
    """Nothing is rehearsed."""
    return {one.period: 0.0 for one in past}


def uniform(past: Sequence[Past]) -> dict[str, float]:
    """Every past example is as likely as any other: a period weighs as many as it has."""
    return {one.period: float(one.num_train) for one in past}


def balanced(past: Sequence[Past]) -> dict[str, float]:
    """Every past period gives the same number, however large it is."""
    return {one.period: 1.0 for one in past}


def recent(past: Sequence[Past]) -> dict[str, float]:
    """A period weighs RECENT_DECAY times the one after it, however large it is."""
    newest = max((one.ordinal for one in past), default=0)
    return {one.period: RECENT_DECAY ** (newest - one.ordinal) for one in past}


def forgetting(past: Sequence[Past]) -> dict[str, float]:
    """A period weighs FORGETTING_FLOOR plus the fall of its accuracy since its best.

    Our own definition. A period that was never scored is taken to have fallen as much as the
    others did on average: no evidence is not "no fall". Without any fall this is `balanced`.
    """
    falls = {
        one.period: max(0.0, one.best_accuracy - one.accuracy)
        for one in past
        if one.accuracy is not None and one.best_accuracy is not None
    }
    typical = sum(falls.values()) / len(falls) if falls else 0.0
    return {one.period: FORGETTING_FLOOR + falls.get(one.period, typical) for one in past}


Policy = Callable[[Sequence[Past]], dict[str, float]]

POLICIES: Mapping[str, Policy] = MappingProxyType(
    {
        "none": none,
        "uniform": uniform,
        "balanced": balanced,
        "recent": recent,
        "forgetting": forgetting,
    }
)
