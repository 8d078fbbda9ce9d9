"""Which arms a study's plots draw, how each looks, and what is said of those that are missing.

Called by `updater.study.report.plots`, `served` and `pictures`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from updater.report import style
from updater.study.report.words import none_deployed
from updater.study.tabulated import Arm, Table

MOST_ARMS = 12
"""So many can be told apart in one plot; chosen by looking."""

COSTS = ("seconds", "steps")
"""The measures against which accuracy is drawn."""

_HUES = (style.BLUE, style.BAD, style.GOOD, style.PURPLE, style.UNSURE, style.INK)
_DASHES: Sequence[Any] = ("-", (0, (4, 1.6)))
_MARKERS = "osD^vPX<>ph*"


@dataclass(frozen=True)
class Mark:
    """How an arm looks everywhere: no two of twelve share hue and dash, nor the marker."""

    colour: str
    dash: Any
    marker: str


def marks(table: Table) -> dict[str, Mark]:
    """Arm -> its look, of those that are drawn, in the study's order: finished with some seed, and
    of more than `MOST_ARMS` the reference, scratch, those on a Pareto front, and then the first.

    Should those alone be more than `MOST_ARMS` all of them are drawn: a front that left out one of
    its arms would be false. The thirteenth then has the first one's line, with another marker.
    """
    finished = [arm.name for arm in _finished(table)]
    musts = {
        table.reference,
        table.scratch,
        *(n for cost in COSTS for n in front(costs(table, cost))),
    }
    kept = [name for name in finished if name in musts]
    others = [name for name in finished if name not in musts]
    drawn = {*kept, *others[: max(0, MOST_ARMS - len(kept))]}
    return {name: mark(i) for i, name in enumerate(n for n in finished if n in drawn)}


def mark(i: int) -> Mark:
    """Of the i-th thing that is drawn."""
    return Mark(
        _HUES[i % len(_HUES)],
        _DASHES[i // len(_HUES) % len(_DASHES)],
        _MARKERS[(i + i // MOST_ARMS) % len(_MARKERS)],
    )


def costs(table: Table, measure: str) -> dict[str, tuple[float, float]]:
    """Arm -> (its cost by that measure, final average accuracy), means over seeds, of all arms that
    finished and whose costs compare: one that learnt at the last update alone paid for one."""
    return {
        arm.name: (across.mean, up.mean)
        for arm in _finished(table)
        if not arm.learnt_at_last_alone
        if (across := arm.estimate(measure)) is not None
        if (up := arm.estimate("final_average_accuracy")) is not None
    }


def front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """The Pareto front of (cost, value): those than which none is at least as cheap and at least as
    good, and one of both strictly; by rising cost."""
    kept: list[str] = []
    best = float("-inf")
    for name, (_, value) in sorted(points.items(), key=lambda item: (item[1][0], -item[1][1])):
        if value > best:
            kept.append(name)
            best = value
    return kept


def not_drawn(table: Table) -> str:
    """A sentence on the arms that finished and are not drawn, being too many; "" without any."""
    drawn = marks(table)
    names = [arm.name for arm in _finished(table) if arm.name not in drawn]
    why = f"Not drawn, of {len(drawn) + len(names)} arms, but in the tables"
    return f"{why}: {', '.join(names)}." if names else ""


def not_compared(table: Table) -> str:
    """A sentence on the arms whose costs are of one update; "" without any."""
    names = [arm.name for arm in _finished(table) if arm.learnt_at_last_alone]
    why = "Left out of the front, and hollow where drawn: trained at the last update alone, at the"
    return f"{why} cost of one: {', '.join(names)}." if names else ""


def not_forgotten(table: Table) -> str:
    """On the arms of which no forgetting is told, and of whose no update was deployed; "" without
    any."""
    names = [arm.name for arm in _finished(table) if arm.learnt_at_last_alone]
    why = "No row for those that trained at the last update alone"
    untold = f"{why}: {', '.join(names)}." if names else ""
    return " ".join(filter(None, (untold, none_deployed(_finished(table)))))


def _finished(table: Table) -> list[Arm]:
    return [arm for arm in table.arms if arm.estimate("final_average_accuracy") is not None]
