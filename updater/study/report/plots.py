"""A study's curves: accuracy over the stream, against cost, and against scratch on everything.

Each takes the table and returns a figure, or None where there is nothing to draw. Bands and bars
are 95 % intervals over seeds (Student's t), and absent with one seed. Called by
`updater.study.report.pictures`.
"""

import itertools
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from updater.report import style
from updater.study.comparison import Estimate
from updater.study.ratios import Curve, over_updates, ratios
from updater.study.report.drawing import (
    Mark,
    marks,
    name_lines,
    name_points,
    new_figure,
    period_ticks,
    tidy,
)
from updater.study.tabulated import Arm, Table


def stream(table: Table) -> Figure | None:
    """Mean accuracy over the periods learnt by then, after the first model and each update. None of
    a replay, of which `served.as_deployed` draws the same with what the gate said."""
    if table.judged:
        return None
    looks = marks(table)
    curves = {
        arm.name: curve for arm in table.arms if arm.name in looks and (curve := over_updates(arm))
    }
    if not curves:
        return None
    with style.styled():
        figure = new_figure(300)
        axes = figure.add_subplot()
        _curves(axes, curves, looks)
        run = next(run for arm in table.arms for run in arm.finished)
        updates = [f"+ {stage.period}" for stage in run.stages[1:]]
        period_ticks(axes, ["first model", *updates])
        axes.set_ylabel("mean accuracy over periods so far, %")
        _name_ends(axes, curves, looks)
    return figure


def ratio(table: Table, scratch: str) -> Figure | None:
    """An update against training from scratch on everything, by the number of past periods: the
    accuracy over all periods learnt by then, and the optimizer steps, each in percent of it.

    None where there is no such arm, or no other.
    """
    looks = marks(table)
    found = ratios(table, scratch)
    drawn = [
        (label, target, curves)
        for name, label, target in _RATIOS
        if (curves := {arm: c for arm, c in found.get(name, {}).items() if arm in looks})
    ]
    if not drawn:
        return None
    with style.styled():
        figure = new_figure(20 + 215 * len(drawn))
        grid = figure.subplots(len(drawn), 1, squeeze=False, sharex=True)
        for axes, (label, target, curves) in zip(grid.flat, drawn, strict=True):
            _curves(axes, curves, looks)
            axes.axhline(100 * target, color=style.MUTED, lw=1, ls=":", zorder=0.5)
            axes.set_ylabel(label)
        grid[-1, 0].set_ylim(bottom=0)
        xs = sorted({x for _, _, curves in drawn for curve in curves.values() for x in curve})
        grid[-1, 0].set_xticks(xs, [str(x) for x in xs])
        grid[-1, 0].set_xlabel("past periods when the update began")
        for axes, (_, _, curves) in zip(grid.flat, drawn, strict=True):
            _name_ends(axes, curves, looks)
    return figure


_RATIOS = (
    ("accuracy", "accuracy, % of scratch", 0.97),
    ("steps", "optimizer steps, % of scratch", 0.2),
)
"""A quantity, its axis, and the dotted line: the targets that this project set itself."""


def _curves(axes: Axes, curves: Mapping[str, Curve], looks: Mapping[str, Mark]) -> None:
    for name, curve in curves.items():
        look, xs = looks[name], list(curve)
        halves = [100 * (e.half_width or 0.0) for e in curve.values()]
        if any(halves):
            lows = [100 * e.mean - half for e, half in zip(curve.values(), halves, strict=True)]
            highs = [100 * e.mean + half for e, half in zip(curve.values(), halves, strict=True)]
            axes.fill_between(xs, lows, highs, color=look.colour, alpha=0.13, lw=0)
        ys = [100 * e.mean for e in curve.values()]
        axes.plot(xs, ys, color=look.colour, ls=look.dash, lw=1.6, marker=look.marker, ms=4, mew=0)
    tidy(axes)
    axes.margins(x=0.02)


def _name_ends(axes: Axes, curves: Mapping[str, Curve], looks: dict[str, Mark]) -> None:
    ends: dict[str, tuple[float, float]] = {}
    for name, curve in curves.items():
        x = max(curve)
        ends[name] = (x, 100 * curve[x].mean)
    axes.set_xlim(axes.get_xlim())
    axes.set_ylim(axes.get_ylim())
    name_lines(axes, ends, looks)


def cost(table: Table) -> Figure | None:
    """Final average accuracy against the wall seconds and the optimizer steps of all updates, with
    the Pareto front: arms that none beats in both. None without a finished arm."""
    looks = marks(table)
    arms = [arm for arm in table.arms if arm.name in looks]
    if not arms:
        return None
    with style.styled():
        figure = new_figure(500)
        for axes, (measure, label) in zip(
            figure.subplots(2, 1),
            (("seconds", "wall seconds of all updates"), ("steps", "optimizer steps")),
            strict=True,
        ):
            _cost_panel(axes, arms, looks, measure)
            axes.set_xlabel(label)
            axes.set_ylabel("final average accuracy, %")
        for axes, measure in zip(figure.axes, ("seconds", "steps"), strict=True):
            _name_costs(axes, arms, looks, measure)
    return figure


def _point(arm: Arm, measure: str) -> tuple[float, Estimate]:
    across, up = arm.estimate(measure), arm.estimate("final_average_accuracy")
    assert across is not None, "only arms that finished are drawn"
    assert up is not None, "only arms that finished are drawn"
    return across.mean, up


def _cost_panel(axes: Axes, arms: Sequence[Arm], looks: Mapping[str, Mark], measure: str) -> None:
    points = {arm.name: _point(arm, measure) for arm in arms}
    edge = front({name: (x, y.mean) for name, (x, y) in points.items()})
    axes.step(
        [points[name][0] for name in edge],
        [100 * points[name][1].mean for name in edge],
        where="post",
        color=style.MUTED,
        lw=1.2,
        ls=(0, (3, 2)),
        zorder=1,
    )
    for name, (x, y) in points.items():
        look = looks[name]
        bar = 0.0 if y.half_width is None else 100 * y.half_width
        axes.errorbar(
            [x], [100 * y.mean], [bar], fmt=look.marker, color=look.colour, ms=6, elinewidth=1.1
        )
    _cost_axis(axes, [x for x, _ in points.values()])
    tidy(axes)
    axes.margins(y=0.12)


def _cost_axis(axes: Axes, costs: Sequence[float]) -> None:
    """By decades where the dearest costs much more than the cheapest that costs anything."""
    some = [cost for cost in costs if cost > 0]
    if some and max(some) > 8 * min(some):
        axes.set_xscale("symlog", linthresh=min(some) / 2, linscale=0.3)
        low, high = (0.0 if 0 in costs else min(some) / 1.6), max(some) * 1.8
        axes.set_xlim(-0.15 * min(some) if 0 in costs else low, high)
        ticks = [0.0, *(m * 10.0**e for e in range(-3, 10) for m in (1, 2, 5))]
        axes.set_xticks([t for t in ticks if low <= t <= high and (t == 0 or t > min(some) / 2)])
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:,.6g}")
        axes.xaxis.set_minor_locator(NullLocator())
    elif some:
        axes.set_xlim(-0.03 * max(some), max(some) * 1.1)


def _name_costs(axes: Axes, arms: Sequence[Arm], looks: dict[str, Mark], measure: str) -> None:
    points, lines = {}, []
    for arm in arms:
        x, y = _point(arm, measure)
        points[arm.name] = (x, 100 * y.mean)
        half = 100 * (y.half_width or 0.0)
        lines.append([(x, 100 * y.mean - half), (x, 100 * y.mean + half)])
    edge = [points[name] for name in front(points)]
    for one, other in itertools.pairwise(edge):
        corner = (other[0], one[1])
        lines += [[one, corner], [corner, other]]
    name_points(axes, points, looks, lines)


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
