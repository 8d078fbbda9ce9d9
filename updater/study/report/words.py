"""A study's numbers and claims in words, for the page and the Markdown alike.

Pure text; no markup. Called by `updater.study.report.sheets`, `page` and `markdown`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from updater.report import style
from updater.study.comparison import CONFIDENCE, Difference
from updater.study.measures import ACCURACIES
from updater.study.replay import replayed
from updater.study.tabulated import Arm, Table

CLAIMED = "final_average_accuracy"
"""The measure on which arms are called better or worse first of all."""

HOLDS = "What holds"
STOPPED = "Stopped before the end"
"""Headings."""

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


def basis(table: Table) -> str:
    """What the claims are about, and how far they go."""
    return (
        f"Final average accuracy over all periods against {table.reference}, with 95 % confidence "
        "in all sentences together (paired t tests, Holm's procedure); the intervals are of each "
        "by itself, in points. Seeds are the unit: this is about other seeds on the same data, not "
        "about other data."
    )


def nothing_compared(table: Table) -> str:
    """Where there is no claim."""
    return f"No other arm has a seed in common with {table.reference}: nothing can be compared."


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
    """A sentence for each of its runs that failed, with the first line of why."""
    return [
        f"{arm.name}, seed {seed}, stopped: {(why.splitlines() or [''])[0]}"
        for seed, why in arm.failures.items()
    ]


def at_last_alone(arms: Sequence[Arm]) -> str:
    """Why those of the arms have dashes that trained at the last update alone; "" without one."""
    names = [arm.name for arm in arms if arm.learnt_at_last_alone]
    why = (
        "What came before is the first model's, so that new period, transfers and forgetting would "
        "say nothing of them; they cost one update, which is compared with no sum over all."
    )
    return f"Trained at the last update alone: {', '.join(names)}. {why}" if names else ""


def none_deployed(arms: Sequence[Arm]) -> str:
    """Of a replay: that the numbers of those of the arms are the first model's of which no update
    was deployed; "" without one."""
    names = []
    for arm in arms:
        if arm.undeployed and len(arm.undeployed) == len(arm.finished):
            names.append(arm.name)
        elif arm.undeployed:
            names.append(f"{arm.name} (seed {', '.join(map(str, arm.undeployed))})")
    why = (
        "Users had the first model all along: accuracies, transfers and forgetting are its own, "
        "and say nothing of what the updates would have forgotten."
    )
    return f"No update was deployed: {', '.join(names)}. {why}" if names else ""


def notes(arms: Sequence[Arm]) -> str:
    """What has to be known of some of the arms to read a table of them all; "" where nothing."""
    return " ".join(note for note in (at_last_alone(arms), none_deployed(arms)) if note)


def seeds_of(arm: Arm) -> str:
    """How many of its seeds finished: "4 of 5", or "5" where that is all of them."""
    finished = f"{len(arm.finished)}"
    return f"{finished} of {len(arm.runs)}" if arm.failures else finished


def judged(arm: Arm) -> str:
    """Of a replay: the gate's verdicts on the arm's updates, of all finished seeds together, and
    what is deployed at the end of the stream; "" where nothing was judged."""
    found = {run.seed: of for run in arm.finished if (of := replayed(run)) is not None}
    if not found:
        return ""
    accepted = sum(one.num_accepted for one in found.values())
    review = sum(one.num_review for one in found.values())
    rejected = sum(one.num_rejected for one in found.values())
    verdicts = f"{accepted} accepted, {review} for review, {rejected} rejected"
    return f"{arm.name}: {verdicts}. {_at_the_end({s: o.last_deployed for s, o in found.items()})}"


def _at_the_end(periods: Mapping[int, str]) -> str:
    """Of seed -> the period whose update is deployed, "" for the first model."""
    if not any(periods.values()):
        return "No update was deployed."
    seeds: dict[str, list[str]] = {}
    for seed, period in periods.items():
        seeds.setdefault(update_of(period), []).append(str(seed))
    if len(seeds) == 1:
        return f"Deployed at the end: {next(iter(seeds))}."
    told = [f"{what} (seed {', '.join(of)})" for what, of in seeds.items()]
    return f"Deployed at the end: {'; '.join(told)}."


def update_of(period: str) -> str:
    """The version that learnt the period last, in words."""
    return f"the update of {period}" if period else "the first model"


def summary(table: Table) -> str:
    """How large the study is."""
    finished = [run for arm in table.arms for run in arm.finished]
    size = f"{_count(len(table.arms), 'arm')}, {_count(len(table.seeds), 'seed')}"
    if num_stopped := sum(len(arm.failures) for arm in table.arms):
        size = f"{size}, {_count(num_stopped, 'run')} stopped before the end"
    if not finished:
        return f"{size}; none finished"
    run = finished[0]
    told = f"{_count(len(run.learnt_first), 'period')} learnt first"
    if updates := len(run.stages) - 1:
        told = f"{told}, then {_count(updates, 'update')}"
    return f"{size}; {told}; {CONFIDENCE:.0%} confidence".replace("%", " %")


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
