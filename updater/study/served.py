"""A replay's picture: what users would have had at each time, and the verdicts that led there.

Called by `updater.study.pictures`.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from updater.report import style
from updater.study.comparison import estimate
from updater.study.drawing import Mark, marks, name_lines, new_figure, period_ticks, tidy
from updater.study.replay import Replayed, replayed
from updater.study.tabulated import Table


def as_deployed(table: Table) -> Figure | None:
    """Mean accuracy that users had over all periods that had closed by then, learnt or not: each
    arm a step line, the mean over seeds. A hollow mark is an update of which not every seed's was
    deployed. None where nothing was replayed."""
    looks = marks(table)
    arms = {
        arm.name: found
        for arm in table.arms
        if arm.name in looks
        and (found := [(run, one) for run in arm.finished if (one := replayed(run)) is not None])
    }
    if not arms:
        return None
    with style.styled():
        figure = new_figure(300)
        axes = figure.add_subplot()
        ends = {}
        for name, found in arms.items():
            means = _means([one for _, one in found])
            flags = [[stage.deployed for stage in run.stages] for run, _ in found]
            _line(axes, means, [all(column) for column in zip(*flags, strict=True)], looks[name])
            if means[-1] is not None:
                ends[name] = (len(means) - 0.5, 100 * means[-1])
        run = next(iter(arms.values()))[0][0]
        period_ticks(axes, ["first model", *(f"+ {stage.period}" for stage in run.stages[1:])])
        axes.set_ylabel("accuracy that users had, %")
        axes.set_xlim(-0.2, len(run.stages) - 0.5)
        axes.set_ylim(axes.get_ylim())
        tidy(axes)
        name_lines(axes, ends, looks)
    return figure


def _means(found: Sequence[Replayed]) -> list[float | None]:
    columns = zip(*(one.had for one in found), strict=True)
    return [_mean([value for value in column if value is not None]) for column in columns]


def _mean(values: Sequence[float]) -> float | None:
    return estimate(values).mean if values else None


def _line(axes: Axes, means: Sequence[float | None], deployed: Sequence[bool], look: Mark) -> None:
    known = [(x, 100 * y) for x, y in enumerate(means) if y is not None]
    xs, ys = [x for x, _ in known], [y for _, y in known]
    axes.step(
        [*xs, xs[-1] + 0.5], [*ys, ys[-1]], where="post", color=look.colour, ls=look.dash, lw=1.6
    )
    for x, y in known:
        fill = look.colour if deployed[x] else style.SURFACE
        axes.plot([x], [y], look.marker, ms=5, mfc=fill, mec=look.colour)
