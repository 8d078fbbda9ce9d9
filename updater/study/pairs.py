"""The pairs of arms that a study file declares, compared: which is more accurate, at what cost.

Pure. Called by `updater.study.report.pair_report` and `exports`.
"""

import math
from dataclasses import dataclass

from updater.statistics import Interval
from updater.study.comparison import Claim, Difference, Pairing, estimate, family
from updater.study.tabulated import Table

COSTS = ("seconds", "steps", "tokens")
"""Measures of which a pair has a ratio, each a field of `Compared`."""


@dataclass(frozen=True)
class Ratio:
    """Arm to reference: the geometric mean over `num_seeds`, above 0. `interval`: at 95 %; None
    where the seeds show no spread: one alone, or the same ratio with each."""

    mean: float
    num_seeds: int
    interval: Interval | None


@dataclass(frozen=True)
class Compared:
    """`arm` against `reference` over the seeds that finished in both.

    `accuracy`: of the final average accuracy, corrected for all declared pairs; None without a
    common seed. `seconds` (wall), `steps` (of the optimizer) and training `tokens`: None where
    one of the two did no work, or one alone learnt at the last update only (`Table.pairing`).
    """

    arm: str
    reference: str
    accuracy: Difference | None
    seconds: Ratio | None
    steps: Ratio | None
    tokens: Ratio | None

    @property
    def num_seeds(self) -> int:
        """In common."""
        return 0 if self.accuracy is None else self.accuracy.estimate.num_seeds

    @property
    def lower_bound(self) -> float | None:
        """Of the accuracy's difference, as `Difference.lower_bound`; None without one."""
        return None if self.accuracy is None else self.accuracy.lower_bound

    @property
    def claim(self) -> Claim:
        """What may be said of the arm's accuracy, with 95 % confidence in all pairs together."""
        if self.accuracy is None:
            return "undecided"
        return self.accuracy.claim(more_is_better=True)


def compared(table: Table) -> list[Compared]:
    """Every declared pair, in the file's order."""
    differences = family(_pairings(table, "final_average_accuracy"))
    ratios = [map(ratio, _pairings(table, measure)) for measure in COSTS]
    return [
        Compared(pair.arm, pair.reference, accuracy, *costs)
        for pair, accuracy, *costs in zip(table.pairs, differences, *ratios, strict=True)
    ]


def _pairings(table: Table, measure: str) -> list[Pairing]:
    return [table.pairing(pair.arm, pair.reference, measure) for pair in table.pairs]


def ratio(pairing: Pairing) -> Ratio | None:
    """exp of the mean log ratio, its interval exp of Student's t interval of that mean; None
    without a common seed, or where one of the values is not above 0.

    Costs multiply, and a ratio of 2 is as far from 1 as one of 1/2: on the log scale their mean and
    its interval do not depend on which arm is the reference (Bland & Altman 1996, BMJ 312, 1079 and
    1153; of the geometric mean of ratios, Fleming & Wallace 1986, CACM 29(3), 218-221).
    """
    pairs = pairing.by_seed()
    if not pairs or min(min(pair) for pair in pairs) <= 0:
        return None
    logs = estimate([math.log(one / other) for one, other in pairs])
    found = logs.interval
    if found is not None:
        found = Interval(math.exp(found.low), math.exp(found.high))
    return Ratio(math.exp(logs.mean), logs.num_seeds, found)
