"""Candidate against reference on one period: their outcomes joined, and the difference judged.

Not the verdict on the whole candidate (`updater.gate`, which calls this and hands these names on).
The standard library only.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from updater import statistics
from updater.statistics import PairedCounts

Role = Literal["past", "new"]
Against = Literal["base", "best"]
Result = Literal["passed", "failed", "inconclusive"]


@dataclass(frozen=True)
class Paired:
    """How candidate and reference answered the same holdout of one period.

    `reference_only` were right with the reference and wrong with the candidate, `candidate_only`
    the reverse. No examples at all count as a missing score.

    Raises:
        ValueError: a count is negative, or they don't add up to `num_examples`.
    """

    period: str
    role: Role
    against: Against
    reference: str
    num_examples: int
    both_right: int
    reference_only: int
    candidate_only: int
    neither: int

    def __post_init__(self) -> None:
        cells = (self.both_right, self.reference_only, self.candidate_only, self.neither)
        if min(cells) < 0 or sum(cells) != self.num_examples:
            raise ValueError(
                f"outcomes of {self.period}: {cells} must be counts that add up to "
                f"num_examples = {self.num_examples}"
            )

    @property
    def is_scored(self) -> bool:
        return self.num_examples > 0

    def counts(self) -> PairedCounts:
        return PairedCounts(self.candidate_only, self.reference_only, self.num_examples)

    @property
    def accuracies(self) -> tuple[float, float]:
        """Of the reference and of the candidate."""
        return (
            (self.both_right + self.reference_only) / self.num_examples,
            (self.both_right + self.candidate_only) / self.num_examples,
        )


@dataclass(frozen=True)
class Comparison:
    """One judged difference, candidate - reference, as fractions.

    `low` and `high` are the one-sided bounds at the levels at which Holm's procedure tested this
    comparison, so `passed` means low >= threshold and `failed` means high <= threshold (up to
    rounding). `p_value` is of "not above the threshold", `p_value_worse` of "not below it".
    `examples_needed` is about how many holdout examples would decide if the observed proportions
    stayed; None where no number would.
    """

    period: str
    role: Role
    against: Against
    reference: str
    num_examples: int
    reference_accuracy: float
    candidate_accuracy: float
    difference: float
    low: float
    high: float
    threshold: float
    p_value: float
    adjusted_p: float
    p_value_worse: float
    adjusted_p_worse: float
    result: Result
    examples_needed: int | None
    reference_only: int
    candidate_only: int


def pair(
    reference_outcomes: Iterable[tuple[str, bool]],
    candidate_outcomes: Iterable[tuple[str, bool]],
    *,
    period: str,
    role: Role,
    against: Against,
    reference: str,
) -> Paired:
    """The outcomes of two models joined by example id, whatever their order.

    Raises:
        ValueError: an id appears twice, or the two sets of ids differ.
    """
    before = _by_id(reference_outcomes, f"version {reference} on {period}")
    after = _by_id(candidate_outcomes, f"the candidate on {period}")
    if before.keys() != after.keys():
        lacking = sorted(before.keys() ^ after.keys())
        raise ValueError(
            f"outcomes of {period}: the candidate and version {reference} must have answered the "
            f"same examples, but {len(lacking)} ids stand on one side only, such as "
            f"{lacking[0]!r}; evaluate both on the same dataset version"
        )
    cells = {(True, True): 0, (True, False): 0, (False, True): 0, (False, False): 0}
    for example_id, was_right in before.items():
        cells[was_right, after[example_id]] += 1
    return Paired(
        period=period,
        role=role,
        against=against,
        reference=reference,
        num_examples=len(before),
        both_right=cells[True, True],
        reference_only=cells[True, False],
        candidate_only=cells[False, True],
        neither=cells[False, False],
    )


def judge_family(family: Sequence[Paired], threshold: float, alpha: float) -> list[Comparison]:
    """Each comparison judged against the threshold: the whole family under Holm's procedure once
    for "above it" (passed) and once for "below it" (failed), each at level `alpha`."""
    counts = [comparison.counts() for comparison in family]
    above = [statistics.p_above(c, threshold) for c in counts]
    below = [statistics.p_below(c, threshold) for c in counts]
    columns = zip(
        family,
        counts,
        _tests(above, alpha),
        _tests(below, alpha),
        strict=True,
    )
    return [_judge(*column, threshold) for column in columns]


@dataclass(frozen=True)
class _Test:
    p_value: float
    adjusted_p: float
    level: float


def _tests(p_values: list[float], alpha: float) -> list[_Test]:
    adjusted, levels = statistics.holm(p_values), statistics.holm_levels(p_values, alpha)
    return [_Test(*row) for row in zip(p_values, adjusted, levels, strict=True)]


def _judge(
    comparison: Paired, counts: PairedCounts, above: _Test, below: _Test, threshold: float
) -> Comparison:
    result: Result = "inconclusive"
    if above.p_value <= above.level:
        result = "passed"
    elif below.p_value <= below.level:
        result = "failed"
    deciding = above if counts.difference > threshold else below
    factor = statistics.examples_factor(counts, threshold, deciding.level)
    reference_accuracy, candidate_accuracy = comparison.accuracies
    return Comparison(
        period=comparison.period,
        role=comparison.role,
        against=comparison.against,
        reference=comparison.reference,
        num_examples=comparison.num_examples,
        reference_accuracy=reference_accuracy,
        candidate_accuracy=candidate_accuracy,
        difference=counts.difference,
        low=statistics.lower_bound(counts, above.level),
        high=statistics.upper_bound(counts, below.level),
        threshold=threshold,
        p_value=above.p_value,
        adjusted_p=above.adjusted_p,
        p_value_worse=below.p_value,
        adjusted_p_worse=below.adjusted_p,
        result=result,
        examples_needed=None if factor is None else math.ceil(factor * comparison.num_examples),
        reference_only=comparison.reference_only,
        candidate_only=comparison.candidate_only,
    )


def _by_id(outcomes: Iterable[tuple[str, bool]], whose: str) -> dict[str, bool]:
    by_id: dict[str, bool] = {}
    for example_id, correct in outcomes:
        if example_id in by_id:
            raise ValueError(f"outcomes of {whose}: id {example_id!r} appears twice")
        by_id[example_id] = bool(correct)
    return by_id
