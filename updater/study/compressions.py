"""What compression costs: each arm that compresses against the model that it began with, in all and
period by period.

Pure. Called by `updater.study.report`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from updater.study.comparison import Difference, Estimate, differences, estimate
from updater.study.measures import accuracy
from updater.study.results import Compressed
from updater.study.tabulated import Arm, Table
from updater.study.ways import Way

_MEASURE = "final_average_accuracy"


@dataclass(frozen=True)
class Told:
    """`arm` of which some seed finished, and its `way`. `change`: of the final average accuracy,
    minus the uncompressed model's with the same seed, corrected for all arms that compress; None
    without a common seed. By period: `periods`, the accuracy; `changes`, the same less the
    uncompressed model's."""

    arm: Arm
    way: Way
    change: Difference | None
    periods: Mapping[str, Estimate]
    changes: Mapping[str, Estimate]

    @property
    def worst(self) -> tuple[str, Estimate] | None:
        """The period that pays most, and its change, whose interval knows nothing of its having
        been picked; None without a common seed."""
        return min(self.changes.items(), key=lambda item: item[1].mean, default=None)


def compressions(table: Table) -> list[Told]:
    """Each arm that compresses, in the study's order; none where there is no uncompressed model."""
    whole = table.arm(table.uncompressed)
    arms = [arm for arm in table.arms if arm.name in table.ways and arm.finished]
    if whole is None or not arms:
        return []
    values = {arm.name: arm.values(_MEASURE) for arm in (whole, *arms)}
    found = {one.arm: one for one in differences(values, whole.name)}
    before = by_period(whole)
    return [
        Told(
            arm=arm,
            way=table.ways[arm.name],
            change=found.get(arm.name),
            periods=over_seeds(after),
            changes=over_seeds(_minus(after, before)),
        )
        for arm in arms
        if (after := by_period(arm))
    ]


def first_size(table: Table) -> Compressed | None:
    """How large the first model is, as the arms that compress found it; None where none finished.
    It is as large with every seed."""
    for arm in table.arms:
        for run in arm.finished:
            if (found := run.compressed) is not None:
                whole = (found.base_parameters, found.base_parameters, 1.0)
                return Compressed(*whole, found.base_bytes, found.base_bytes)
    return None


ByPeriod = Mapping[str, Mapping[int, float]]
"""Period -> seed -> a number."""


def by_period(arm: Arm) -> dict[str, dict[int, float]]:
    """The accuracy at the end, of the finished seeds."""
    found: dict[str, dict[int, float]] = {}
    for run in arm.finished:
        for period in run.periods:
            if (value := accuracy(run, -1, period)) is not None:
                found.setdefault(period, {})[run.seed] = value
    return found


def over_seeds(of: ByPeriod) -> dict[str, Estimate]:
    """Period -> its estimate."""
    return {period: estimate(list(seeds.values())) for period, seeds in of.items() if seeds}


def _minus(one: ByPeriod, other: ByPeriod) -> dict[str, dict[int, float]]:
    return {
        period: {
            seed: value - other[period][seed]
            for seed, value in seeds.items()
            if seed in other.get(period, {})
        }
        for period, seeds in one.items()
    }
