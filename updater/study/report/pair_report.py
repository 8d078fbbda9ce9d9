"""The declared pairs in a table and in sentences, for the page and the Markdown alike.

Pure text; no markup. Called by `updater.study.report.sheets`, `page` and `markdown`.
"""

import math

from updater.report import style
from updater.study.pairs import COSTS, Compared, Ratio, compared
from updater.study.report.sheet import Sheet
from updater.study.report.words import (
    CLAIMED,
    TONES,
    difference,
    in_points,
    notes,
    p_value,
    three_digits,
    unspread,
)
from updater.study.tabulated import Table

TITLE = "Declared pairs"


def sheet(table: Table) -> Sheet:
    """A row for each pair: accuracy with its worst case, and the ratios of the costs."""
    found = compared(table)
    paired = {name for pair in found for name in (pair.arm, pair.reference)}
    return Sheet(
        title=TITLE,
        how="The arm minus the one it is measured against, paired by seed, in points of final "
        "average accuracy with the 95 % interval (paired t); p is corrected for all declared pairs "
        "together (Holm). At worst: with 95 % confidence in this pair by itself, the difference is "
        "above this; it tells whether the arm is at least as accurate, up to the loss that one "
        "accepts, which is to be fixed beforehand. Seconds (wall), optimizer steps and training "
        "tokens are ratios, arm to the other: geometric means over seeds, with Student's 95 % "
        "interval on the logs.",
        columns=(
            *("arm", "against", "seeds", "final accuracy", "at worst", "p, corrected"),
            *(f"{cost}, times" for cost in COSTS),
            "final accuracy is",
        ),
        rows=tuple(_row(pair) for pair in found),
        tones=tuple(TONES[pair.claim] for pair in found),
        below=notes([arm for arm in table.arms if arm.name in paired]),
    )


def _row(pair: Compared) -> tuple[str, ...]:
    known = pair.accuracy
    p = None if known is None else known.adjusted_p
    return (
        *(pair.arm, pair.reference, str(pair.num_seeds), difference(CLAIMED, known)),
        "–" if pair.lower_bound is None else style.signed(_rounded_down(pair.lower_bound)),
        "–" if p is None else p_value(p),
        *(_times(getattr(pair, cost)) for cost in COSTS),
        pair.claim,
    )


def sentences(table: Table) -> list[tuple[str, str]]:
    """(tone, what may be said) of each pair, in the file's order."""
    return [(TONES[pair.claim] or "unsure", _said(pair)) for pair in compared(table)]


def _said(pair: Compared) -> str:
    if pair.accuracy is None:
        return f"{pair.arm} and {pair.reference} have no seed in common: nothing can be compared."
    costs = [
        f"{_times(ratio)} times the {'optimizer ' if cost == 'steps' else ''}{cost}"
        for cost in COSTS
        if (ratio := getattr(pair, cost)) is not None
    ]
    took = f" It took {', '.join(costs)}." if costs else ""
    return f"{_accuracy(pair)}{_worst(pair)}{took}"


def _accuracy(pair: Compared) -> str:
    assert pair.accuracy is not None
    change = in_points(pair.accuracy)
    if pair.accuracy.adjusted_p is None:
        return f"{pair.arm}: {change} to {pair.reference} {unspread(pair.num_seeds)}: no claim."
    is_ = f"{pair.claim} than" if pair.claim != "undecided" else "not shown to differ from"
    return f"{pair.arm} is {is_} {pair.reference}: {change}, {pair.num_seeds} seeds."


def _worst(pair: Compared) -> str:
    """How much less accurate it may be: what an undecided test does not say."""
    if pair.lower_bound is None:
        return ""
    points = _rounded_down(pair.lower_bound)
    bound = f"{abs(points):.1f} points"
    said = f"at least {bound} more" if points > 0 else f"at most {bound} less"
    if points == 0 <= pair.lower_bound:
        said = "at least as"
    return f" With 95 % confidence in this alone it is {said} accurate."


def _rounded_down(fraction: float) -> float:
    """In points, to a tenth: a bound that is rounded up would promise too much."""
    return math.floor(1000 * fraction + 1e-9) / 10 + 0.0


def _times(ratio: Ratio | None) -> str:
    """With its interval: "0.85 (0.80 to 0.90)"."""
    if ratio is None:
        return "–"
    if ratio.interval is None:
        return _digits(ratio.mean)
    return (
        f"{_digits(ratio.mean)} ({_digits(ratio.interval.low)} to {_digits(ratio.interval.high)})"
    )


def _digits(ratio: float) -> str:
    return three_digits(ratio) if ratio >= 0.1 else f"{ratio:.2g}"
