"""Arms over seeds: means with intervals, and paired differences with their tests.

Seeds are the unit: an interval says what another seed would have given on the same data, not what
other data would. Called by `updater.study.tabulated`.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from updater import statistics
from updater.statistics import Interval

CONFIDENCE = 0.95
Claim = Literal["better", "worse", "undecided"]


@dataclass(frozen=True)
class Estimate:
    """A mean over `num_seeds`; `interval` is None where the seeds show no spread: a single one, or
    the same value with each."""

    mean: float
    num_seeds: int
    interval: Interval | None

    @property
    def half_width(self) -> float | None:
        return None if self.interval is None else self.interval.high - self.mean


@dataclass(frozen=True)
class Difference:
    """`arm - reference` over the seeds that both have. `p_value` is two-sided, of "there is none";
    `adjusted_p` is corrected for the other differences in its family (Holm 1979). Both are None,
    and the estimate has no interval, where the seeds show no spread: a single common one, or the
    same difference with each. `is_fact`: that same difference is of counts that follow from the
    settings, so that it is known without a test.
    """

    arm: str
    reference: str
    estimate: Estimate
    p_value: float | None
    adjusted_p: float | None
    is_fact: bool = False

    @property
    def lower_bound(self) -> float | None:
        """With 95 % confidence in this difference by itself it is above this: Student's one-sided
        bound, mean - t(n - 1, 0.95) s / sqrt(n). None where the estimate has no interval.

        It is the reading of non-inferiority: whoever has fixed beforehand how much worse is still
        no worse compares the bound with it (Piaggio et al. 2012, JAMA 308, 2594-2604).
        """
        half = self.estimate.half_width
        if half is None:
            return None
        from scipy.special import stdtrit

        one_sided, two_sided = stdtrit(
            self.estimate.num_seeds - 1, [CONFIDENCE, (1 + CONFIDENCE) / 2]
        )
        return self.estimate.mean - half * float(one_sided / two_sided)

    def claim(self, *, more_is_better: bool) -> Claim:
        """What may be said of the arm with 95 % confidence in all claims of the family together."""
        is_shown = self.adjusted_p is not None and self.adjusted_p <= 1 - CONFIDENCE
        if self.estimate.mean == 0 or not (is_shown or self.is_fact):
            return "undecided"
        return "better" if (self.estimate.mean > 0) is more_is_better else "worse"


def estimate(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """The mean with Student's t interval: mean +- t s / sqrt(n), s with n - 1 (Student 1908).

    Exact where seeds scatter normally; values that are all equal have no interval, for one of no
    width would say that other seeds were sure to give the same.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("an estimate needs the value of at least one seed")
    num = len(values)
    mean = math.fsum(values) / num
    error = _standard_error(values, mean)
    if error == 0:
        return Estimate(mean, num, None)
    from scipy.special import stdtrit

    half = float(stdtrit(num - 1, (1 + confidence) / 2)) * error
    return Estimate(mean, num, Interval(mean - half, mean + half))


def differences(
    by_arm: Mapping[str, Mapping[int, float]], reference: str, *, counted: bool = False
) -> list[Difference]:
    """Each other arm against the reference: one family, in the given order.

    An arm without a seed in common with the reference (all of its failed) is left out.

    Args:
        by_arm: arm -> seed -> a measure.
        counted: as in `family`.

    Raises:
        KeyError: the reference is no arm.
    """
    base = by_arm[reference]
    pairs = [
        Pairing(arm, reference, values, base) for arm, values in by_arm.items() if arm != reference
    ]
    return [found for found in family(pairs, counted=counted) if found is not None]


class Pairing(NamedTuple):
    """Two arms that are compared, each with seed -> a measure."""

    arm: str
    reference: str
    values: Mapping[int, float]
    base: Mapping[int, float]

    def by_seed(self) -> list[tuple[float, float]]:
        """(the arm's, the reference's) of the seeds that both have, in their order."""
        common = sorted(self.values.keys() & self.base.keys())
        return [(self.values[seed], self.base[seed]) for seed in common]


def family(pairings: Sequence[Pairing], *, counted: bool = False) -> list[Difference | None]:
    """The difference of each pair, corrected for all of them; None without a common seed.

    A pair without a test counts in the correction as one that shows nothing: how much is corrected
    for is what was to be compared, whatever came of it.

    Args:
        counted: the measure is a count that follows from the settings (optimizer steps), no sample:
            the same difference with every seed is a fact, which has no p-value either.
    """
    found = [pairing.by_seed() for pairing in pairings]
    p_values = [_p_value(pairs) for pairs in found]
    adjusted = statistics.holm([1.0 if p is None else p for p in p_values])
    return [
        _difference(pairing, pairs, p, corrected, counted=counted) if pairs else None
        for pairing, pairs, p, corrected in zip(pairings, found, p_values, adjusted, strict=True)
    ]


def _difference(
    pairing: Pairing,
    pairs: Sequence[tuple[float, float]],
    p: float | None,
    corrected: float,
    *,
    counted: bool,
) -> Difference:
    found = estimate([one - other for one, other in pairs])
    if p is None:
        bare = dataclasses.replace(found, interval=None)
        is_fact = counted and len(pairs) > 1
        return Difference(pairing.arm, pairing.reference, bare, None, None, is_fact)
    return Difference(pairing.arm, pairing.reference, found, p, corrected)


def _p_value(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Two-sided, of the paired t test; None without a spread, which the test divides by."""
    if len(pairs) < 2:
        return None
    from scipy.special import stdtr

    values = [one - other for one, other in pairs]
    mean = math.fsum(values) / len(values)
    error = _standard_error(values, mean, [value for pair in pairs for value in pair])
    if error == 0:
        return None
    return float(2 * stdtr(len(pairs) - 1, -abs(mean) / error))


def _standard_error(
    values: Sequence[float], mean: float, made_of: Sequence[float] | None = None
) -> float:
    """s / sqrt(n); 0 of a single value, and what rounding leaves of equal ones counts as no spread.
    `made_of`: the numbers whose rounding is in the values, where they are differences."""
    num = len(values)
    if num == 1:
        return 0.0
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (num - 1))
    largest = max(abs(value) for value in made_of or values)
    return 0.0 if spread <= 1e-12 * largest else spread / math.sqrt(num)
