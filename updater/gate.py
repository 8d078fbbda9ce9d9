"""The gate: may this candidate replace its base? A pure function of outcomes and a rule.

It reads nothing, writes nothing and promotes nothing (`updater.release` does). Called by the
pipeline's gate step and by `compare`; the standard library only, because on-call waits for it.

Every past period is tested for non-inferiority against the base, and against the best version ever
deployed on it where that is another one, so that losses which are small each cannot add up. All
these tests are one family under Holm's procedure, once for "not worse than the margin allows" and
once for "worse than the margin allows"; the new period is tested by itself for improvement. So a
candidate that is truly too bad somewhere is accepted, and one that is truly good enough everywhere
is rejected for a past period, with probability at most 1 - confidence each (to the normal
approximation of the score statistics). "Best so far" is chosen by its score and therefore a little
lucky: that makes the gate stricter, never laxer.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Literal

from updater import gate_reasons
from updater.comparison import Against, Comparison, Paired, Role, judge_family, pair

__all__ = [
    "Comparison",
    "Paired",
    "Rule",
    "Verdict",
    "best_deployed",
    "decide",
    "pair",
]


@dataclass(frozen=True)
class Rule:
    """`margin_fraction`: how much worse (absolute accuracy) a past period may be.

    Raises:
        ValueError: the margin is outside (0, 1), or the confidence outside (0.5, 1).
    """

    margin_fraction: float = 0.02
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if not 0 < self.margin_fraction < 1:
            raise ValueError(f"margin_fraction: must lie in (0, 1), not {self.margin_fraction!r}")
        if not 0.5 < self.confidence < 1:
            raise ValueError(f"confidence: must lie in (0.5, 1), not {self.confidence!r}")

    @property
    def alpha(self) -> float:
        return 1 - self.confidence


@dataclass(frozen=True)
class Verdict:
    """`accepted`, `rejected` or `review`, the reasons in words, and every comparison behind it."""

    verdict: Literal["accepted", "rejected", "review"]
    reasons: tuple[str, ...]
    comparisons: tuple[Comparison, ...] = field(default=())

    def as_dict(self) -> dict:
        """The same as plain lists, strings and numbers, for JSON."""
        return {
            "verdict": self.verdict,
            "reasons": list(self.reasons),
            "comparisons": [asdict(comparison) for comparison in self.comparisons],
        }


def best_deployed(
    accuracy: Mapping[tuple[str, str], float], deployed: Sequence[str], base: str
) -> dict[str, str]:
    """For each period on which a version ever deployed beats the base, the best such version (the
    latest of equals). `accuracy` is keyed by (version, period)."""
    best: dict[str, str] = {}
    for period in dict.fromkeys(period for _, period in accuracy):
        scored = [v for v in deployed if (v, period) in accuracy]
        if scored:
            top = max(accuracy[v, period] for v in scored)
            if top > accuracy.get((base, period), -1.0):
                best[period] = [v for v in scored if accuracy[v, period] == top][-1]
    return best


def decide(
    comparisons: Sequence[Paired],
    rule: Rule,
    *,
    past: Sequence[str],
    new: str | None,
    base: str | None,
    best: Mapping[str, str] | None = None,
) -> Verdict:
    """The verdict on a candidate that was trained from `base` and has learnt `new` after `past`.

    Args:
        comparisons: for every past period one against the base, one against `best[period]` where
            that is named; one against the base for the new period. Order does not matter.
        base: None for a first model, which is accepted because there is nothing to compare with.
        best: as `best_deployed` returns it.

    Raises:
        ValueError: a comparison appears twice, or belongs to none of these (a bug of the caller).
    """
    if base is None:
        if comparisons:
            raise ValueError("comparisons: must be empty without a base to compare with")
        return Verdict("accepted", (gate_reasons.FIRST_MODEL,))
    wanted = _wanted(past, new, base, best or {})
    given = {(c.period, c.role, c.against): c for c in comparisons}
    if len(given) != len(comparisons):
        raise ValueError("comparisons: the same period is compared twice with the same reference")
    for key, comparison in given.items():
        if wanted.get(key) != comparison.reference:
            raise ValueError(f"comparisons: {key} with {comparison.reference!r} was not asked for")
    have = [given[key] for key in wanted if key in given and given[key].is_scored]
    judged = _judge(have, rule)
    missing = [
        gate_reasons.missing(period, reference)
        for (period, _, _), reference in wanted.items()
        if not any(c.period == period and c.reference == reference for c in have)
    ]
    return _verdict(judged, missing, rule)


def _verdict(judged: list[Comparison], missing: list[str], rule: Rule) -> Verdict:
    failed = [c for c in judged if c.result == "failed"]
    unsure = [c for c in judged if c.result == "inconclusive"]
    if missing or failed:
        reasons = missing + gate_reasons.rejected(failed, rule.confidence)
        return Verdict("rejected", tuple(reasons), tuple(judged))
    if unsure:
        reasons = gate_reasons.undecided(unsure, len(judged), rule.confidence)
        return Verdict("review", tuple(reasons), tuple(judged))
    reasons = gate_reasons.accepted(judged, rule.confidence)
    return Verdict("accepted", tuple(reasons), tuple(judged))


def _wanted(
    past: Sequence[str], new: str | None, base: str, best: Mapping[str, str]
) -> dict[tuple[str, Role, Against], str]:
    """(period, role, against) -> the version to compare with."""
    wanted: dict[tuple[str, Role, Against], str] = {}
    for period in past:
        wanted[period, "past", "base"] = base
        if best.get(period, base) != base:
            wanted[period, "past", "best"] = best[period]
    if new is not None:
        if new in past:
            raise ValueError(f"new: {new!r} must not be one of the past periods")
        wanted[new, "new", "base"] = base
    if not wanted:
        raise ValueError("past, new: at least one period must be judged")
    return wanted


def _judge(comparisons: Sequence[Paired], rule: Rule) -> list[Comparison]:
    past = [c for c in comparisons if c.role == "past"]
    new = [c for c in comparisons if c.role == "new"]
    return judge_family(past, -rule.margin_fraction, rule.alpha) + judge_family(
        new, 0.0, rule.alpha
    )
