"""Pictures of what compression costs: accuracy against how much goes, and against bytes.

Each takes the table and returns a figure, or None where there is nothing to draw. Called by
`updater.study.report.pictures`.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from updater.report import style
from updater.settings import RECOVERIES, CompressionSettings
from updater.study.comparison import Estimate
from updater.study.compressions import Told, compressions, first_size
from updater.study.report.drawing import name_lines, new_figure, tidy, within
from updater.study.report.looks import Mark, front, mark
from updater.study.report.point_names import name_points
from updater.study.report.words import CLAIMED
from updater.study.tabulated import Table

_MOST_NAMED = 16
"""Points that can all have their names; of more, those of the front and the quantized have."""

_OF_PANELS = ("method", "remove", "sparsity", "recovery")
"""Settings that a line's name need not tell: its beginning, its panel and its axis do."""

Line = dict[float, Estimate]
"""Percent that goes -> accuracy."""


def sparsity(table: Table) -> Figure | None:
    """A row of panels for each sort of thing that goes at more shares than one, with a panel of
    what is left as it is and one for each recovery; a line for each method. None where nothing
    goes at two shares."""
    panels = _panels(compressions(table))
    if not panels:
        return None
    rows = list(dict.fromkeys(remove for remove, _ in panels))
    columns = [one for one in RECOVERIES if any(recovery == one for _, recovery in panels)]
    methods = dict.fromkeys(name for lines in panels.values() for name in lines)
    looks = {name: mark(i) for i, name in enumerate(methods)}
    with style.styled():
        figure = new_figure(20 + 250 * len(rows))
        grid = figure.subplots(len(rows), len(columns), squeeze=False, sharey="row")
        for i, remove in enumerate(rows):
            for j, recovery in enumerate(columns):
                lines = panels.get((remove, recovery), {})
                title = "as it is" if recovery == "none" else f"after {recovery}"
                _panel(grid[i, j], table, lines, looks, title=title)
                grid[i, j].set_xlabel(f"{remove} that go, %")
            grid[i, 0].set_ylabel("final average accuracy, %")
        for (remove, recovery), lines in panels.items():
            axes = grid[rows.index(remove), columns.index(recovery)]
            ends = {name: (max(line), 100 * line[max(line)].mean) for name, line in lines.items()}
            axes.set_xlim(axes.get_xlim())
            axes.set_ylim(axes.get_ylim())
            name_lines(axes, ends, looks)
    return figure


def _panels(told: Sequence[Told]) -> dict[tuple[str, str], dict[str, Line]]:
    """(What goes, recovery) -> name -> its line, of those that have more points than one."""
    found: dict[tuple[str, str], dict[CompressionSettings, Line]] = {}
    for one in told:
        given = one.way.settings
        is_by_share = one.way.what and given.pattern == "none" and given.quantize == "none"
        accuracy = one.arm.estimate(CLAIMED)
        if not is_by_share or one.way.control != "none" or accuracy is None:
            continue
        same = dataclasses.replace(given, sparsity=0.5)
        lines = found.setdefault((given.remove, given.recovery), {})
        lines.setdefault(same, {})[100 * given.sparsity] = accuracy
    several = [same for lines in found.values() for same, line in lines.items() if len(line) > 1]
    named = {
        panel: {_named(same, several): line for same, line in lines.items() if len(line) > 1}
        for panel, lines in found.items()
    }
    return {panel: lines for panel, lines in named.items() if lines}


def _named(same: CompressionSettings, lines: Iterable[CompressionSettings]) -> str:
    """The method, and of it those settings that are not the default's where another line differs
    in them: one name for a line's like in every panel."""
    alike = [one for one in lines if one.method == same.method]
    told = [same.method]
    for field in fields(same):
        own = getattr(same, field.name)
        if field.name in _OF_PANELS or own == field.default:
            continue
        if any(getattr(one, field.name) != own for one in alike):
            shown = f"{own:g}" if isinstance(own, float) else own
            told.append(f"{field.name} {shown}")
    return ", ".join(told)


def _panel(
    axes: Axes, table: Table, lines: Mapping[str, Line], looks: Mapping[str, Mark], *, title: str
) -> None:
    whole = table.arm(table.uncompressed)
    before = None if whole is None else whole.estimate(CLAIMED)
    if before is not None:
        axes.axhline(100 * before.mean, color=style.MUTED, lw=1, ls=(0, (3, 2)), zorder=0.5)
    for name, line in lines.items():
        look, xs = looks[name], sorted(line)
        ends = [_ends(line[x]) for x in xs]
        if any(low < high for low, high in ends):
            lows, highs = zip(*ends, strict=True)
            axes.fill_between(xs, lows, highs, color=look.colour, alpha=0.13, lw=0)
        ys = [100 * line[x].mean for x in xs]
        drawn = axes.plot(xs, ys, color=look.colour, ls=look.dash, lw=1.6, clip_on=False)[0]
        drawn.set(marker=look.marker, ms=4, mew=0)
    axes.set_title(title)
    tidy(axes)
    axes.margins(x=0.02)
    within(axes)


def size(table: Table) -> Figure | None:
    """Final average accuracy against the bytes of the weight files, with the Pareto front of what
    ships. None where nothing is compressed."""
    told, whole, before = compressions(table), table.arm(table.uncompressed), first_size(table)
    top = None if whole is None else whole.estimate(CLAIMED)
    if not told or whole is None or before is None or top is None:
        return None
    groups = list(dict.fromkeys(one.way.group for one in told))
    colours = {"uncompressed": style.MUTED}
    colours |= {group: mark(i).colour for i, group in enumerate(groups)}
    points = {whole.name: (_mib(before.num_bytes), top)}
    points |= {one.arm.name: _point(one) for one in told}
    hollow = {one.arm.name for one in told if _is_as_large(one)}
    again = {one.arm.name for one in told if one.way.settings.recovery != "none"}
    of = {one.arm.name: one.way.group for one in told} | {whole.name: "uncompressed"}
    looks = {name: Mark(colours[of[name]], "-", "^" if name in again else "o") for name in points}
    ships = {name: (x, y.mean) for name, (x, y) in points.items() if name not in hollow}
    with style.styled():
        figure = new_figure(340)
        axes = figure.add_subplot()
        edge = [(ships[name][0], 100 * ships[name][1]) for name in front(ships)]
        axes.step(*zip(*edge, strict=True), where="post", color=style.MUTED, lw=1.2, ls=(0, (3, 2)))
        for name, (x, y) in points.items():
            _dot(axes, x, y, looks[name], is_hollow=name in hollow)
        for group, colour in colours.items():
            axes.plot([], [], "o", color=colour, label=group)
        axes.set_xlim(left=0)
        axes.set_xlabel("MiB of weight files")
        axes.set_ylabel("final average accuracy, %")
        figure.legend(loc="outside lower center", ncols=len(colours))
        tidy(axes)
        axes.margins(y=0.12)
        within(axes)
        kept = points if len(points) <= _MOST_NAMED else _told_of(told, front(ships))
        named = {name: (x, 100 * y.mean) for name, (x, y) in points.items() if name in kept}
        name_points(axes, named, looks, [*_bars(points), *_steps(edge)])
    return figure


def _bars(points: Mapping[str, tuple[float, Estimate]]) -> list[list[tuple[float, float]]]:
    ends = [(x, _ends(y)) for x, y in points.values()]
    return [[(x, low), (x, high)] for x, (low, high) in ends]


def _steps(edge: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """The level and the upright lines that join the front."""
    found = []
    for one, other in itertools.pairwise(edge):
        corner = (other[0], one[1])
        found += [[one, corner], [corner, other]]
    return found


def _told_of(told: Sequence[Told], edge: Sequence[str]) -> set[str]:
    return {*edge, *(one.arm.name for one in told if one.way.settings.quantize != "none")}


def _point(one: Told) -> tuple[float, Estimate]:
    """(MiB, accuracy); where single weights are zero, what the others fill."""
    num_bytes, nonzero = one.arm.estimate("num_bytes"), one.arm.estimate("nonzero_fraction")
    up = one.arm.estimate(CLAIMED)
    assert num_bytes is not None, "what finished is measured"
    assert nonzero is not None, "what finished is measured"
    assert up is not None, "what finished is scored"
    return _mib(num_bytes.mean * (nonzero.mean if _is_as_large(one) else 1.0)), up


def _is_as_large(one: Told) -> bool:
    """What went of it are single weights, which ship as zeros."""
    return bool(one.way.what) and one.way.settings.remove == "weights"


def _mib(num_bytes: float) -> float:
    return num_bytes / 2**20


def _ends(found: Estimate) -> tuple[float, float]:
    """Of the interval in percent, cut where an accuracy can't be."""
    mean, half = 100 * found.mean, 100 * (found.half_width or 0.0)
    return max(0.0, mean - half), min(100.0, mean + half)


def _dot(axes: Axes, x: float, y: Estimate, look: Mark, *, is_hollow: bool) -> None:
    low, high = _ends(y)
    mean = 100 * y.mean
    drawn = axes.errorbar([x], [mean], [[mean - low], [high - mean]], color=look.colour, lw=1)
    fill = style.SURFACE if is_hollow else look.colour
    drawn[0].set(marker=look.marker, ms=5.5, mfc=fill, clip_on=False)
