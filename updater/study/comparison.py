"""Arms over seeds: means with intervals, and paired differences with their tests.

Seeds are the unit: an interval says what another seed would have given on the same data, not what
other data would. Called by `updater.study.tabulated`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from updater import statistics
from updater.statistics import Interval

CONFIDENCE = 0.95
Claim = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Estimate:
    """A mean over `num_seeds`; `interval` is None where one seed leaves no spread to see."""

    mean: float
    num_seeds: int
    interval: Interval | None

    @property
    def half_width(self) -> float | None:
        return None if self.interval is None else self.interval.high - self.mean


@dataclass(frozen=True)
class Difference:
    """`arm - reference` over the seeds that both have. `p_value` is two-sided, of "there is none";
    `adjusted_p` is corrected for the other differences in its family (Holm 1979). Both are None
    with a single common seed.
    """

    arm: str
    reference: str
    estimate: Estimate
    p_value: float | None
    adjusted_p: float | None

    def claim(self, *, more_is_better: bool) -> Claim:
        """What may be said of the arm with 95 % confidence in all claims of the family together."""
        if self.adjusted_p is None or self.adjusted_p > 1 - CONFIDENCE or self.estimate.mean == 0:
            return "undecided"
        return "better" if (self.estimate.mean > 0) is more_is_better else "worse"


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The mean with Student's t interval: mean +- t s / sqrt(n), s with n - 1 (Student 1908).

    Exact where seeds scatter normally; values that are all equal give a point.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("an estimate needs the value of at least one seed")
    num = len(values)
    mean = math.fsum(values) / num
    if num == 1:
        return Estimate(mean, 1, None)
    from scipy.special import stdtrit

    half = float(stdtrit(num - 1, (1 + confidence) / 2)) * _standard_error(values, mean)
    return Estimate(mean, num, Interval(mean - half, mean + half))


def differences(
    by_arm: Mapping[str, Mapping[int, float]], reference: str, confidence: float = CONFIDENCE
) -> list[Difference]:
    """Each other arm against the reference: one family, in the given order.

    An arm without a seed in common with the reference (all of its failed) is left out.

    Args:
        by_arm: arm -> seed -> a measure.

    Raises:
        KeyError: the reference is no arm.
    """
    base = by_arm[reference]
    found = []
    for arm, values in by_arm.items():
        common = sorted(values.keys() & base.keys())
        if arm != reference and common:
            found.append((arm, [values[seed] - base[seed] for seed in common]))
    p_values = [_p_value(pairs) for _, pairs in found]
    known = [p for p in p_values if p is not None]
    adjusted = iter(statistics.holm(known))
    return [
        Difference(
            arm, reference, estimate(pairs, confidence), p, None if p is None else next(adjusted)
        )
        for (arm, pairs), p in zip(found, p_values, strict=True)
    ]


def _p_value(pairs: Sequence[float]) -> float | None:
    """Two-sided, of the paired t test. Without any spread it is 1 or 0: the arms are the same, or
    differ by the same amount with every seed."""
    if len(pairs) < 2:
        return None
    from scipy.special import stdtr

    mean = math.fsum(pairs) / len(pairs)
    error = _standard_error(pairs, mean)
    if error == 0:
        return float(mean == 0)
    return float(2 * stdtr(len(pairs) - 1, -abs(mean) / error))


def _standard_error(values: Sequence[float], mean: float) -> float:
    """s / sqrt(n); what rounding leaves of equal values counts as no spread."""
    num = len(values)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (num - 1))
    largest = max(abs(value) for value in values)
    return 0.0 if spread <= 1e-12 * largest else spread / math.sqrt(num)
