"""All runs of a study as one table, and the table as JSON and CSV.

Pure; nothing is written to disk here. Read by the page, the plots and MLflow's publishing.
"""

import csv
import dataclasses
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from updater.errors import InputError
from updater.study.comparison import Difference, Estimate, differences, estimate
from updater.study.measures import NAMES, Measures, measures
from updater.study.results import Run

REFERENCE = "rehearsal"
"""The arm that others are compared with where none is named: what paper A found best alone."""

COUNTS = frozenset({"steps", "tokens"})
"""Measures that follow from settings and data: equal differences with every seed are a fact."""

LESS_IS_BETTER = frozenset({"worst_forgetting", "seconds", "steps", "tokens", "peak_memory_bytes"})


@dataclass(frozen=True)
class Arm:
    """One arm with all its seeds, in the seeds' order."""

    name: str
    runs: tuple[Run, ...]

    @cached_property
    def measured(self) -> dict[int, Measures]:
        """Seed -> the numbers of its run; failed ones are not in it."""
        found = ((run.seed, measures(run)) for run in self.runs)
        return {seed: numbers for seed, numbers in found if numbers is not None}

    @property
    def finished(self) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if not run.failure)

    @property
    def failures(self) -> dict[int, str]:
        """Seed -> why it stopped."""
        return {run.seed: run.failure for run in self.runs if run.failure}

    def values(self, measure: str) -> dict[int, float]:
        """Seed -> the measure, of the finished runs in which it is known."""
        found = {seed: getattr(numbers, measure) for seed, numbers in self.measured.items()}
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def estimate(self, measure: str) -> Estimate | None:
        """Over the finished seeds; None where there is none."""
        values = list(self.values(measure).values())
        return estimate(values) if values else None


@dataclass(frozen=True)
class Table:
    """The arms in the study's order, and the one that the others are compared with."""

    arms: tuple[Arm, ...]
    reference: str

    def arm(self, name: str) -> Arm | None:
        return next((arm for arm in self.arms if arm.name == name), None)

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        return tuple(sorted({run.seed for arm in self.arms for run in arm.runs}))

    @cached_property
    def judged(self) -> bool:
        """It is a replay: the gate judged an update of a run that finished."""
        runs = [run for arm in self.arms for run in arm.finished]
        return any(stage.verdict for run in runs for stage in run.stages)

    def differences(self, measure: str) -> list[Difference]:
        """Each other arm minus the reference, paired by seed; one family."""
        by_arm = {arm.name: arm.values(measure) for arm in self.arms}
        return differences(by_arm, self.reference, counted=measure in COUNTS)

    def claims(self, measure: str) -> dict[str, str]:
        """Arm -> "better", "worse" or "undecided" than the reference, by the family's tests."""
        more = measure not in LESS_IS_BETTER
        return {d.arm: d.claim(more_is_better=more) for d in self.differences(measure)}


def tabulate(runs: Sequence[Run], reference: str = "") -> Table:
    """The runs by arm. Without a named reference it is `REFERENCE`, or else the first arm.

    Raises:
        InputError: no runs, or the reference is none of the arms.
        ValueError: an arm ran twice with one seed, or streams differ in their periods.
    """
    if not runs:
        raise InputError("a study without runs", "at least one arm and seed", "run it first")
    by_arm: dict[str, dict[int, Run]] = {}
    for run in runs:
        if run.seed in by_arm.setdefault(run.arm, {}):
            raise ValueError(f"arm {run.arm} has two runs with seed {run.seed}")
        by_arm[run.arm][run.seed] = run
    if len({run.periods for run in runs if not run.failure}) > 1:
        raise ValueError("all runs of a study must have the same stream of periods")
    if reference and reference not in by_arm:
        raise InputError(
            f"reference {reference!r} is no arm of the study",
            f"the arms are {', '.join(by_arm)}",
            "name one of them",
        )
    fallback = REFERENCE if REFERENCE in by_arm else next(iter(by_arm))
    arms = tuple(
        Arm(name, tuple(run for _, run in sorted(seeds.items()))) for name, seeds in by_arm.items()
    )
    return Table(arms, reference or fallback)


def answer(table: Table) -> dict[str, Any]:
    """The JSON answer of `updater study`: arm -> measure -> a value for each of `seeds`, None
    where that run failed."""
    return {
        "seeds": list(table.seeds),
        "reference": table.reference,
        "arms": {arm.name: _per_seed(arm, table.seeds) for arm in table.arms},
    }


def as_json(table: Table) -> dict[str, Any]:
    """The answer, and with it means, intervals, differences and claims."""
    return {
        **answer(table),
        "estimates": {
            arm.name: {
                name: dataclasses.asdict(found)
                for name in NAMES
                if (found := arm.estimate(name)) is not None
            }
            for arm in table.arms
        },
        "differences": {name: _differences(table, name) for name in NAMES},
        "choices": {
            arm.name: {run.seed: dict(run.choice) for run in arm.runs if run.choice}
            for arm in table.arms
        },
    }


def as_csv(table: Table) -> str:
    """A line for each arm and seed: its numbers, why it failed, and what a sweep chose."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["arm", "seed", *NAMES, "failure", "choice"])
    for arm in table.arms:
        for run in arm.runs:
            numbers = arm.measured.get(run.seed)
            cells = [None if numbers is None else getattr(numbers, name) for name in NAMES]
            writer.writerow([arm.name, run.seed, *cells, run.failure, chosen(run.choice)])
    return stream.getvalue()


def arms_csv(table: Table) -> str:
    """A line for each arm and measure: mean and interval, and the difference to the reference."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    difference = ("difference", "difference_low", "difference_high", "p_value", "adjusted_p")
    writer.writerow(
        ["arm", "measure", "num_seeds", "mean", "low", "high", "reference", *difference, "claim"]
    )
    for name in NAMES:
        against = {d.arm: d for d in table.differences(name)}
        claims = table.claims(name)
        for arm in table.arms:
            found, other = arm.estimate(name), against.get(arm.name)
            if found is None:
                continue
            cells: list[object] = [arm.name, name, found.num_seeds, *_numbers(found)]
            if other is not None:
                cells += [other.reference, *_numbers(other.estimate), other.p_value]
                cells += [other.adjusted_p, claims[arm.name]]
            writer.writerow(cells + [None] * (13 - len(cells)))
    return stream.getvalue()


def _numbers(found: Estimate) -> list[float | None]:
    bounds = found.interval
    return [found.mean, *((None, None) if bounds is None else (bounds.low, bounds.high))]


def chosen(choice: Mapping[str, Any]) -> str:
    """What a sweep chose, in words: "regularizer.strength = 100.0"."""
    return ", ".join(f"{setting} = {value}" for setting, value in choice.items())


def _per_seed(arm: Arm, seeds: Sequence[int]) -> dict[str, Any]:
    found: dict[str, Any] = {
        name: [getattr(arm.measured.get(seed), name, None) for seed in seeds] for name in NAMES
    }
    return {**found, "failures": arm.failures} if arm.failures else found


def _differences(table: Table, measure: str) -> list[dict[str, Any]]:
    claims = table.claims(measure)
    return [
        {**dataclasses.asdict(found), "claim": claims[found.arm]}
        for found in table.differences(measure)
    ]
