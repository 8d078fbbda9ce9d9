"""The gate's comparisons as sentences that a model owner can read.

Called by `updater.gate`, and by what tells of its verdict in an error. Words only: nothing is
judged here. Differences are in percentage points.
"""

from collections.abc import Sequence

from updater.comparison import Comparison

MOST_TOLD = 4
"""So many comparisons are told one by one; of more, the worst and how many others there are. Chosen
by looking at a review of 17 past periods, which had 30."""

FIRST_MODEL = (
    "This is a first model: there is no base to compare it with, so no past period can be worse "
    "and nothing was tested."
)


def missing(period: str, reference: str) -> str:
    """Why a candidate without this comparison can't be accepted."""
    return (
        f"{period}: there is no score of both the candidate and version {reference} on this "
        "period. A missing score rejects; evaluate both and judge again."
    )


def rejected(failed: Sequence[Comparison], confidence: float) -> list[str]:
    """What was shown to be too bad, the worst first."""
    return _told(failed, [_failed(c, confidence) for c in failed], "failed")


def undecided(unsure: Sequence[Comparison], num_judged: int, confidence: float) -> list[str]:
    """What could not be shown either way, the worst first."""
    told = _told(unsure, [_inconclusive(c, confidence) for c in unsure], "are undecided")
    if len(unsure) <= MOST_TOLD:
        return told
    return [
        f"{len(unsure)} of {num_judged} comparisons are undecided: nothing is shown to be worse "
        "than the margin allows, and too little to be as good. These look worst:",
        *told,
    ]


def _told(comparisons: Sequence[Comparison], sentences: list[str], what: str) -> list[str]:
    """The sentences, the new period's first and then by difference; not all where they are many."""
    order = sorted(
        range(len(comparisons)),
        key=lambda i: (comparisons[i].role == "past", comparisons[i].difference, i),
    )
    if len(order) <= MOST_TOLD:
        return [sentences[i] for i in order]
    others = len(order) - MOST_TOLD
    more = f"{others} more {what}; the report lists every comparison."
    return [*(sentences[i] for i in order[:MOST_TOLD]), more]


def _failed(comparison: Comparison, confidence: float) -> str:
    """What was shown to be too bad, and how surely."""
    c = comparison
    bound = f"at best {points(c.high)} {_by(c, confidence)}"
    if c.role == "new":
        return (
            f"{c.period}, the new period, got worse than with {_reference(c)} instead of better: "
            f"{_change(c)}, {bound} ({_held(c)})."
        )
    return (
        f"{c.period} is worse than with {_reference(c)} by more than the margin of "
        f"{_margin(c)}: {_change(c)}, {bound} ({_held(c)})."
    )


def _inconclusive(comparison: Comparison, confidence: float) -> str:
    """What could not be shown either way, and how many holdout examples would show it."""
    c = comparison
    bounds = f"between {points(c.low)} and {points(c.high)}, each way {_by(c, confidence)}"
    said = (
        f"{c.period}, the new period, is not shown to be better than with {_reference(c)}"
        if c.role == "new"
        else f"{c.period} may be worse than with {_reference(c)} by more than the margin of "
        f"{_margin(c)}"
    )
    return f"{said}: {_change(c)}, {bounds}. {_needed(c)}"


def accepted(comparisons: Sequence[Comparison], confidence: float) -> list[str]:
    """One sentence for the new period, and one for the past periods that names the least sure."""
    sentences = [
        f"{c.period}, the new period, improved over {_reference(c)}: {_change(c)}, at least "
        f"{points(c.low)} {_by(c, confidence)} ({_held(c)})."
        for c in comparisons
        if c.role == "new"
    ]
    past = [c for c in comparisons if c.role == "past"]
    if past:
        least = min(past, key=lambda c: (c.low, c.period, c.against))
        num_periods = len({c.period for c in past})
        whole = "The past period holds"
        if num_periods > 1:
            whole = f"{'Both' if num_periods == 2 else f'All {num_periods}'} past periods hold"
        sentences.append(
            f"{whole} within the margin of {_margin(least)}, with {100 * confidence:g} % "
            f"confidence in that as a whole; the least sure is {least.period} against "
            f"{_reference(least)}: {_change(least)}, at worst {points(least.low)} by its own test "
            f"({_held(least)})."
        )
    return sentences


def on_one_line(reasons: Sequence[str]) -> str:
    """The reasons as a part of another sentence, which has a stop of its own: theirs are gone."""
    return "; ".join(reason.rstrip(".") for reason in reasons)


def points(fraction: float) -> str:
    """A difference of fractions in percentage points, signed: 0.0123 is "+1.2 points"."""
    rounded = round(100 * fraction, 1)
    number = "0.0" if rounded == 0 else f"{rounded:+.1f}"
    return f"{number} points"


def percent(fraction: float) -> str:
    """An accuracy: 0.8437 is "84.4 %"."""
    return f"{100 * fraction:.1f} %"


def _reference(c: Comparison) -> str:
    best = ", the best deployed on it so far" if c.against == "best" else ""
    return f"version {c.reference}{best}"


def _change(c: Comparison) -> str:
    before, after = percent(c.reference_accuracy), percent(c.candidate_accuracy)
    return f"{before} became {after}, which is {points(c.difference)}"


def _margin(c: Comparison) -> str:
    return points(abs(c.threshold)).lstrip("+")


def _by(c: Comparison, confidence: float) -> str:
    """How sure a bound is. Holm's procedure bounds the errors of all past tests together; the
    bounds at its single levels tell what each test did, and don't hold together at that level."""
    sure = f"{100 * confidence:g} % confidence"
    if c.role == "new":
        return f"with {sure}"
    return f"by its own test, one of those that have {sure} together"


def _held(c: Comparison) -> str:
    return f"{c.num_examples:,} holdout examples" if c.num_examples > 1 else "1 holdout example"


def _needed(c: Comparison) -> str:
    held = f"{_held(c)} cannot tell"
    if c.examples_needed is None:
        return f"{held}; the two models answered too much alike for any number to be foretold."
    if c.examples_needed > 1000 * c.num_examples:
        return f"{held}, and no reachable number would: the difference sits on the line."
    needed = _two_digits(c.examples_needed)
    return f"{held}; about {needed:,} would, if these proportions stayed."


def _two_digits(count: int) -> int:
    """Rounded up to two leading digits: more would claim a precision that the estimate lacks."""
    scale = 10 ** max(0, len(str(count)) - 2)
    return -(-count // scale) * scale
