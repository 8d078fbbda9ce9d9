"""A study's numbers and claims in words, for the page and the Markdown alike.

Pure text; no markup. Called by `updater.study.report.sheets`, `page` and `markdown`.
"""

from collections.abc import Callable
from dataclasses import dataclass

from updater.report import style
from updater.study.comparison import CONFIDENCE, Difference
from updater.study.measures import ACCURACIES
from updater.study.tabulated import Arm, Table

CLAIMED = "final_average_accuracy"
"""The measure on which arms are called better or worse first of all."""

TONES = {"better": "good", "worse": "bad", "undecided": ""}
"""Claim -> how it is coloured."""


@dataclass(frozen=True)
class Column:
    """A measure's heading, and how `scale` times its value is written."""

    title: str
    say: Callable[[float], str]
    scale: float = 1.0


def points(value: float) -> str:
    """A fraction times 100: -1.25 is "−1.2"."""
    return style.signed(value).removeprefix("+")


COLUMNS = {
    "final_average_accuracy": Column("final accuracy, %", points, 100),
    "new_accuracy": Column("new period, %", points, 100),
    "backward_transfer": Column("backward transfer", style.signed, 100),
    "forward_transfer": Column("forward transfer", style.signed, 100),
    "worst_forgetting": Column("worst forgetting", points, 100),
    "seconds": Column("seconds", lambda value: three_digits(value)),
    "steps": Column("steps", lambda value: f"{value:,.0f}"),
    "tokens": Column("tokens", lambda value: f"{value:,.0f}"),
    "peak_memory_bytes": Column("memory, MiB", lambda value: f"{value:,.0f}", 1 / 2**20),
    "importance_bytes": Column("importance, MiB", lambda value: three_digits(value), 1 / 2**20),
}


def difference(name: str, found: Difference | None) -> str:
    """With its interval: "+1.2 (+0.4 to +2.0)"."""
    if found is None:
        return "–"
    scale = COLUMNS[name].scale
    say = style.signed if name in ACCURACIES else _signed_three
    text = say(scale * found.estimate.mean)
    bounds = found.estimate.interval
    if bounds is None:
        return text
    return f"{text} ({say(scale * bounds.low)} to {say(scale * bounds.high)})"


def claims(table: Table) -> list[tuple[str, str]]:
    """(tone, sentence) for each arm that was compared: what may be said, the best first."""
    found = sorted(table.differences(CLAIMED), key=lambda d: -d.estimate.mean)
    called = table.claims(CLAIMED)
    if found and all(d.estimate.num_seeds == 1 for d in found):
        changes = "; ".join(f"{d.arm} {difference(CLAIMED, d)}" for d in found)
        return [("unsure", f"One seed shows no spread: nothing is claimed. In points: {changes}.")]
    return [(TONES[called[d.arm]] or "unsure", _claim(d, called[d.arm])) for d in found]


def _claim(found: Difference, claim: str) -> str:
    change = in_points(found)
    arm, reference, num = found.arm, found.reference, found.estimate.num_seeds
    if found.adjusted_p is None:
        return f"{arm}: {change} to {reference} {unspread(num)}: no claim."
    if claim == "undecided":
        return f"{arm} and {reference} are not shown to differ: {change}, {num} seeds."
    return f"{arm} is {claim} than {reference}: {change}, {num} seeds."


def in_points(found: Difference) -> str:
    """Of accuracies: "+1.2 points (+0.4 to +2.0)"."""
    value, bracket, bounds = difference(CLAIMED, found).partition(" (")
    return f"{value} points{bracket}{bounds}"


def unspread(num_seeds: int) -> str:
    """Why a difference over so many seeds has no test."""
    if num_seeds == 1:
        return "with one seed, which shows no spread"
    return f"with each of {num_seeds} seeds, which leaves no spread to test against"


def stopped(arm: Arm) -> list[str]:
    """A sentence for each of its runs that failed."""
    return [f"{arm.name}, seed {seed}, stopped: {why}" for seed, why in arm.failures.items()]


def summary(table: Table) -> str:
    """How large the study is."""
    finished = [run for arm in table.arms for run in arm.finished]
    size = f"{_count(len(table.arms), 'arm')}, {_count(len(table.seeds), 'seed')}"
    if not finished:
        return f"{size}; none finished"
    run = finished[0]
    return (
        f"{size}; {_count(len(run.learnt_first), 'period')} learnt first, then "
        f"{_count(len(run.stages) - 1, 'update')}; {CONFIDENCE:.0%} confidence".replace("%", " %")
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def three_digits(value: float, like: float | None = None) -> str:
    """1234.5 is "1,234", 12.345 "12.3", 0.01234 "0.01"; or with the decimals that `like` has."""
    size = abs(value if like is None else like)
    if size >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if size >= 10 or size == 0 else f"{value:.2f}"


def _signed_three(value: float) -> str:
    return f"{'−' if value < 0 else '+'}{three_digits(abs(value))}"


def p_value(p: float) -> str:
    """Two digits, and no smaller than the tests can tell."""
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"
