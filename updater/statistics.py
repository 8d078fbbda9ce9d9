"""Score intervals and tests for accuracies and for differences of accuracies, and Holm's procedure.

Not the rule that judges a candidate (`updater.gate`). Called by `gate`, the read commands and the
report; the standard library only, because on-call waits for it.

One accuracy: Wilson (1927). The difference of two accuracies on the same examples is `candidate -
reference` throughout: Tango (1998). Both are score methods: the variance is the one under the
hypothesised difference, which keeps them honest at 0 and 100 %, where Wald intervals collapse to a
point. Tests and bounds are two readings of one statistic, so they never contradict each other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

_NORMAL = NormalDist()
_BISECTIONS = 60  # halvings of [-1, 1]: 2 / 2^60 is below the spacing of doubles near 1


@dataclass(frozen=True)
class Interval:
    """Both ends included, in the units of what it bounds (fractions here)."""

    low: float
    high: float


def wilson(num_correct: int, num_examples: int, confidence: float = 0.95) -> Interval:
    """The two-sided score interval of one accuracy; inside [0, 1].

    Wilson (1927), J. Am. Stat. Assoc. 22, 209-212; equation (4) of Agresti & Coull (1998).

    Raises:
        ValueError: no examples, more right than there are, or a confidence outside (0, 1).
    """
    _check_count("num_correct", num_correct, num_examples)
    z = normal_quantile(_tail(confidence) / 2)
    p, n = num_correct / num_examples, num_examples
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    low = 0.0 if num_correct == 0 else max(0.0, centre - half)
    high = 1.0 if num_correct == num_examples else min(1.0, centre + half)
    return Interval(low, high)


@dataclass(frozen=True)
class PairedCounts:
    """Discordant pairs among `num_examples` that both models answered.

    Raises:
        ValueError: a count below 0, no examples, or more discordant pairs than examples.
    """

    candidate_only: int
    reference_only: int
    num_examples: int

    def __post_init__(self) -> None:
        _check_count("candidate_only", self.candidate_only, self.num_examples)
        _check_count("reference_only", self.reference_only, self.num_examples)
        _check_count(
            "discordant pairs", self.candidate_only + self.reference_only, self.num_examples
        )

    @property
    def difference(self) -> float:
        """candidate - reference, in [-1, 1]."""
        return (self.candidate_only - self.reference_only) / self.num_examples

    def z(self, hypothesis: float) -> float:
        """Standard normal when the true difference is `hypothesis`; falls as that rises.

        Tango (1998), Stat. Med. 17, 891-908: the score statistic with the maximum-likelihood
        estimate of P(reference only) under the hypothesis, the root of A x^2 + B x + C with
        A = 2n, B = -b - c + (2n - b + c) delta, C = -c delta (1 - delta). At delta = 0 it is
        McNemar's."""
        b, c, n, delta = self.candidate_only, self.reference_only, self.num_examples, hypothesis
        if delta < 0:  # by symmetry; the root loses its digits to cancellation otherwise
            return -PairedCounts(c, b, n).z(-delta)
        linear = -b - c + (2 * n - b + c) * delta
        constant = -c * delta * (1 - delta)
        root = math.sqrt(max(0.0, linear * linear - 8 * n * constant))
        if linear > 0:
            reference_only = -2 * constant / (linear + root)
        else:
            reference_only = (root - linear) / (4 * n)
        variance = n * (2 * reference_only + delta * (1 - delta))
        return _standardised(b - c - n * delta, variance)


def p_above(counts: PairedCounts, hypothesis: float) -> float:
    """The p-value of "the true difference is at most `hypothesis`": small means it is above.
    With `hypothesis = -margin` this is the test of non-inferiority, with 0 of superiority."""
    return _NORMAL.cdf(-counts.z(hypothesis))


def p_below(counts: PairedCounts, hypothesis: float) -> float:
    """The p-value of "the true difference is at least `hypothesis`": small means it is below."""
    return _NORMAL.cdf(counts.z(hypothesis))


def lower_bound(counts: PairedCounts, error: float) -> float:
    """The difference is above this, but for a one-sided error probability of `error`: the
    largest hypothesis that `p_above` refuses at that level.

    Raises:
        ValueError: `error` outside (0, 1).
    """
    target = normal_quantile(error)
    return _bisect(lambda delta: counts.z(delta) >= target)


def upper_bound(counts: PairedCounts, error: float) -> float:
    """The difference is below this, but for a one-sided error probability of `error`.

    Raises:
        ValueError: `error` outside (0, 1).
    """
    target = -normal_quantile(error)
    return _bisect(lambda delta: counts.z(delta) > target)


def interval(counts: PairedCounts, confidence: float = 0.95) -> Interval:
    """The two-sided score interval of the difference; inside [-1, 1].

    Raises:
        ValueError: a confidence outside (0, 1).
    """
    error = _tail(confidence) / 2
    return Interval(lower_bound(counts, error), upper_bound(counts, error))


def examples_factor(counts: PairedCounts, hypothesis: float, error: float) -> float | None:
    """How many times as many examples would just decide on which side of `hypothesis` the
    difference lies, if the observed proportions stayed as they are; None where no number would.

    Exact for these statistics: multiplying every count by k multiplies z by sqrt(k).
    """
    z = abs(counts.z(hypothesis))
    return None if z < 1e-9 else (normal_quantile(error) / z) ** 2


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values in the given order: comparing each with alpha keeps the probability of any
    false refusal in the whole family at most alpha, however the tests depend on each other.

    Holm (1979), Scand. J. Stat. 6, 65-70: the k-th smallest of m is multiplied by m - k + 1, and
    none is less than those before it.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(_ascending(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def holm_levels(p_values: Sequence[float], alpha: float) -> list[float]:
    """The level at which Holm's procedure tested each hypothesis: alpha / (m - k + 1) for the k-th
    smallest p-value, and for all after the first that is not refused, the level of that one.

    So each is refused exactly when its p-value is at most its level, and a bound taken at that
    level tells the same story as the test.
    """
    levels = [alpha] * len(p_values)
    step, stopped = 0, False
    for index in _ascending(p_values):
        levels[index] = alpha / (len(p_values) - step)
        stopped = stopped or p_values[index] > levels[index]
        step += not stopped
    return levels


def normal_quantile(error: float) -> float:
    """z such that a standard normal exceeds it with probability `error`.

    Raises:
        ValueError: `error` outside (0, 1).
    """
    if not 0 < error < 1:
        raise ValueError(f"an error probability must lie in (0, 1), not {error!r}")
    return -_NORMAL.inv_cdf(error)


def _ascending(p_values: Sequence[float]) -> list[int]:
    return sorted(range(len(p_values)), key=lambda index: p_values[index])


def _standardised(distance: float, variance: float) -> float:
    if abs(distance) < 1e-12:
        return 0.0
    if variance <= 0:
        return math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)


def _bisect(holds: Callable[[float], bool]) -> float:
    """Where `holds`, true at the low end of [-1, 1], turns false."""
    if holds(1.0):
        return 1.0
    low, high = -1.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _tail(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"a confidence must lie in (0, 1), not {confidence!r}")
    return 1 - confidence


def _check_count(name: str, count: int, num_examples: int) -> None:
    if num_examples < 1:
        raise ValueError(f"num_examples: must be at least 1, not {num_examples}")
    if not 0 <= count <= num_examples:
        raise ValueError(f"{name}: must be 0 to {num_examples}, not {count}")
