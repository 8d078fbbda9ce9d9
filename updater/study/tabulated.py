"""All runs of a study as one table, by arm and seed.

Pure. Read by the page, the plots, the exports and MLflow's publishing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

from updater.errors import InputError
from updater.study import plan
from updater.study.comparison import Difference, Estimate, Pairing, differences, estimate
from updater.study.measures import Measures, measures
from updater.study.plan import Pair
from updater.study.results import Run
from updater.study.sweep import Sweep
from updater.study.ways import Way

COUNTS = frozenset({"steps", "tokens", "importance_bytes"})
"""Measures that follow from settings and data: equal differences with every seed are a fact, which
no test has to show."""

TIE_RULE = "the smallest value is taken, of texts the first named"
"""As `Sweep.chosen` does."""

OF_EACH_UPDATE = frozenset(
    {"new_accuracy", "backward_transfer", "forward_transfer", "worst_forgetting"}
)
"""Measures for which the arm must have trained at every update, or at none (frozen)."""

SUMS = frozenset({"seconds", "steps", "tokens"})
"""Measures that add up what each update cost."""

LESS_IS_BETTER = COUNTS | {
    *("worst_forgetting", "seconds", "peak_memory_bytes"),
    *("num_parameters", "nonzero_fraction", "num_bytes", "bytes_ratio"),
}


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

    @cached_property
    def learnt_at_last_alone(self) -> bool:
        """It trained at the last of several updates and at none before (`every = "last"`), with
        each seed that finished: what it cost is no sum over the stream, and what it was worth
        before then is the first model's."""
        learnt = [[stage.steps > 0 for stage in run.stages[1:]] for run in self.finished]
        return bool(learnt) and all(len(of) > 1 and of[-1] and sum(of) == 1 for of in learnt)

    @cached_property
    def undeployed(self) -> tuple[int, ...]:
        """The finished seeds of a replay with which no update was deployed: users had the first
        model all along, which forgets nothing."""
        judged = ((run.seed, [s for s in run.stages[1:] if s.verdict]) for run in self.finished)
        return tuple(seed for seed, of in judged if of and not any(s.deployed for s in of))

    def values(self, measure: str) -> dict[int, float]:
        """Seed -> the measure, of the finished runs in which it is known; none of
        `OF_EACH_UPDATE` where it learnt at the last one alone."""
        if measure in OF_EACH_UPDATE and self.learnt_at_last_alone:
            return {}
        found = {seed: getattr(numbers, measure) for seed, numbers in self.measured.items()}
        return {seed: float(value) for seed, value in found.items() if value is not None}

    def estimate(self, measure: str) -> Estimate | None:
        """Over the seeds that have a value; None where there is none."""
        values = list(self.values(measure).values())
        return estimate(values) if values else None


@dataclass(frozen=True)
class Table:
    """The arms in the study's order, and the one that the others are compared with. `pairs`: of
    the arms, that were declared besides. `sweeps`: what was tried for those that swept.
    `scratch`: the arm that updates are told in percent of; "" without one. `ways`: of the arms that
    compress, how; `uncompressed`: the arm that they are told against, "" without any."""

    arms: tuple[Arm, ...]
    reference: str
    pairs: tuple[Pair, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    scratch: str = ""
    ways: Mapping[str, Way] = field(default_factory=dict)
    uncompressed: str = ""

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

    @cached_property
    def learns_nothing(self) -> bool:
        """Models are compressed in it, and none learns an update."""
        runs = [run for arm in self.arms for run in arm.finished]
        return bool(self.ways) and not any(len(run.stages) > 1 for run in runs)

    def differences(self, measure: str) -> list[Difference]:
        """Each other arm minus the reference, paired by seed; one family."""
        names = [arm.name for arm in self.arms]
        by_arm = {name: self.pairing(name, self.reference, measure).values for name in names}
        return differences(by_arm, self.reference, counted=measure in COUNTS)

    def pairing(self, name: str, reference: str, measure: str) -> Pairing:
        """The two arms with their values. Of `SUMS` there are none where one of the two alone
        learnt at the last update only: the cost of one update is not to be held against that of
        them all.

        Raises:
            KeyError: one of them is no arm.
        """
        arms = {arm.name: arm for arm in self.arms}
        one, other = arms[name], arms[reference]
        if measure in SUMS and one.learnt_at_last_alone != other.learnt_at_last_alone:
            return Pairing(name, reference, {}, {})
        return Pairing(name, reference, one.values(measure), other.values(measure))

    def claims(self, measure: str) -> dict[str, str]:
        """Arm -> "better", "worse" or "undecided" than the reference, by the family's tests."""
        more = measure not in LESS_IS_BETTER
        return {d.arm: d.claim(more_is_better=more) for d in self.differences(measure)}


def tabulate(
    runs: Sequence[Run],
    reference: str = "",
    *,
    scratch: str = "",
    pairs: Sequence[Pair] = (),
    sweeps: Sequence[Sweep] = (),
    ways: Mapping[str, Way] = MappingProxyType({}),
    uncompressed: str = "",
) -> Table:
    """The runs by arm. Without a named reference it is `plan.reference`.

    Args:
        scratch: as `Table` has it.
        pairs, sweeps: of arms that have runs.
        ways, uncompressed: as `Table` has them.

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
    arms = tuple(
        Arm(name, tuple(run for _, run in sorted(seeds.items()))) for name, seeds in by_arm.items()
    )
    known = reference or plan.reference(list(by_arm))
    return Table(arms, known, tuple(pairs), tuple(sweeps), scratch, dict(ways), uncompressed)


def chosen(choice: Mapping[str, Any]) -> str:
    """What a sweep chose, in words: "regularizer.strength = 100.0"."""
    return ", ".join(f"{setting} = {_spelled(value)}" for setting, value in choice.items())


def tie(sweep: Sweep) -> str:
    """That its choice is no winner, and by which rule it was taken; "" where it is the best."""
    num = len(sweep.best)
    if num < 2:
        return ""
    which = f"all {num} choices" if num == len(sweep.tries) else f"{num} choices"
    return f"a tie of {which}, no winner: {TIE_RULE}"


def _spelled(value: Any) -> str:
    """Large round numbers without their zeros, which nobody counts: 1e10 is "1e+10"."""
    if isinstance(value, float) and abs(value) >= 1e6 and float(f"{value:g}") == value:
        return f"{value:g}"
    return str(value)
